// Copies text to the clipboard.

/** Copies the text of `node`, an input or any other element. */
export async function copyText(node) {
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
