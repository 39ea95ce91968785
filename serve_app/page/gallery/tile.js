// One result in the gallery.

import { button, h } from "../interface/element.js";
import { isActive, STATES } from "../interface/words.js";
import { makeDraggable } from "../results/drag.js";

const SIGNS = { video: "▶", audio: "♪" };
const KINDS = { video: "video", audio: "audio", file: "file" };

/**
 * Tile of an item, a cell of a grid. Its link has the focus; the box and the button are for the
 * mouse, and have keys of the grid.
 */
export function tile(item) {
  const { key, request, file } = item;
  const words = wordsOf(item);
  const { state, favourite } = request;
  // A long press with a finger selects, so only a mouse drags.
  const draggable = String(file !== null && file.kind !== "file" && matchMedia("(hover: hover)").matches);
  const node = h.div(
    {
      role: "gridcell",
      class: "tile",
      "data-key": key,
      "data-state": state,
      "data-kind": file?.kind ?? "none",
      "aria-selected": "false",
    },
    h.a(
      { href: linkOf(item), tabindex: -1, "aria-label": file && labelOf(item), draggable },
      file === null ? standing(request, words) : picture(file),
      SIGNS[file?.kind] ? h.span({ class: "sign", "aria-hidden": "true" }, SIGNS[file.kind]) : null,
      file !== null && request.drafts ? h.span({ class: "draft-mark" }, "Draft") : null,
      file !== null && h.span({ class: "over", "aria-hidden": "true" }, words),
    ),
    h.input({
      type: "checkbox",
      class: "check",
      tabindex: -1,
      "aria-label": `Select ${words}`,
    }),
    button(favourite ? "♥" : "♡", null, {
      class: "heart",
      tabindex: -1,
      "aria-pressed": String(favourite),
      "aria-label": `Favourite: ${words}`,
    }),
  );
  if (draggable === "true") makeDraggable(node.querySelector("a"), file);
  if (node.querySelector("img") !== null) node.classList.add("with-image");
  return node;
}

/** Address of an item: of its large view, or of the details of a request without a file. */
export function linkOf({ key, id, file }) {
  const part =
    file === null ? `request=${encodeURIComponent(id)}` : `item=${encodeURIComponent(key)}`;
  return `#view=gallery&${part}`;
}

/** Text that identifies an item: its prompt, and its number among several. */
export function wordsOf({ request, index, of }) {
  const words = request.prompt || request.endpoint_id;
  return of > 1 ? `${words} (${index + 1})` : words;
}

function labelOf(item) {
  const { drafts, favourite } = item.request;
  const facts = [KINDS[item.file.kind], drafts ? "draft" : "", favourite ? "favourite" : ""];
  return [wordsOf(item), ...facts.filter(Boolean)].join(", ");
}

/** Small image of a file. Until it has arrived, the tile shimmers. */
function picture(file) {
  const source = file.thumbnail ?? (file.kind === "image" ? file : null);
  if (source === null) return h.span({ class: "blank", "aria-hidden": "true" });
  const image = h.img({ src: source.url, alt: "", decoding: "async", draggable: "false" });
  const over = () => image.closest(".tile")?.classList.add("shown");
  if (image.complete && image.naturalWidth > 0) queueMicrotask(over);
  image.addEventListener("load", over);
  image.addEventListener("error", () => {
    over();
    image.replaceWith(h.span({ class: "blank" }, "This file is gone."));
  });
  return image;
}

/** What a tile without a file shows: the state, the prompt, and why it failed. */
function standing(request, words) {
  const { state, error } = request;
  return h.span(
    { class: "standing" },
    h.span(
      { class: "badge" },
      h.span({ class: `dot ${state}`, "aria-hidden": "true" }),
      STATES[state] ?? state,
    ),
    " ",
    h.span({ class: "said" }, words),
    " ",
    error && !isActive(request) && state !== "cancelled"
      ? h.span({ class: "why" }, error.message)
      : null,
  );
}
