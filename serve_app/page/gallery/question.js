// Dialogs of the gallery.

import { dialogOf, makeClosable } from "../interface/dialog.js";
import { button, element } from "../interface/element.js";

/** Modal dialog with a title and content, which is removed when it closes. `closed` is called
 * then. */
export function showDialog(title, content, { closed = () => {} } = {}) {
  const dialog = dialogOf(title, null, content);
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
    const cancel = button("Cancel", () => dialog.close());
    const agree = button(verb, () => dialog.close("agreed"), { class: "main danger" });
    const content = element(
      "div",
      { class: "question" },
      sentences.map((each) => element("p", {}, each)),
      element("div", { class: "buttons" }, agree, cancel),
    );
    const closed = (value) => resolve(value === "agreed");
    const dialog = showDialog(title, content, { closed });
    cancel.focus();
  });
}

/** A number with its noun: 1 file, 2 files. */
export function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
