// Keyboard shortcuts, and the dialog that lists them.

import { byId } from "./element.js";
import { makeClosable, open } from "./dialog.js";

const MAC = /Mac|iP(hone|ad)/.test(navigator.platform);

/** Starts to listen. `act` has `generate()`, `draft()` and the `form`. */
export function listenForShortcuts(act) {
  for (const each of document.querySelectorAll("kbd.command")) each.textContent = MAC ? "⌘" : "Ctrl";
  makeClosable(byId("shortcuts"));
  byId("shortcuts-button").addEventListener("click", () => open(byId("shortcuts")));
  const actions = {
    "/": () => act.form.focus(),
    m: () => byId("model").focus(),
    r: () => byId("requests").querySelector("[tabindex='0']")?.focus(),
    "?": () => open(byId("shortcuts")),
  };
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || !byId("work").checkVisibility()) return;
    const command = event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && command) {
      event.preventDefault();
      if (event.shiftKey) act.draft();
      else act.generate();
    }
    const typing = event.target.matches("input, textarea, select, [contenteditable]");
    const action = actions[event.key];
    if (command || event.altKey || typing || action === undefined) return;
    event.preventDefault();
    action();
  });
}
