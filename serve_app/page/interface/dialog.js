// Modal dialogs of the page.

import { element, freshId } from "./element.js";

/** Opens a dialog of the page. */
export function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

/** Lets the dialog's button and a click outside close it. Escape always does. */
export function makeClosable(dialog) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

/** Opens a new dialog with this title and content, and returns it. It is removed when it closes. */
export function openNew(title, kind, ...content) {
  const id = freshId("dialog");
  const dialog = element(
    "dialog",
    { "aria-labelledby": id, class: kind, close: () => dialog.remove() },
    element("button", { type: "button", class: "quiet close", "aria-label": "Close" }, "×"),
    element("h2", { id }, title),
    content,
  );
  makeClosable(dialog);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
