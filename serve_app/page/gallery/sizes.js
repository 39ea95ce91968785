// Size of the tiles, which this browser remembers.

import { keepText, readText } from "../client/storage.js";
import { press } from "../interface/chips.js";
import { button, h } from "../interface/element.js";

const PLACE = "darkroom.gallery.size"; // in the local storage
const HEIGHTS = { small: 120, medium: 190, large: 300 }; // of rows, in pixels
const NARROW = 0.62; // of these on a phone
const NARROW_WINDOW = 640; // pixels

/** Buttons for the size. `changed(height)` is called with the height of rows, in pixels. */
export class Sizes {
  node = h.div({ class: "sizes", role: "group", "aria-label": "Size of the tiles" });
  #now = readText(PLACE);
  #changed;

  constructor(changed) {
    this.#changed = changed;
    if (!(this.#now in HEIGHTS)) this.#now = "medium";
    for (const size of Object.keys(HEIGHTS)) {
      const given = { class: size, "aria-label": `${size} tiles`, "data-value": size };
      this.node.append(
        button(h.span({ "aria-hidden": "true" }, "▪"), () => this.#use(size), given),
      );
    }
    press(this.node, this.#now);
  }

  get height() {
    return HEIGHTS[this.#now] * (innerWidth < NARROW_WINDOW ? NARROW : 1);
  }

  #use(size) {
    this.#now = size;
    press(this.node, size);
    this.#changed(this.height);
    keepText(PLACE, size);
  }
}
