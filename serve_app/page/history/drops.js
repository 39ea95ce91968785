// Files that are dropped or pasted beside the inputs of the form, and results that are dragged while no
// input for them is in sight.

import { topmost } from "../interface/dialog.js";
import { h } from "../interface/element.js";
import { acceptDrops, hasResult, kindOfResult, resultIn } from "../results/drag.js";

const OFF_MS = 300; // a drag is over when the browser tells nothing of it for this time

/** Starts to listen. `take(files)` gets files that no input has taken, `use(result)` a
 * result that was dropped on the place for it. `hasInput(kind)`: an input for it is in sight. */
export function listenForDrops({ take, use, hasInput }) {
  const root = document.documentElement;
  let timer = null;
  const accept = (event, given) => {
    const files = [...(given?.files ?? [])];
    if (event.defaultPrevented || files.length === 0 || root.classList.contains("locked")) return;
    if (isTaken(event)) return;
    event.preventDefault();
    if (!hasResult(given.types)) take(files); // the browser adds a file to a dragged image
  };
  document.addEventListener("dragover", (event) => {
    const types = event.dataTransfer?.types ?? [];
    if (!types.includes("Files") || hasResult(types)) return;
    root.classList.toggle("dragging", !event.defaultPrevented && !isTaken(event));
    if (!isTaken(event)) event.preventDefault(); // otherwise the browser leaves the page for the file
    clearTimeout(timer);
    timer = setTimeout(() => root.classList.remove("dragging"), OFF_MS);
  });
  document.addEventListener("drop", (event) => accept(event, event.dataTransfer));
  document.addEventListener("paste", (event) => {
    const { target, clipboardData: given } = event;
    // Programs add an image to copied text. In a text field, the text is meant.
    const isText = given?.types.includes("text/plain") && target.matches?.("input, textarea");
    if (!target.closest?.(".media") && !isText) accept(event, given);
  });
  offerPlace(use, hasInput);
}

/** True if the browser itself gives the file to the field that it is over. */
function isTaken({ target }) {
  return Boolean(target.closest?.("input[type=file]"));
}

/** Shows a place to drop a result, as long as one is dragged for which no input is in sight. */
function offerPlace(use, hasInput) {
  const place = h.p({ class: "drop-place", "aria-hidden": "true" }, "Drop it here to use it as input");
  acceptDrops(
    place,
    () => true,
    (data) => use(resultIn(data)),
  );
  document.addEventListener("dragstart", ({ dataTransfer }) => {
    const kind = kindOfResult(dataTransfer?.types ?? []);
    if (kind === null || hasInput(kind)) return;
    // After the event: a change of the document in it would end the drag. A modal dialog covers the rest.
    setTimeout(() => (topmost() ?? document.body).append(place));
  });
  document.addEventListener("dragend", () => {
    place.remove();
    place.classList.remove("dropping");
  });
}
