// Results that are dragged to an input of the form.

const TYPE = "application/x-darkroom-file";

/** Lets `node`, which shows `file`, be dragged to an input. */
export function makeDraggable(node, { input, url, type, kind, name }) {
  node.addEventListener("dragstart", ({ dataTransfer }) => {
    dataTransfer.setData(TYPE, JSON.stringify({ url: input ?? url, type, kind, name }));
    dataTransfer.effectAllowed = "copyLink";
  });
}

/** True if a drag of these types has a result. */
export function hasResult(types) {
  return types.includes(TYPE);
}

/** Result in what was dropped: `{url, type, kind, name}`; null without one. */
export function resultIn(dataTransfer) {
  const text = dataTransfer?.getData(TYPE);
  return text ? JSON.parse(text) : null;
}
