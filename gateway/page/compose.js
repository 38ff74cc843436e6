// The form: what is asked for, as the request that queue-job takes.

import { api, ApiError, randomKey } from "./api.js";

const form = document.getElementById("request");
const fields = form.elements;
const prompt = document.getElementById("prompt");
const negative = document.getElementById("negative");
const seed = document.getElementById("seed");
const pictures = document.getElementById("pictures");
const error = document.getElementById("request-error");
const summary = document.getElementById("summary");
const send = form.querySelector("[type=submit]");
const enhance = document.getElementById("enhance");
const compare = document.getElementById("enhanced");
const examples = document.getElementById("examples");

const MAX_SEED = Number.MAX_SAFE_INTEGER;
const EXAMPLES = {
  image: ["a red circle on a white background", "a blue star on a yellow background"],
  video: ["a red circle moving right on a black background"],
};

export class Composer {
  #config;
  #queued;
  // A request whose outcome is unknown is sent again under its key, so that it is queued once.
  #unclear = new Map();

  /** `queued(job)` is told each job that was taken. */
  constructor(config, queued) {
    this.#config = config;
    this.#queued = queued;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    form.addEventListener("input", () => this.#shown());
    form.addEventListener("change", () => this.#offerExamples());
    prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#submit();
    });
    enhance.addEventListener("click", () => this.#enhance());
    document.getElementById("use-enhanced").addEventListener("click", () => {
      prompt.value = document.getElementById("enhanced-text").textContent;
      this.#closeComparison();
    });
    document.getElementById("keep-mine").addEventListener("click", () => this.#closeComparison());
    this.#offerExamples();
    this.#shown();
  }

  /** Sends a request of queue-job. Raises ApiError. */
  async send(request) {
    const body = JSON.stringify(request);
    const key = this.#unclear.get(body) ?? randomKey();
    this.#unclear.set(body, key);
    try {
      const { job } = await api.queue(request, key);
      this.#unclear.delete(body);
      this.#queued(job);
    } catch (fault) {
      if (!(fault instanceof ApiError && fault.passes)) this.#unclear.delete(body);
      throw fault;
    }
  }

  /** Fills the form from a job. */
  fill(job) {
    const type = this.#config.job_types.find(({ job_type }) => job_type === job.job_type);
    if (type) {
      choose("make", `${type.family} ${type.medium}`);
      choose("quality", type.quality);
      fields.enhanced.checked = type.enhanced;
    }
    choose("count", String(job.num_images));
    prompt.value = job.prompt;
    negative.value = job.requested_negative_prompt ?? "";
    this.useSeed(seedOf(job) ?? "");
    prompt.focus();
    prompt.scrollIntoView({ block: "center" });
  }

  useSeed(value) {
    seed.value = value;
    this.#shown();
  }

  get #type() {
    const [family, medium] = fields.make.value.split(" ");
    const enhanced = family === "wan" && fields.enhanced.checked;
    return this.#config.job_types.find(
      (type) =>
        type.family === family &&
        type.medium === medium &&
        type.quality === fields.quality.value &&
        type.enhanced === enhanced,
    );
  }

  #count(type) {
    return type.medium === "video" ? 1 : Number(fields.count.value);
  }

  #shown() {
    const type = this.#type;
    pictures.hidden = type.medium === "video";
    document.getElementById("worker-enhances").hidden = type.family !== "wan";
    const { demo, demo_size, demo_wan_size, demo_frames } = this.#config;
    const side = type.family === "wan" ? demo_wan_size : demo_size;
    const frames = type.medium === "video" ? `, ${demo_frames} frames` : "";
    const credits = type.credits * this.#count(type);
    summary.textContent = demo
      ? `Demo: ${side} × ${side} pixels${frames}.`
      : `${credits} ${credits === 1 ? "credit" : "credits"}. About ${type.expected_seconds} s once a worker begins.`;
  }

  async #submit() {
    if (send.disabled) return;
    const fault = this.#fault();
    if (fault) return this.#complain(...fault);
    this.#complain(null, "");
    send.disabled = true;
    try {
      await this.send(this.#request());
      compare.hidden = true;
    } catch (failure) {
      this.#complain(failure.code === "content_refused" ? prompt : null, failure.message);
    } finally {
      send.disabled = false;
    }
  }

  #request() {
    const type = this.#type;
    const metadata = { prompt: prompt.value.trim() };
    metadata.num_images = this.#count(type);
    if (negative.value.trim()) metadata.negative_prompt = negative.value.trim();
    if (seed.value.trim()) metadata.seed = Number(seed.value);
    return { jobType: type.job_type, metadata };
  }

  #fault() {
    if (!prompt.value.trim()) return [prompt, "Write a prompt first."];
    const wanted = seed.value.trim();
    if (wanted && !(/^\d+$/.test(wanted) && Number(wanted) <= MAX_SEED)) {
      return [seed, `A seed is a whole number from 0 to ${MAX_SEED}.`];
    }
    return null;
  }

  #complain(field, sentence) {
    for (const each of [prompt, seed]) each.setAttribute("aria-invalid", each === field);
    error.textContent = sentence;
    error.hidden = sentence === "";
    field?.focus();
  }

  async #enhance() {
    if (!prompt.value.trim()) return this.#complain(prompt, "Write a prompt first.");
    this.#complain(null, "");
    enhance.disabled = true;
    try {
      const result = await api.enhance(prompt.value.trim(), this.#type.job_type);
      const put = (id, text) => (document.getElementById(id).textContent = text);
      put("original-text", result.originalPrompt);
      put("original-tokens", `${result.tokenCount.original} tokens`);
      put("enhanced-text", result.enhancedPrompt);
      put("enhanced-tokens", `${result.tokenCount.compressed} tokens`);
      compare.hidden = false;
    } catch (failure) {
      this.#complain(failure.code === "content_refused" ? prompt : null, failure.message);
    } finally {
      enhance.disabled = false;
    }
  }

  #closeComparison() {
    compare.hidden = true;
    prompt.focus();
  }

  #offerExamples() {
    examples.hidden = !this.#config.demo;
    examples.replaceChildren(...EXAMPLES[this.#type.medium].map(example));
  }
}

function example(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", () => {
    prompt.value = text;
    prompt.focus();
  });
  return button;
}

/** The seed that a job used, or was asked to use. */
export const seedOf = (job) => job.seeds?.[0] ?? job.seed;

/** The request that a job was made from, with its seed. */
export function requestOf(job) {
  const metadata = { prompt: job.prompt, num_images: job.num_images };
  if (job.requested_negative_prompt) metadata.negative_prompt = job.requested_negative_prompt;
  if (seedOf(job) != null) metadata.seed = seedOf(job);
  return { jobType: job.job_type, metadata };
}

function choose(name, value) {
  for (const option of fields[name]) option.checked = option.value === value;
}
