// Follows jobs that have not ended: by a stream of events where one can be had, by asking where not.

import { api } from "./api.js";

// A browser opens six connections to one server, and pictures need some of them.
const STREAMS = 3;
const ASK_MS = 4000;
const RETRY_MS = 15000;

export class Watcher {
  #followed = new Map(); // id -> { source: EventSource | null, opening: bool, retryAt: ms }
  #timer = null;

  /** `changed(id, state)` tells a new state, `ended(id)` that the whole job is to be read again. */
  constructor({ changed, ended }) {
    this.changed = changed;
    this.ended = ended;
    document.addEventListener("visibilitychange", () => document.hidden || this.#turn());
  }

  /** Streams go to those followed first: workers take the oldest job first. */
  follow(id) {
    if (this.#followed.has(id)) return;
    this.#followed.set(id, { source: null, opening: false, retryAt: 0 });
    this.#openStreams();
    this.#timer ??= setInterval(() => this.#turn(), ASK_MS);
  }

  forget(id) {
    this.#followed.get(id)?.source?.close();
    this.#followed.delete(id);
    if (this.#followed.size === 0) {
      clearInterval(this.#timer);
      this.#timer = null;
    } else {
      this.#openStreams();
    }
  }

  forgetAll() {
    for (const id of [...this.#followed.keys()]) this.forget(id);
  }

  #turn() {
    if (document.hidden) return;
    this.#openStreams();
    const unheard = [...this.#followed].filter(([, entry]) => !entry.source).map(([id]) => id);
    if (unheard.length > 0) this.#ask(unheard);
  }

  #openStreams() {
    const entries = [...this.#followed];
    let open = entries.filter(([, entry]) => entry.source || entry.opening).length;
    for (const [id, entry] of entries) {
      if (open >= STREAMS) return;
      if (entry.source || entry.opening || Date.now() < entry.retryAt) continue;
      open += 1;
      this.#open(id, entry);
    }
  }

  async #open(id, entry) {
    entry.opening = true;
    try {
      const { ticket } = await api.ticket(id);
      if (this.#followed.get(id) !== entry) return;
      entry.source = this.#listen(id, entry, ticket);
    } catch {
      entry.retryAt = Date.now() + RETRY_MS;
    } finally {
      entry.opening = false;
    }
  }

  #listen(id, entry, ticket) {
    const source = new EventSource(`jobs/${id}/events?ticket=${ticket}`);
    source.addEventListener("state", (event) => this.changed(id, JSON.parse(event.data)));
    source.addEventListener("bye", (event) => {
      const { reason } = JSON.parse(event.data);
      this.#silenced(entry, 0);
      if (reason === "ended" || reason === "gone") this.#end(id);
    });
    // A ticket opens one stream, so that the browser's own attempt to open it again would fail.
    source.addEventListener("error", () => this.#silenced(entry, RETRY_MS));
    return source;
  }

  #silenced(entry, pause) {
    entry.source?.close();
    entry.source = null;
    entry.retryAt = Date.now() + pause;
  }

  async #ask(ids) {
    try {
      const { jobs } = await api.jobs();
      for (const job of jobs.filter(({ id }) => ids.includes(id) && this.#followed.has(id))) {
        this.changed(job.id, job);
        if (hasEnded(job.status)) this.#end(job.id);
      }
    } catch {
      // The next turn asks again.
    }
  }

  #end(id) {
    this.forget(id);
    this.ended(id);
  }
}

export const hasEnded = (status) => ["completed", "failed", "cancelled"].includes(status);
