// Dialogs of the gallery.

import { openNew } from "../interface/dialog.js";
import { button, h } from "../interface/element.js";

/** Asks before something that cannot be undone. Resolves to true if the user agrees. */
export function ask(title, sentences, verb) {
  return new Promise((resolve) => {
    const cancel = button("Cancel", () => dialog.close());
    const agree = button(verb, () => dialog.close("agreed"), { class: "main danger" });
    const content = h.div(
      { class: "question" },
      sentences.map((each) => h.p(each)),
      h.div({ class: "buttons" }, agree, cancel),
    );
    const dialog = openNew(title, content);
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "agreed"));
    cancel.focus();
  });
}

/** A number with its noun: 1 file, 2 files. */
export function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
