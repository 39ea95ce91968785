// Results that are dragged to an input of the form.

import { h } from "../interface/element.js";

const TYPE = "application/x-darkroom-file";

/** Lets `node`, which shows `file`, be dragged to an input. */
export function makeDraggable(node, file) {
  node.addEventListener("dragstart", ({ dataTransfer }) => {
    const { input, url, type, kind, name } = file; // its URL may have changed
    dataTransfer.setData(TYPE, JSON.stringify({ url: input ?? url, type, kind, name }));
    dataTransfer.setData(`${TYPE}.${kind}`, ""); // a drag says its types, but not yet its data
    dataTransfer.effectAllowed = "copyLink";
  });
}

/** Handle for a file whose player or viewer needs the drags itself. Keys and fingers have the button
 * “Use as input”. */
export function dragHandle(file) {
  const handle = h.span({
    class: "drag-handle",
    draggable: "true",
    title: "Drag this to an input",
    "aria-hidden": "true",
  });
  makeDraggable(handle, file);
  return handle;
}

/** Calls `dropped(data)` with what is dropped on `node`, of which `isWanted(data)` says in each drag whether it
 * fits. */
export function acceptDrops(node, isWanted, dropped) {
  const over = (on) => (event) => {
    if (!isWanted(event.dataTransfer)) return;
    event.preventDefault();
    node.classList.toggle("dropping", on);
  };
  for (const name of ["dragenter", "dragover"]) node.addEventListener(name, over(true));
  node.addEventListener("dragleave", over(false));
  node.addEventListener("drop", (event) => {
    over(false)(event);
    dropped(event.dataTransfer);
  });
}

/** True if a drag of these types has a result. */
export function hasResult(types) {
  return types.includes(TYPE);
}

/** Kind of the result that is dragged: image, video or audio; null without one. */
export function kindOfResult(types) {
  const found = [...types].find((each) => each.startsWith(`${TYPE}.`));
  return found?.slice(TYPE.length + 1) ?? null;
}

/** Result in what was dropped: `{url, type, kind, name}`; null without one. */
export function resultIn(dataTransfer) {
  const text = dataTransfer?.getData(TYPE);
  return text ? JSON.parse(text) : null;
}
