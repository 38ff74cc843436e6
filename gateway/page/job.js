// A job as a card. Every text of a job reaches the page by textContent.

import { view } from "./viewer.js";
import { hasEnded } from "./watch.js";

const card = document.getElementById("job");
const picture = document.getElementById("picture");

const KINDS = {
  sdxl_image: "SDXL picture",
  image: "WAN picture",
  video: "WAN video",
  image7b: "WAN picture, enhanced",
  video7b: "WAN video, enhanced",
};

export class JobCard {
  #media = null; // which files are shown

  /** `actions`: { cancel, again, edit, remove, useSeed, refresh }, each called with what it is about. */
  constructor(job, actions) {
    this.element = card.content.firstElementChild.cloneNode(true);
    this.actions = actions;
    this.stopping = false;
    this.refreshed = false;
    const on = (name, act) => this.#part(name).addEventListener("click", act);
    on("cancel", () => actions.cancel(this));
    on("again", () => actions.again(this.job));
    on("edit", () => actions.edit(this.job));
    this.#askTwice(this.#part("delete"), () => actions.remove(this));
    this.update(job);
  }

  /** All of a job, or only its state. */
  update(change) {
    this.job = { ...this.job, ...change };
    const { job } = this;
    const ended = hasEnded(job.status);
    this.element.dataset.status = job.status;
    this.element.dataset.id = job.id;
    this.#text("status", statusText(job, this.stopping));
    this.#text("kind", kind(job));
    this.#text("prompt", job.prompt ?? "");
    this.#part("when").dateTime = job.created_at;
    this.tick();
    this.#progress(job, ended);
    this.#text("error", job.status === "failed" ? job.error_message ?? "The job failed." : "");
    this.#showFiles(job);
    this.#showSettings(job);
    this.#part("actions").hidden = !ended;
  }

  /** Times pass. */
  tick() {
    this.#text("when", since(this.job.created_at));
  }

  #part(name) {
    return this.element.querySelector(`.${name}`);
  }

  #text(name, text) {
    const part = this.#part(name);
    if (part.textContent !== text) part.textContent = text;
    if (part.classList.contains("error")) part.hidden = text === "";
  }

  #progress(job, ended) {
    this.#part("running").hidden = ended;
    const bar = this.element.querySelector("progress");
    const cancel = this.#part("cancel");
    cancel.disabled = this.stopping;
    bar.setAttribute("aria-label", statusText(job, this.stopping));
    if (job.status === "pending" || job.status === "queued") {
      bar.max = 1;
      bar.value = 0;
    } else if (job.progress && job.progress.step < job.progress.steps) {
      bar.max = job.progress.steps;
      bar.value = job.progress.step;
    } else {
      bar.removeAttribute("value");
    }
  }

  #showFiles(job) {
    const files = filesOf(job);
    const key = JSON.stringify(files.map((file) => file.url));
    if (key === this.#media) return;
    this.#media = key;
    const media = this.#part("media");
    media.hidden = files.length === 0;
    media.classList.toggle("one", job.format === "image" && files.length === 1);
    media.classList.toggle("video", job.format === "video");
    media.replaceChildren(...(job.format === "video" ? files.map((file) => this.#video(file)) : this.#pictures(files)));
  }

  #pictures(files) {
    const { job } = this;
    const shown = files.map((file, index) => ({
      url: file.url,
      text: files.length > 1 ? `Picture ${index + 1} of ${files.length}: ${job.prompt}` : job.prompt,
      caption: [seedText(file.seed), size(job)].filter(Boolean).join(" · "),
    }));
    return files.map((file, index) => {
      const element = picture.content.firstElementChild.cloneNode(true);
      const image = element.querySelector("img");
      if (job.width && job.height) image.style.setProperty("--ratio", `${job.width} / ${job.height}`);
      image.alt = shown[index].text;
      image.addEventListener("error", () => this.#expired());
      image.src = file.thumbnail_url ?? file.url;
      element.querySelector(".view").addEventListener("click", () => view(shown, index));
      const seed = element.querySelector(".use-seed");
      seed.textContent = seedText(file.seed);
      seed.title = "Use this seed";
      seed.hidden = file.seed == null;
      seed.addEventListener("click", () => this.actions.useSeed(file.seed));
      return element;
    });
  }

  #video(file) {
    const video = document.createElement("video");
    video.controls = video.loop = video.muted = video.playsInline = true;
    video.preload = "metadata";
    video.setAttribute("aria-label", this.job.prompt);
    video.addEventListener("error", () => this.#expired());
    if (file.thumbnail_url) video.poster = file.thumbnail_url;
    video.src = file.url;
    return video;
  }

  /** Links to files run out; new ones come with the job. */
  #expired() {
    if (this.refreshed) return;
    this.refreshed = true;
    this.actions.refresh(this);
  }

  #showSettings(job) {
    const rows = settingsOf(job).filter(([, value]) => value != null && value !== "");
    this.#part("settings").hidden = !hasEnded(job.status) || rows.length === 0;
    const list = this.element.querySelector("dl");
    list.replaceChildren(
      ...rows.flatMap(([name, value]) => {
        const term = document.createElement("dt");
        const text = document.createElement("dd");
        term.textContent = name;
        text.textContent = value;
        return [term, text];
      }),
    );
  }

  #askTwice(button, act) {
    const { textContent: asked } = button;
    const reset = () => {
      button.textContent = asked;
      button.classList.remove("sure");
    };
    button.addEventListener("blur", reset);
    button.addEventListener("click", () => {
      if (button.classList.contains("sure")) return act();
      button.classList.add("sure");
      button.textContent = "Delete for good?";
    });
  }
}

function statusText(job, stopping) {
  if (hasEnded(job.status)) return { completed: "Done", failed: "Failed", cancelled: "Cancelled" }[job.status];
  if (stopping) return "Stopping";
  if (job.status === "pending" || job.status === "queued") return "Waiting for a worker";
  const { progress } = job;
  if (!progress) return "Working";
  const again = progress.attempt > 1 ? `, attempt ${progress.attempt}` : "";
  if (progress.step >= progress.steps) return `Finishing${again}`;
  return `Step ${progress.step} of ${progress.steps}${again}`;
}

function kind(job) {
  const family = job.job_type.replace(/_(fast|high).*$/, "");
  return `${KINDS[family] ?? job.job_type}, ${job.quality}`;
}

function filesOf(job) {
  const files = job.format === "video" ? [job.video] : job.images ?? [];
  return files.filter((file) => file?.url);
}

const seedText = (seed) => (seed == null ? "" : `seed ${seed}`);
const size = (job) => (job.width ? `${job.width} × ${job.height}` : "");

function settingsOf(job) {
  const seconds = (value) => (value == null ? null : `${Number(value).toFixed(1)} s`);
  return [
    ["Job type", job.job_type],
    ["Seeds", job.seeds?.join(", ")],
    ["Size", size(job)],
    ["Frames", job.frame_num == null ? null : `${job.frame_num} at ${job.fps} a second, ${seconds(job.duration)}`],
    ["Steps", job.num_inference_steps],
    ["Guidance", job.guidance_scale],
    ["Sampler", job.scheduler],
    ["Negative prompt", job.negative_prompt],
    ["Enhanced prompt", job.enhanced_prompt],
    ["Generated in", seconds(job.generation_time)],
    ["Adjusted", job.adjustments?.map(adjustment).join("\n")],
    ["Credits", job.credits],
    ["Job", job.id],
  ];
}

function adjustment({ field, requested, used, reason }) {
  const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return `${field}: ${plain(requested)} → ${plain(used)} (${reason})`;
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

function since(moment) {
  const seconds = (Date.parse(moment) - Date.now()) / 1000;
  if (Number.isNaN(seconds)) return "";
  if (seconds > -45) return "just now";
  if (seconds > -3600) return relative.format(Math.round(seconds / 60), "minute");
  if (seconds > -86400) return relative.format(Math.round(seconds / 3600), "hour");
  return relative.format(Math.round(seconds / 86400), "day");
}
