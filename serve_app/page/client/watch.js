// Follows a request by fal's queue protocol until it ends, even if the server restarts.

import { pause, Refused } from "./api.js";

/** Limit of streams of requests. A browser opens six connections to a server, for all of its windows together:
 * each has two other streams, and other calls need some. */
const MOST_STREAMS = 1;
const POLL_MS = 1800; // after this pause Darkroom answers at once instead of holding the connection
const LEAST_PAUSE_MS = 100;
const MOST_PAUSE_MS = 5000;

/** Requests that are polled at the full rate. With more, each that waits is polled less often. */
const MANY = 8;

let streams = 0;
let followed = 0;

/** Path of an endpoint's id in a URL: its slashes stay. */
export function endpointPath(id) {
  return id.split("/").map(encodeURIComponent).join("/");
}

/** Path of a request's calls, relative to the base URL. */
export function requestPath(endpoint, id) {
  return `queue/${endpointPath(endpoint)}/requests/${encodeURIComponent(id)}`;
}

/** Request of `/v1/requests`, as the page knows those that it has submitted. */
export function submitted({ request_id: id, endpoint_id: endpoint, input, created_at: at }) {
  return { id, endpoint, input, at: Date.parse(at) };
}

/**
 * Calls `tell` with each update of a request. While it is `queued` or `running`, the update is
 * `{phase, status}`. At the end it is `{phase, status, output}` or
 * `{phase, status, error: {message, type, problems}}`; the phase is then the final state, or `lost`
 * if Darkroom does not know the request. It waits while the form for the key is open: each call with a key that
 * is not valid counts as a failed login.
 */
export class Watch {
  #api;
  #store;
  #id;
  #path;
  #tell;
  #stopped = false;

  constructor({ api, store }, { id, endpoint }, tell) {
    this.#api = api;
    this.#store = store;
    this.#id = id;
    this.#path = requestPath(endpoint, id);
    this.#tell = tell;
  }

  async follow() {
    followed += 1;
    try {
      await this.#follow();
    } finally {
      followed -= 1;
    }
  }

  async #follow() {
    let failures = 0;
    while (!this.#stopped) {
      try {
        for await (const status of this.#statuses()) {
          failures = 0;
          if (this.#stopped) return;
          if (status.status === "COMPLETED") return this.#tell(endOf(status));
          this.#tell({ phase: status.status === "IN_QUEUE" ? "queued" : "running", status });
        }
      } catch (error) {
        if (this.#stopped) return;
        if (isLost(error))
          return this.#tell({ phase: "lost", error: { message: error.message, problems: [] } });
        failures += 1;
      }
      await pause(Math.min(MOST_PAUSE_MS, LEAST_PAUSE_MS * 2 ** failures));
      while (this.#store.locked.peek()) await pause(POLL_MS);
    }
  }

  stop() {
    this.#stopped = true;
  }

  async cancel() {
    try {
      await this.#api.call("PUT", `${this.#path}/cancel`);
    } catch (error) {
      const ended = error instanceof Refused && error.body.status === "ALREADY_COMPLETED";
      if (!ended) throw error;
    }
  }

  async *#statuses() {
    if (streams >= MOST_STREAMS || document.hidden) {
      const status = await this.#api.call("GET", `${this.#path}/status?${inline()}`);
      yield status;
      const rarely = status.status === "IN_QUEUE" ? Math.max(1, followed / MANY) : 1;
      await this.#store.changes.next(this.#id, POLL_MS * rarely);
      return;
    }
    const control = new AbortController();
    const hide = () => control.abort();
    document.addEventListener("visibilitychange", hide);
    streams += 1;
    try {
      yield* this.#api.stream(`${this.#path}/status/stream?${inline()}`, control);
    } finally {
      streams -= 1;
      document.removeEventListener("visibilitychange", hide);
    }
  }
}

/** What a status has beside itself. Previews are made only on request: a hidden page requests none. */
function inline() {
  return document.hidden ? "result=1" : "result=1&previews=1";
}

/** Update for a status that says that the request has ended. Throws `Refused` if its files could not be
 * read, which passes. */
function endOf(status) {
  const { status: code, body } = status.result;
  const phase = status.darkroom.state;
  if (code < 400) return { phase, status, output: body };
  const refused = new Refused(code, body);
  if (!status.error && refused.passing) throw refused;
  const problems = phase === "cancelled" ? [] : refused.problems;
  const error = { message: status.error ?? refused.message, type: body.error_type, problems };
  return { phase, status, error };
}

/** `{output}` or `{error}` of a request that has ended. */
export async function resultOf(api, path) {
  try {
    return { output: await api.call("GET", path) };
  } catch (error) {
    if (!(error instanceof Refused) || error.passing || error.status === 401) throw error;
    return {
      error: { message: error.message, type: error.body.error_type, problems: error.problems },
    };
  }
}

function isLost(error) {
  if (!(error instanceof Refused)) return false;
  return error.body.status === "NOT_FOUND" || error.status === 403;
}
