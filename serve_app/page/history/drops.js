// Files that are dropped or pasted anywhere on the page: it reads what made them.

const OFF_MS = 300; // a drag is over when the browser tells nothing of it for this time

/** Starts to listen. `take(file)` gets a file that no input of the form has taken. */
export function listenForDrops(take) {
  const root = document.documentElement;
  let timer = null;
  const accept = (event, file) => {
    if (event.defaultPrevented || file === undefined || root.classList.contains("locked")) return;
    event.preventDefault();
    take(file);
  };
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    root.classList.toggle("dragging", !event.defaultPrevented);
    event.preventDefault(); // otherwise the browser leaves the page for the file
    clearTimeout(timer);
    timer = setTimeout(() => root.classList.remove("dragging"), OFF_MS);
  });
  document.addEventListener("drop", (event) => accept(event, event.dataTransfer?.files[0]));
  document.addEventListener("paste", (event) => {
    if (!event.target.closest?.(".media")) accept(event, event.clipboardData?.files[0]);
  });
}
