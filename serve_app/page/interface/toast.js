// Words on what was done: heard by screen readers and, where nothing else shows it, seen for a while.

import { topmost } from "./dialog.js";
import { byId, element } from "./element.js";

const SEEN_MS = 6000;
const KNOWN_MS = 100; // screen readers hear no words that a place has when it comes into a dialog

const announcer = byId("announcer");
const toast = element("p", { class: "toast", "aria-hidden": "true", hidden: true });
let words = "";
let fading = null;
let telling = null;

/** Announces `said` to screen readers. */
export function announce(said) {
  words = said;
  clearTimeout(telling);
  const tell = () => (announcer.textContent = words);
  if (place()) telling = setTimeout(tell, KNOWN_MS);
  else tell();
}

/** Announces `said`, and shows it for a while in front of all else. */
export function say(said) {
  announce(said);
  toast.textContent = said;
  toast.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => (toast.hidden = true), SEEN_MS);
}

/** Puts the words into the dialog on top, behind whose back nothing is seen or heard; without a dialog
 * into the page. True if they were elsewhere. */
function place() {
  const host = topmost() ?? document.body;
  if (announcer.parentElement === host && toast.parentElement === host) return false;
  announcer.textContent = "";
  host.append(announcer, toast);
  return true;
}

document.addEventListener(
  "close",
  ({ target }) => {
    // The dialog may be removed now. What is not seen any more is not heard again.
    if (target.contains(announcer)) announce(toast.hidden ? "" : words);
  },
  true, // it does not bubble
);
