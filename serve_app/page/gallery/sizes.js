// Size of the tiles, which this browser remembers.

import { keepText, readText } from "../client/storage.js";
import { button, element } from "../interface/element.js";

const PLACE = "darkroom.gallery.size"; // in the local storage
const HEIGHTS = { small: 120, medium: 190, large: 300 }; // of rows, in pixels
const NARROW = 0.62; // of these on a phone
const NARROW_WINDOW = 640; // pixels

/** Buttons for the size. `changed(height)` is called with the height of rows, in pixels. */
export class Sizes {
  node = element("div", { class: "sizes", role: "group", "aria-label": "Size of the tiles" });
  #now = storedSize();
  #changed;

  constructor(changed) {
    this.#changed = changed;
    for (const size of Object.keys(HEIGHTS)) this.node.append(this.#button(size));
  }

  get height() {
    return HEIGHTS[this.#now] * (innerWidth < NARROW_WINDOW ? NARROW : 1);
  }

  #button(size) {
    return button(element("span", { "aria-hidden": "true" }, "▪"), () => this.#use(size), {
      class: size,
      "aria-label": `${size} tiles`,
      "aria-pressed": String(size === this.#now),
    });
  }

  #use(size) {
    this.#now = size;
    for (const each of this.node.children)
      each.setAttribute("aria-pressed", String(each.classList.contains(size)));
    this.#changed(this.height);
    keepText(PLACE, size);
  }
}

function storedSize() {
  const size = readText(PLACE);
  return size in HEIGHTS ? size : "medium";
}
