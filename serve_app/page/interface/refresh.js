// Repeats a look at the server while the page can be seen.

import { effect, untracked } from "../vendored/signals.js";

/** Time until the next look at what may end without a change of a request. */
export const SOON_MS = 800;

const LEAST_MS = 400; // between the looks that changes cause
const LIVE = 4; // times as long between two looks, while the server tells each change

/**
 * Calls `look()` at `start()`, and never while the page is hidden: again `everyMs` after each end, or
 * after the milliseconds that it returned. With `changes`, also at each change of its signals `of`, unless
 * `take(changed)` says that it has applied those of requests; while the server tells them, the time between
 * two looks is longer. Without `everyMs` it looks once, when the page is seen, and after the milliseconds
 * that it returned. `look` must not throw.
 */
export class Refresh {
  #look;
  #everyMs;
  #changes;
  #of;
  #take;
  #on = false;
  #timer = null;
  #looking = false;
  #wanted = false; // a look, now
  #pauseMs; // that the last look returned, if it did
  #last = 0; // when it looked last
  #ignore = () => {}; // ends the effect of the changes
  #seen = () => {
    if (this.#everyMs !== null || this.#wanted) this.now();
  };

  constructor(look, everyMs = null, changes = null, { of = ["requests"], take = null } = {}) {
    this.#look = look;
    this.#everyMs = everyMs;
    this.#changes = changes;
    this.#of = changes === null ? [] : of;
    this.#take = take;
  }

  /** Begins with a look; `later`, after the time between two of them. */
  start({ later = false } = {}) {
    if (this.#on) return;
    this.#on = true;
    document.addEventListener("visibilitychange", this.#seen);
    let isFirst = true;
    this.#ignore = effect(() => {
      for (const name of this.#of) this.#changes[name].value;
      if (!isFirst) untracked(() => this.#soon());
      isFirst = false;
    });
    if (later) this.#wait();
    else this.now();
  }

  stop() {
    this.#on = false;
    this.#wanted = false;
    clearTimeout(this.#timer);
    this.#ignore();
    document.removeEventListener("visibilitychange", this.#seen);
  }

  /** Looks now, in place of the next time; after the end of a look that is under way, because two
   * answers may come in another order than they were asked for. */
  async now() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#wanted = true;
    if (this.#looking) return;
    this.#looking = true;
    while (this.#wanted && !document.hidden) {
      this.#wanted = false;
      this.#last = Date.now();
      this.#pauseMs = await this.#look();
    }
    this.#looking = false;
    this.#wait();
  }

  /** Looks soon because of a change: many of them cause few looks. */
  #soon() {
    if (this.#looking) {
      this.#wanted = true;
      return;
    }
    if (this.#take?.(this.#changes.requests.peek())) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.now(), Math.max(0, this.#last + LEAST_MS - Date.now()));
  }

  #wait() {
    if (!this.#on || this.#looking || document.hidden) return;
    clearTimeout(this.#timer);
    const factor = this.#changes?.live.peek() ? LIVE : 1;
    const pauseMs = this.#pauseMs ?? (this.#everyMs && factor * this.#everyMs);
    if (pauseMs !== null) this.#timer = setTimeout(() => this.now(), pauseMs);
  }
}
