// Repeats a look at the server while the page can be seen.

/** Calls `look()` at `start()`, then `everyMs` after each end, and never while the page is hidden.
 * Without `everyMs` it looks once, when the page is seen. */
export class Refresh {
  #look;
  #everyMs;
  #on = false;
  #timer = null;
  #looking = false;
  #wanted = false; // a look, now
  #seen = () => {
    if (this.#everyMs !== null || this.#wanted) this.now();
  };

  constructor(look, everyMs = null) {
    this.#look = look;
    this.#everyMs = everyMs;
  }

  start() {
    if (this.#on) return;
    this.#on = true;
    document.addEventListener("visibilitychange", this.#seen);
    this.now();
  }

  stop() {
    this.#on = false;
    this.#wanted = false;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#seen);
  }

  /** Looks now, in place of the next time; after the end of a look that is under way, because two
   * answers may come in another order than they were asked for. `look` must not throw. */
  async now() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#wanted = true;
    if (this.#looking) return;
    this.#looking = true;
    while (this.#wanted && !document.hidden) {
      this.#wanted = false;
      await this.#look();
    }
    this.#looking = false;
    if (!this.#on || this.#everyMs === null || document.hidden) return;
    this.#timer = setTimeout(() => this.now(), this.#everyMs);
  }
}
