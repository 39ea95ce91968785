// List of the days that have results, to jump to one.

import { attribute, button, h } from "../interface/element.js";
import { roving } from "../interface/roving.js";
import { dateOf, day } from "../interface/words.js";
import { daysPathOf, midnight } from "./query.js";

/** List of days with their numbers of requests: those of the collection, and further back, where it is not
 * loaded yet, as the server counts them. `go(date, newer)` is called with the day that was chosen and the number of
 * requests of newer days. */
export class Days {
  node = h.nav({ class: "days", "aria-label": "Days" }, blank());
  #gallery;
  #asked = null;
  #further = []; // days as the server counts them
  #drawn = "";
  #current = null;

  constructor(gallery) {
    this.#gallery = gallery;
  }

  /** Loads the days that have results of these filters. */
  async load(filters) {
    const path = daysPathOf(filters);
    this.#asked = path;
    this.#further = [];
    try {
      const { days } = await this.#gallery.api.call("GET", path);
      if (this.#asked !== path) return;
      this.#further = days;
      this.draw();
    } catch {
      // The list stays as it is: the gallery says that Darkroom does not answer.
    }
  }

  /** Days with requests, the latest first: `{date, requests}`. */
  #counts() {
    const first = this.#gallery.collection.items.filter(({ index }) => index === 0);
    const days = [...Map.groupBy(first, ({ date }) => date)];
    const whole = days.map(([date, { length: requests }]) => ({ date, requests }));
    if (!this.#gallery.collection.more && !this.#gallery.collection.loading) return whole;
    const part = whole.pop()?.date; // more of this day may follow
    return [...whole, ...this.#further.filter(({ date }) => part === undefined || date <= part)];
  }

  /** Draws the list, if a count has changed. */
  draw() {
    const days = this.#counts();
    const drawn = JSON.stringify([days, dateOf(Date.now())]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const list = h.ul();
    let newer = 0;
    for (const { date, requests } of days) {
      const before = newer;
      newer += requests;
      const name = h.span(day(midnight(date).toISOString()));
      const words = [name, " ", h.span({ class: "count" }, requests)];
      const go = () => this.#gallery.go(date, before);
      list.append(h.li(button(words, go, { class: null, "data-date": date })));
    }
    this.node.replaceChildren(list);
    roving(this.node, "button");
    this.mark(this.#current);
  }

  /** Marks the day that is in sight. */
  mark(date) {
    this.#current = date;
    for (const each of this.node.querySelectorAll("button")) {
      const here = each.dataset.date === date;
      attribute(each, "aria-current", here ? "date" : null);
      if (here) this.#reveal(each);
    }
  }

  /** Scrolls the list, and not the page. */
  #reveal(node) {
    const { node: list } = this;
    const [here, all] = [node.getBoundingClientRect(), list.getBoundingClientRect()];
    if (here.left < all.left || here.right > all.right)
      list.scrollLeft += here.left - all.left - 16;
    if (here.top < all.top || here.bottom > all.bottom)
      list.scrollTop += here.top - all.top - all.height / 3;
  }
}

/** A list as high as one day, until the days are known. */
function blank() {
  const nothing = button("\u00a0", null, { class: null, disabled: true });
  return h.ul({ class: "blank" }, h.li(nothing));
}
