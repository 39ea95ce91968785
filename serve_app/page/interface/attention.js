// Title of the page and notifications, for who looks elsewhere while a request runs.

import { tool } from "./late.js";

const TITLE = "Darkroom";

/** Requests that take longer, in milliseconds, are worth a notification. */
export const LONG_MS = 20_000;

/** True if the browser can show notifications, and was not asked for them yet. */
export function mayAsk() {
  if (!("Notification" in globalThis) || Notification.permission !== "default") return false;
  return "serviceWorker" in navigator || shows();
}

/** Asks the browser for notifications. Call it in a click. */
export async function ask() {
  if ((await Notification.requestPermission()) !== "granted") return;
  await tool("notifications").then(({ worker }) => worker(), () => {}); // `ended` loads it again
}

/** True if pages of this browser can show notifications by themselves. */
function shows() {
  try {
    new Notification(TITLE); // without the permission, it is not shown
    return true;
  } catch {
    return false; // it needs a service worker
  }
}

export class Attention {
  #parts = [];
  #isUnseen = false; // true: something has ended since the page was hidden

  constructor() {
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#isUnseen = false;
      this.#draw();
    });
    navigator.serviceWorker?.addEventListener("message", ({ data }) => (location.hash = data.hash));
    navigator.serviceWorker?.startMessages();
  }

  /** Shows how far the requests are that are not over: parts from 0 to 1. */
  show(parts) {
    this.#parts = parts;
    this.#draw();
  }

  /** Notifies of the end of a request that was submitted `at`, if it took long and no one looks. */
  async ended({ id, at }, prompt) {
    if (!document.hidden) return;
    this.#isUnseen = true;
    this.#draw();
    const isWanted = "Notification" in globalThis && Notification.permission === "granted";
    if (!isWanted || Date.now() - at < LONG_MS) return;
    const notifying = tool("notifications").then(({ notify }) => notify(id, prompt));
    await notifying.catch(() => {}); // the title says it too
  }

  #draw() {
    const all = this.#parts;
    const mean = all.reduce((sum, part) => sum + part, 0) / all.length;
    const many = all.length > 1 ? ` of ${all.length}` : "";
    if (all.length > 0) document.title = `${Math.floor(100 * mean)} %${many} · ${TITLE}`;
    else document.title = this.#isUnseen ? `✓ ${TITLE}` : TITLE;
  }
}
