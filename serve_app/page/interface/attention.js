// Title of the page and notifications, for who looks elsewhere while a request runs.

const TITLE = "Darkroom";

/** Requests that take longer, in milliseconds, are worth a notification. */
export const LONG_MS = 20_000;

/** True if the browser has notifications and was not asked for them yet. */
export function mayAsk() {
  return "Notification" in globalThis && Notification.permission === "default";
}

/** Asks the browser for notifications. Call it in a click. */
export async function ask() {
  await Notification.requestPermission();
}

export class Attention {
  #parts = [];
  #isUnseen = false; // true: something has ended since the page was hidden

  constructor() {
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#isUnseen = false;
      this.#draw();
    });
  }

  /** Shows how far the requests are that are not over: parts from 0 to 1. */
  show(parts) {
    this.#parts = parts;
    this.#draw();
  }

  /** Notifies of the end of a request that was submitted `at`, if it took long and nobody looks. */
  ended(at, prompt) {
    if (!document.hidden) return;
    this.#isUnseen = true;
    this.#draw();
    const isWanted = "Notification" in globalThis && Notification.permission === "granted";
    if (!isWanted || Date.now() - at < LONG_MS) return;
    try {
      const shown = new Notification("Your request has ended", { body: prompt, tag: TITLE });
      shown.addEventListener("click", () => focus());
    } catch {
      // Browsers of phones allow notifications to service workers only.
    }
  }

  #draw() {
    const all = this.#parts;
    const mean = all.reduce((sum, part) => sum + part, 0) / all.length;
    const many = all.length > 1 ? ` of ${all.length}` : "";
    if (all.length > 0) document.title = `${Math.floor(100 * mean)} %${many} · ${TITLE}`;
    else document.title = this.#isUnseen ? `✓ ${TITLE}` : TITLE;
  }
}
