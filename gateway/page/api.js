// The gateway's HTTP interface. Whatever fails becomes an ApiError with a sentence for the user; a token that
// is not accepted (any more) is told to the window as well, whoever asked.

const TOKEN = "access-token";

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  clear: () => sessionStorage.removeItem(TOKEN),
};

export class ApiError extends Error {
  constructor(status, code, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter; // seconds
  }

  /** Whether the very same request may succeed later; its outcome may be unknown. */
  get passes() {
    return this.status === 0 || this.status >= 500;
  }
}

async function call(method, path, body, headers = {}) {
  const bearer = token.get();
  if (bearer) headers = { ...headers, Authorization: `Bearer ${bearer}` };
  if (body !== undefined) headers = { ...headers, "Content-Type": "application/json" };
  let answer, text;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    text = await answer.text();
  } catch {
    throw new ApiError(0, "unreachable", "The gateway does not answer. Check the connection and try again.");
  }
  const document = parsed(text);
  if (answer.ok) return document;
  if (answer.status === 401) window.dispatchEvent(new CustomEvent("refused", { detail: document?.error ?? "" }));
  const sentence = document?.error ?? `The gateway answered with status ${answer.status}.`;
  const wait = Number(answer.headers.get("Retry-After")) || null;
  throw new ApiError(answer.status, document?.code ?? "unknown", sentence, wait);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export const api = {
  config: () => call("GET", "config"),
  jobs: (before = null) => call("GET", before ? `jobs?before=${encodeURIComponent(before)}` : "jobs"),
  job: async (id) => (await call("GET", `jobs/${id}`)).job,
  cancel: (id) => call("DELETE", `jobs/${id}`),
  remove: (id) => call("DELETE", `jobs/${id}/files`),
  ticket: (id) => call("POST", `jobs/${id}/events/ticket`),
  enhance: (prompt, jobType) => call("POST", "functions/v1/enhance-prompt", { prompt, jobType }),
  queue: (request, key) => call("POST", "functions/v1/queue-job", request, { "Idempotency-Key": key }),
};

/** A random key; crypto.randomUUID is missing where the page is served without TLS. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
