// Modal dialogs of the page.

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
