// Puts the page together: who is signed in, the form, the list of jobs.

import { api, token } from "./api.js";
import { Composer, requestOf } from "./compose.js";
import { JobCard } from "./job.js";
import { hasEnded, Watcher } from "./watch.js";

const part = (id) => document.getElementById(id);
const list = part("list");
const cards = new Map();

const watcher = new Watcher({
  changed: (id, { status, progress, error_code, error_message }) =>
    cards.get(id)?.update({ status, progress, error_code, error_message }),
  ended: refresh,
});

const actions = {
  cancel: (card) => attempt(async () => {
    card.stopping = true;
    card.update({});
    try {
      await api.cancel(card.job.id);
    } catch (fault) {
      card.stopping = false;
      card.update({});
      throw fault;
    }
    await refresh(card.job.id);
  }),
  again: (job) => attempt(() => composer.send(requestOf(job))),
  edit: (job) => composer.fill(job),
  remove: (card) => attempt(async () => {
    await api.remove(card.job.id);
    drop(card.job.id);
    announce("Deleted.");
    part("jobs").focus();
  }),
  useSeed: (seed) => {
    composer.useSeed(seed);
    announce(`Seed ${seed} is in the form.`);
  },
  refresh: (card) => refresh(card.job.id),
};

let composer;
let older = null; // where the next page of the list begins
const awaited = new Set(); // jobs whose end is announced

async function start() {
  const config = await api.config();
  part("mode").hidden = !config.demo;
  part("mode").textContent =
    `Demo on this machine: SDXL draws ${config.demo_size} × ${config.demo_size} pixels, WAN ${config.demo_wan_size} × ${config.demo_wan_size}, videos have ${config.demo_frames} frames.`;
  composer = new Composer(config, (job) => {
    const { prompt, num_images } = job.metadata;
    show({ ...job, prompt, num_images, created_at: new Date().toISOString() }, true);
    follow(job);
    announce("Queued.");
    cards.get(job.id).element.scrollIntoView({ block: "nearest" });
  });
  part("sign-out").addEventListener("click", () => signOut());
  window.addEventListener("refused", (event) => signOut(event.detail));
  part("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set(part("token").value.trim());
    part("token").value = "";
    enter(config);
  });
  part("older").addEventListener("click", () => attempt(showOlder));
  setInterval(() => cards.forEach((card) => card.tick()), 30000);
  if (config.demo || token.get()) await enter(config);
  else signOut();
}

async function enter(config) {
  try {
    const page = await api.jobs();
    part("sign-in").hidden = true;
    part("studio").hidden = false;
    part("sign-out").hidden = config.demo;
    add(page);
  } catch (fault) {
    if (fault.status === 401) return;
    part("studio").hidden = false;
    complain(fault.message);
  }
}

function signOut(why = "") {
  token.clear();
  watcher.forgetAll();
  cards.clear();
  list.replaceChildren();
  part("studio").hidden = part("sign-out").hidden = true;
  part("sign-in").hidden = false;
  part("sign-in-error").textContent = why;
  part("sign-in-error").hidden = why === "";
  part("token").focus();
}

async function showOlder() {
  add(await api.jobs(older));
}

function add(page) {
  for (const job of page.jobs) show(job, false);
  for (const job of page.jobs.toReversed()) follow(job);
  older = page.next;
  part("older").hidden = !older;
  part("empty").hidden = cards.size > 0;
}

function show(job, first) {
  const known = cards.get(job.id);
  if (known) {
    known.update(job);
  } else {
    const card = new JobCard(job, actions);
    cards.set(job.id, card);
    if (first) list.prepend(card.element);
    else list.append(card.element);
    part("empty").hidden = true;
  }
}

function follow(job) {
  if (hasEnded(job.status)) return;
  awaited.add(job.id);
  watcher.follow(job.id);
}

/** Read a job again, whole. */
async function refresh(id) {
  try {
    const job = await api.job(id);
    if (!cards.has(id)) return;
    show(job, true);
    follow(job);
    if (!hasEnded(job.status)) return;
    watcher.forget(id);
    if (awaited.delete(id)) announce(outcome(job));
  } catch (fault) {
    if (fault.status === 404) drop(id);
    else if (fault.status !== 401) setTimeout(() => refresh(id), 5000);
  }
}

function drop(id) {
  watcher.forget(id);
  cards.get(id)?.element.remove();
  cards.delete(id);
  part("empty").hidden = cards.size > 0;
}

function outcome(job) {
  if (job.status === "completed") return "Done.";
  return job.status === "failed" ? `Failed: ${job.error_message ?? ""}` : "Cancelled.";
}

async function attempt(act) {
  try {
    complain("");
    await act();
  } catch (fault) {
    if (fault.status !== 401) complain(fault.message);
  }
}

function complain(sentence) {
  part("jobs-error").textContent = sentence;
  part("jobs-error").hidden = sentence === "";
}

function announce(sentence) {
  part("announce").textContent = sentence;
}

start().catch((fault) => {
  part("studio").hidden = false;
  complain(fault.message);
});
