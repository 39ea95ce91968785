// HTTP client for this Darkroom. It sends the API key with each call.

import * as json from "./json.js";

/** Base URL of Darkroom: the page's own folder, so that it includes the path prefix of a proxy. */
export const BASE = new URL(".", document.baseURI);

/** Timeout of a stream; longer than the maximum pause between two events (15 s). */
const SILENCE_MS = 40_000;
const CALL_MS = 60_000;
const SLOW_UPLINK = 16; // bytes per millisecond: a larger body has more time
const FILE_MS = 3_600_000;

const TOO_LARGE =
  "This request is larger than this Darkroom accepts. Use smaller files, or fewer of them.";

/** No response, or a response that is not from Darkroom. A later retry may help. */
export class Unreachable extends Error {}

/** Error response of Darkroom. */
export class Refused extends Error {
  constructor(status, body) {
    const detail = typeof body.detail === "string" ? body.detail : null;
    super(status === 413 ? TOO_LARGE : (body.message ?? detail ?? `Darkroom answered ${status}.`));
    this.status = status;
    this.body = body;
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

  /** JSON of the response, or null if it has no body. Throws `Refused` or `Unreachable`. */
  async call(method, path, body) {
    const answer = await this.#fetch(method, path, { body });
    return await this.#read(answer);
  }

  /** Image of the response as a `Blob`; null if there is none. */
  async image(path) {
    const answer = await this.#fetch("GET", path);
    return answer.status === 200 ? await answer.blob() : null;
  }

  /** Text of the response. Throws `Refused` or `Unreachable`. */
  async text(path) {
    const answer = await this.#fetch("GET", path);
    return answer.ok ? await answer.text() : await this.#read(answer);
  }

  /** Events of a stream, until it ends. */
  async *stream(path) {
    const silence = new AbortController();
    const still = () => setTimeout(() => silence.abort(), SILENCE_MS);
    let timer = still();
    try {
      const answer = await this.#fetch("GET", path, { signal: silence.signal });
      if (!answer.ok || !/^text\/event-stream/.test(answer.headers.get("content-type") ?? "")) {
        yield await this.#read(answer);
        return;
      }
      const text = answer.body.pipeThrough(new TextDecoderStream());
      for await (const event of events(text)) {
        clearTimeout(timer);
        timer = still();
        yield json.parse(event);
      }
    } catch (error) {
      if (error instanceof Refused) throw error;
      throw this.#lost(error);
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }

  /** File of the response as a `Blob`. Throws `Refused` or `Unreachable`. */
  async file(method, path, body) {
    const answer = await this.#fetch(method, path, { body, within: FILE_MS });
    return answer.ok ? await answer.blob() : await this.#read(answer);
  }

  async #fetch(method, path, { body, within = CALL_MS, signal } = {}) {
    const headers = { authorization: `Key ${this.#key.value ?? ""}` };
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
    } catch (error) {
      // The page of a proxy, or a broken connection.
      throw this.#lost(error);
    }
    this.dispatchEvent(new Event("reached"));
    if (answer.ok) return body;
    const refused = new Refused(answer.status, body ?? {});
    if (answer.status === 401) this.dispatchEvent(new Event("locked"));
    throw refused;
  }

  #lost(error) {
    this.dispatchEvent(new Event("unreachable"));
    return new Unreachable("Darkroom does not answer.", { cause: error });
  }
}

/** Data of each server-sent event in a stream of text. */
async function* events(text) {
  const reader = text.getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
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
