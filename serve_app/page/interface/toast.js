// Words on what was done: heard by screen readers and, where nothing else shows it, seen for a while.

import { topmost } from "./dialog.js";
import { button, byId, h } from "./element.js";

const SEEN_MS = 6000;
const OFFERED_MS = 20_000; // with a button, which takes longer to find and to reach
const KNOWN_MS = 100; // screen readers hear no words that a place has when it comes into a dialog

const announcer = byId("announcer");
const seen = h.span({ "aria-hidden": "true" }); // screen readers hear them from the announcer
const toast = h.div({ class: "toast", hidden: true }, seen);
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

/** Announces `said`, and shows it for a while in front of all else; with `offer`, `{name, call}`, beside
 * a button, which is there as long as the user is at it. */
export function say(said, offer = null) {
  announce(said);
  const click = () => {
    toast.hidden = true;
    offer.call();
  };
  seen.textContent = said;
  toast.replaceChildren(seen, ...(offer ? [button(offer.name, click)] : []));
  toast.hidden = false;
  fade(offer ? OFFERED_MS : SEEN_MS);
}

function fade(after) {
  clearTimeout(fading);
  fading = setTimeout(() => {
    if (toast.querySelector("button:is(:hover, :focus)")) fade(SEEN_MS);
    else toast.hidden = true;
  }, after);
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
