// Bar with what can be done with the selected results.

import { button, h } from "../interface/element.js";
import { requestsOf } from "./actions.js";
import { MOST_COMPARED } from "./large/compare.js";
import { counted } from "./question.js";

/** Bar of a `Selection`. `items()` are the selected items; `act` has `compare`, `favourite`, `zip`,
 * `remove`, which get them. */
export class Bar {
  node = h.div({
    class: "bar-of-selection",
    role: "toolbar",
    "aria-label": "Selection",
    hidden: true,
  });
  #selection;
  #items;
  #count = h.p({ class: "count", role: "status" });
  #compare;

  constructor(selection, items, act) {
    this.#selection = selection;
    this.#items = items;
    const action = (name, what, attributes) => button(name, () => what(items()), attributes);
    this.#compare = action("Compare", act.compare);
    this.node.append(
      this.#count,
      this.#compare,
      action("Favourite", act.favourite, { "aria-keyshortcuts": "f" }),
      action("Download", act.zip),
      action("Delete", act.remove, { class: "quiet danger", "aria-keyshortcuts": "Delete" }),
      button("×", () => selection.clear(), {
        "aria-label": "Clear the selection",
        "aria-keyshortcuts": "Escape",
      }),
    );
    selection.addEventListener("change", () => this.show());
  }

  show() {
    const items = this.#items();
    this.node.hidden = this.#selection.size === 0;
    const requests = requestsOf(items).length;
    const of = requests === items.length ? "" : ` of ${counted(requests, "request")}`;
    this.#count.textContent = items.length === 0 ? "" : `${items.length} selected${of}`;
    const shown = items.filter(({ file }) => file !== null && file.kind !== "file");
    this.#compare.disabled =
      shown.length !== items.length || items.length < 2 || items.length > MOST_COMPARED;
    this.#compare.title = this.#compare.disabled
      ? "Select two to four results to compare them."
      : "";
  }
}
