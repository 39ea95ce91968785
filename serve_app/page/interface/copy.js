// Copies text to the clipboard.

import { button } from "./element.js";

/** Button that copies the text of `nodeOf()`, an input or any other element, and says so. */
export function copyButton(nodeOf, attributes = {}, words = "Copy") {
  const click = async () => {
    await copyText(nodeOf());
    made.textContent = "Copied";
  };
  const made = button(words, click, attributes);
  return made;
}

async function copyText(node) {
  const typed = node.matches("input, textarea");
  try {
    await navigator.clipboard.writeText(typed ? node.value : node.textContent);
  } catch {
    // Over plain HTTP from another machine the clipboard API is missing, so use the older way.
    if (typed) node.select();
    else getSelection().selectAllChildren(node);
    document.execCommand("copy");
  }
}
