// Copies text to the clipboard.

/** Copies the text of `node`. */
export async function copyText(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch {
    // Over plain HTTP from another machine the clipboard API is missing, so use the older way.
    getSelection().selectAllChildren(node);
    document.execCommand("copy");
  }
}
