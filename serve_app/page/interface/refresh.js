// Repeats a look at the server while the page can be seen.

/** Calls `look()` at `start()`, then `everyMs` after each end, and never while the page is hidden.
 * Without `everyMs` it looks once. */
export class Refresh {
  #look;
  #everyMs;
  #on = false;
  #timer = null;
  #seen = () => this.now();

  constructor(look, everyMs = null) {
    this.#look = look;
    this.#everyMs = everyMs;
  }

  start() {
    if (this.#on) return;
    this.#on = true;
    if (this.#everyMs !== null) document.addEventListener("visibilitychange", this.#seen);
    this.now();
  }

  stop() {
    this.#on = false;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#seen);
  }

  /** Looks now, in place of the next time. `look` must not throw. */
  async now() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (document.hidden) return;
    await this.#look();
    if (!this.#on || this.#everyMs === null || document.hidden) return;
    clearTimeout(this.#timer); // two looks may have run at the same time
    this.#timer = setTimeout(() => this.now(), this.#everyMs);
  }
}
