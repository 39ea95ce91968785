// Notifications of the browser, by a service worker where there is one.

import { BASE } from "../client/api.js";

const WORKER = new URL("page/interface/notification_worker.js", BASE).href;

const TAG = "Darkroom"; // a notification replaces the one before it
const ENDED = "Your request has ended";

let starting = null;

/** Registration of the worker, which shows notifications also on phones. Null: there is none. */
export async function worker() {
  starting ??= start().catch(() => (starting = null));
  return await starting;
}

async function start() {
  const registration = await navigator.serviceWorker.register(trusted(WORKER));
  const next = registration.installing ?? registration.waiting;
  if (registration.active === null && next !== null) {
    await new Promise((done, failed) => {
      next.addEventListener("statechange", () => {
        if (next.state === "activated") done();
        else if (next.state === "redundant") failed(new Error("The worker does not start."));
      });
    });
  }
  return registration;
}

/** The only address of a script that code of the page may name. */
function trusted(url) {
  const types = globalThis.trustedTypes;
  if (types === undefined) return url;
  return types.createPolicy("notifications", { createScriptURL: () => WORKER }).createScriptURL(url);
}

/** Notifies of the end of a request, which a click opens. */
export async function notify(id, prompt) {
  const hash = `#request=${encodeURIComponent(id)}`;
  const words = { body: prompt, tag: TAG, data: { url: new URL(hash, BASE).href } };
  const registration = await worker();
  if (registration !== null) return await registration.showNotification(ENDED, words);
  const shown = new Notification(ENDED, words);
  shown.addEventListener("click", () => {
    focus();
    location.hash = hash;
  });
}
