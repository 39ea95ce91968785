// Modal dialogs of the page.

import { button, freshId, h } from "./element.js";

/** Opens a dialog of the page. */
export function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

/** Dialog in front of all else; null if none is open. Their order in the document says nothing of it. */
export function topmost() {
  const all = [...document.querySelectorAll("dialog[open]")];
  if (all.length < 2) return all[0] ?? null;
  // What a modal dialog covers, also beside it, is found nowhere.
  return document.elementFromPoint(innerWidth / 2, innerHeight / 2)?.closest("dialog") ?? all.at(-1);
}

/** Lets the dialog's button close it and, with `outside`, a click beside it. Escape always does. */
export function makeClosable(dialog, { outside = true } = {}) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  if (!outside) return;
  let pressedBeside = false; // a text that is selected past the edge ends in a click there
  dialog.addEventListener("pointerdown", (event) => {
    pressedBeside = isBeside(dialog, event);
  });
  dialog.addEventListener("click", (event) => {
    if (pressedBeside && isBeside(dialog, event)) dialog.close();
  });
}

/** True for what a pointer does on the backdrop: the target is the dialog on its blank border too. */
function isBeside(dialog, { target, clientX: x, clientY: y }) {
  const { left, right, top, bottom } = dialog.getBoundingClientRect();
  return target === dialog && (x < left || x > right || y < top || y > bottom);
}

/** Opens a new dialog with this title and content, and returns it. It is removed when it closes; by a click
 * beside it too, unless `outside` is false, as where that would lose what was typed. */
export function openNew(title, content, { kind = null, outside = true } = {}) {
  const dialog = dialogOf(title, kind, content);
  dialog.addEventListener("close", () => dialog.remove());
  makeClosable(dialog, { outside });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** New dialog with this title and content, which is not open. */
export function dialogOf(title, kind, content) {
  const id = freshId("dialog");
  return h.dialog(
    { "aria-labelledby": id, class: kind },
    button("×", null, { class: "quiet close", "aria-label": "Close" }),
    h.h2({ id }, title),
    content,
  );
}

/** The `WorkDialog` that is not closed, as `dialog`, or null. */
export const work = { dialog: null };

/** Brings the dialog of a tool in line with the address. True if nothing may change behind it. */
export function followWork(address) {
  if (work.dialog !== null) return work.dialog.follow();
  if (address.now.tool !== null) address.correct({ tool: null }); // what it showed is not known now
  return false;
}

/** Closes the dialog of a tool with what is in it; with `aside`, it comes back with `followWork`. */
export function endWork(address, { aside }) {
  if (aside) return work.dialog?.putAside();
  address.correct({ tool: null });
  work.dialog?.close();
}
