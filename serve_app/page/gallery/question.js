// Dialogs of the gallery.

import { makeClosable } from "../interface/dialog.js";
import { element, freshId } from "../interface/element.js";

/** Modal dialog with a title and content, which is removed when it closes. `closed` is called
 * then. */
export function showDialog(title, content, { name = "", closed = () => {} } = {}) {
  const id = freshId("dialog-title");
  const dialog = element(
    "dialog",
    { class: `gallery-dialog ${name}`, "aria-labelledby": id },
    element("button", { type: "button", class: "quiet close", "aria-label": "Close" }, "×"),
    element("h2", { id }, title),
    content,
  );
  document.body.append(dialog);
  makeClosable(dialog);
  dialog.addEventListener("close", () => {
    dialog.remove();
    closed(dialog.returnValue);
  });
  dialog.showModal();
  return dialog;
}

/** Asks before something that cannot be undone. Resolves to true if the user agrees. */
export function ask(title, sentences, verb) {
  return new Promise((resolve) => {
    const cancel = element("button", { type: "button", class: "quiet" }, "Cancel");
    const agree = element("button", { type: "button", class: "main danger" }, verb);
    const content = element(
      "div",
      { class: "question" },
      sentences.map((each) => element("p", {}, each)),
      element("div", { class: "buttons" }, agree, cancel),
    );
    const closed = (value) => resolve(value === "agreed");
    const dialog = showDialog(title, content, { closed });
    cancel.addEventListener("click", () => dialog.close());
    agree.addEventListener("click", () => dialog.close("agreed"));
    cancel.focus();
  });
}

/** A number with its noun: 1 file, 2 files. */
export function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
