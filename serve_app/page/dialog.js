// What opens over the page.

/** Show a dialog of the page. */
export function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

/** Its button and a click beside it close `dialog`, as Escape does anyway. */
export function makeClosable(dialog) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
