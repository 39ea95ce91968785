// HTTP client for this Darkroom. It sends the API key with each call.

import * as json from "./json.js";

/** Base URL of Darkroom: the page's own folder, so that it includes the path prefix of a proxy. */
export const BASE = new URL(".", document.baseURI);

const EVENTS = "text/event-stream";

/** Timeout of a stream; longer than the maximum pause between two events (15 s). */
const SILENCE_MS = 40_000;
const CALL_MS = 60_000;
const SLOW_UPLINK = 16; // bytes per millisecond: a larger body has more time
const FILE_MS = 3_600_000;

const PASSED_ON = [502, 504]; // statuses of a proxy that may have passed the call on
const FULL = [429, 503]; // the request was not accepted, and may be later
const REPEATED_MS = 60_000; // the time that a restart of the server may take
const WAITED_MS = 600_000; // for room in the queue
const PAUSES_MS = [500, 1000, 2000, 4000]; // between the tries; then always the last one

const TOO_LARGE = "This request is too large. Use smaller files, or fewer of them.";

/** No response, or a response that is not from Darkroom. A later retry may help. */
export class Unreachable extends Error {
  status; // of a response that is not from Darkroom, if there was one

  /** True if a proxy refused the call, and so did not pass it on. */
  get isRefusal() {
    return this.status >= 400 && this.status < 500;
  }
}

/** Error response of Darkroom. */
export class Refused extends Error {
  constructor(status, body, retryAfter = null) {
    const detail = typeof body.detail === "string" ? body.detail : null;
    super(status === 413 ? TOO_LARGE : (body.message ?? detail ?? `Darkroom answered ${status}.`));
    this.status = status;
    this.body = body;
    /** Milliseconds after which a retry may help, or null. */
    this.retryMs = retryAfter > 0 ? 1000 * Number(retryAfter) : null;
    /** Problems by field: `{loc, msg}`. */
    this.problems = Array.isArray(body.detail) ? body.detail : [];
  }

  /** True if the error is temporary, so that the same call may succeed later. */
  get passing() {
    return this.status >= 500 || this.status === 429;
  }
}

/** Client that dispatches the events `reached`, `unreachable` and `locked` (the key was refused). */
export class Api extends EventTarget {
  #key;

  constructor(key) {
    super();
    this.#key = key;
  }

  /** Key that the calls have, or null. */
  get key() {
    return this.#key.value;
  }

  /** JSON of the response, or null if it has no body. `more`: headers. Throws `Refused` or
   * `Unreachable`. */
  async call(method, path, body, more = {}) {
    const answer = await this.#fetch(method, path, { body, more });
    return await this.#read(answer);
  }

  /** Submits a request. While its answer is lost, the call is repeated with its idempotency key for
   * up to a minute, so that one request comes of it; with `patient`, also while there is no room for
   * it (429, 503), for ten minutes. `waits(error, ms)` is called before each pause; `signal` ends
   * them, but not the call that is on its way. Throws `Refused` or `Unreachable`. */
  async submit(path, body, { key = randomKey(), patient = false, waits, signal } = {}) {
    const more = { "idempotency-key": key };
    let began = null;
    for (let tries = 0; ; tries += 1) {
      try {
        return await this.#read(await this.#fetch("POST", path, { body, more }));
      } catch (error) {
        const isFull = patient && FULL.includes(error.status);
        const ms = Math.max(PAUSES_MS[tries] ?? PAUSES_MS.at(-1), (isFull && error.retryMs) || 0);
        began ??= Date.now();
        const isOver = Date.now() + ms > began + (isFull ? WAITED_MS : REPEATED_MS);
        if (isOver || signal?.aborted || !(isFull || isLost(error))) throw error;
        waits?.(error, ms);
        await pause(ms, signal);
        if (signal?.aborted) throw error;
      }
    }
  }

  /** Text of the response. Throws `Refused` or `Unreachable`. */
  async text(path) {
    const answer = await this.#fetch("GET", path);
    return answer.ok ? await answer.text() : await this.#read(answer);
  }

  /** Events of a stream, until it ends; `control`, an `AbortController`, ends it. With a `body` it is
   * a POST. */
  async *stream(path, control = new AbortController(), body) {
    const still = () => setTimeout(() => control.abort(new Error("No event came.")), SILENCE_MS);
    let timer = still();
    try {
      const method = body === undefined ? "GET" : "POST";
      const more = { accept: EVENTS };
      const answer = await this.#fetch(method, path, { body, more, signal: control.signal });
      if (!answer.ok || !answer.headers.get("content-type")?.startsWith(EVENTS)) {
        yield await this.#read(answer);
        return;
      }
      const text = answer.body.pipeThrough(new TextDecoderStream());
      const heard = () => {
        this.dispatchEvent(new Event("reached")); // also by a stream that was open before a call failed
        clearTimeout(timer);
        timer = still();
      };
      heard();
      for await (const event of events(text, heard)) yield json.parse(event);
    } catch (error) {
      if (error instanceof Refused) throw error;
      throw this.#lost(error);
    } finally {
      clearTimeout(timer);
      control.abort();
    }
  }

  /** File of the response as a `Blob`. Throws `Refused` or `Unreachable`. */
  async file(method, path, body) {
    const answer = await this.#fetch(method, path, { body, within: FILE_MS });
    return answer.ok ? await answer.blob() : await this.#read(answer);
  }

  async #fetch(method, path, { body, within = CALL_MS, signal, more = {} } = {}) {
    const headers = { ...more, authorization: `Key ${this.#key.value ?? ""}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    const given = body === undefined ? undefined : json.write(body);
    const most = within + Math.ceil((given?.length ?? 0) / SLOW_UPLINK);
    signal ??= AbortSignal.timeout(most);
    try {
      return await fetch(new URL(path, BASE), { method, headers, body: given, signal });
    } catch (error) {
      throw this.#lost(error);
    }
  }

  async #read(answer) {
    let body = null;
    try {
      if (answer.status !== 204) body = json.parse(await answer.text());
      if (answer.status === 503 && body?.proxy) throw new Error(body.proxy);
    } catch (error) {
      if (answer.status === 413) throw new Refused(413, {});
      // A proxy that reaches no Darkroom, as while it restarts, or a broken connection.
      throw this.#lost(error, answer.status);
    }
    this.dispatchEvent(new Event("reached"));
    if (answer.ok) return body;
    const refused = new Refused(answer.status, body ?? {}, answer.headers.get("retry-after"));
    if (answer.status === 401) this.dispatchEvent(new Event("locked"));
    throw refused;
  }

  #lost(error, status) {
    // What the page itself has ended says nothing about Darkroom.
    if (error.name !== "AbortError" && !(error instanceof Unreachable))
      this.dispatchEvent(new Event("unreachable"));
    const lost = new Unreachable("Darkroom does not answer.", { cause: error });
    lost.status = status;
    if (lost.isRefusal) lost.message = `A proxy answered ${status}.`;
    return lost;
  }
}

/** Key that no other has. `crypto.randomUUID` is missing where the page has no TLS. */
export function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (each) => each.toString(16).padStart(2, "0")).join("");
}

/** True if the server may have accepted the request, although the page does not know it. */
export function isLost(error) {
  if (error instanceof Refused) return PASSED_ON.includes(error.status);
  return error instanceof Unreachable && !error.isRefusal;
}

/** Resolves after `ms` milliseconds, or when `signal` is aborted. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
    signal?.addEventListener("abort", resolve);
  });
}

/** Data of each server-sent event in a stream of text. `heard()` is called with each part of it. */
async function* events(text, heard) {
  const reader = text.getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      pending += value;
      const parts = pending.split(/\r?\n\r?\n/);
      pending = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5)).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
