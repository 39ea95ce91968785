// Changes of the tenant's requests and of the replicas, as the server tells them.

import { batch, effect, signal } from "../vendored/signals.js";
import { pause, Refused } from "./api.js";

const AGAIN_MS = 2000;

/** Requests that may have changed: all. */
const ANY = { has: () => true, of: () => null };

/** Requests that changed: `entries` are `{request_id, state, request}`. */
class Changed {
  #entries;

  constructor(entries) {
    this.#entries = new Map(entries.map((entry) => [entry.request_id, entry]));
  }

  has(id) {
    return this.#entries.has(id);
  }

  /** `requests`, newest first, after these changes. Null if they are to be listed anew. */
  of(requests) {
    const entries = [...this.#entries.values()];
    if (entries.some(({ state, request }) => state !== null && request === undefined)) return null;
    const kept = requests.filter(({ request_id: id }) => !this.has(id));
    const all = [...kept, ...entries.flatMap(({ request }) => request ?? [])];
    return all.sort((one, other) => (one.request_id < other.request_id ? 1 : -1)); // ids grow
  }
}

/** Follows `v1/events` while it is started and the page can be seen: a browser opens six connections to a
 * server, for all of its tabs together. */
export class Changes {
  /** The requests that changed last: `has(id)`, and `of(requests)`, which applies the changes. A new
   * object for each change. */
  requests = signal({ ...ANY });
  /** A new object for each change of a replica or of the weights that it holds. */
  replicas = signal({});
  /** True while the server tells each change. */
  live = signal(false);
  #api;
  #on = false;
  #control = null; // ends the stream that is open

  constructor(api) {
    this.#api = api;
    document.addEventListener("visibilitychange", () => this.#turn());
  }

  start() {
    this.#on = true;
    this.#turn();
  }

  stop() {
    this.#on = false;
    this.#turn();
  }

  /** Waits for a change of the request `id` or of a replica, for up to `ms` milliseconds. */
  async next(id, ms) {
    const [requests, replicas] = [this.requests.peek(), this.replicas.peek()];
    let done;
    let timer;
    await new Promise((resolve) => {
      timer = setTimeout(resolve, ms);
      done = effect(() => {
        const ids = this.requests.value;
        if ((ids !== requests && ids.has(id)) || this.replicas.value !== replicas) resolve();
      });
    });
    clearTimeout(timer);
    done();
  }

  #turn() {
    const wanted = this.#on && !document.hidden;
    if (wanted === (this.#control !== null)) return;
    this.#control?.abort();
    this.#control = wanted ? new AbortController() : null;
    if (wanted) this.#follow(this.#control);
    else this.live.value = false;
  }

  async #follow(control) {
    const isOver = () => this.#control !== control;
    while (!isOver()) {
      try {
        for await (const { requests, complete } of this.#api.stream("v1/events?expand=request", control)) {
          if (isOver()) return;
          batch(() => {
            this.live.value = true;
            if (requests === undefined) this.replicas.value = {};
            else if (complete) this.requests.value = new Changed(requests);
            else this.#missed();
          });
        }
      } catch (error) {
        if (error instanceof Refused && !error.passing) return; // the key may not follow
      }
      if (isOver()) return;
      batch(() => {
        if (this.live.value) this.#missed();
        this.live.value = false;
      });
      await pause(AGAIN_MS);
    }
  }

  #missed() {
    this.requests.value = { ...ANY };
    this.replicas.value = {};
  }
}
