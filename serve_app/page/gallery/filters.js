// Search and filters above the gallery.

import { button, freshId, h, options, select } from "../interface/element.js";
import { filtersIn, isFiltered, NONE } from "./query.js";

const TYPED_MS = 300;
const KINDS = { "": "All kinds", image: "Images", video: "Videos", audio: "Audio" };
const STATES = {
  "": "All results",
  done: "Done",
  active: "In progress",
  failed: "Failed",
  cancelled: "Cancelled",
};

/** Form with the filters. `change(filters, typing)` is called when the user changes one;
 * `typing` is true while words are typed. */
export class Filters {
  node;
  #change;
  #timer = null;
  #search = h.input({
    type: "search",
    placeholder: "Search in prompts",
    "aria-label": "Search in prompts",
    "aria-keyshortcuts": "/",
    maxlength: 200,
    enterkeyhint: "search",
  });
  #controls = {
    kind: select(Object.entries(KINDS), { "aria-label": "Kind" }),
    endpoint: select([["", "All models"]], { "aria-label": "Model" }),
    state: select(Object.entries(STATES), { "aria-label": "State" }),
    since: h.input({ type: "date" }),
    until: h.input({ type: "date" }),
  };
  #favourite = button([h.span({ "aria-hidden": "true" }, "♥ "), "Favourites"], null, {
    class: "quiet toggle",
    "aria-pressed": "false",
  });
  #clear = button("Clear filters", null, { class: "quiet clear", hidden: true });

  constructor(change, ...more) {
    this.#change = change;
    const id = freshId("filters");
    const { kind, endpoint, state, since, until } = this.#controls;
    const dates = [
      h.label({ class: "date" }, "From", since),
      h.label({ class: "date" }, "To", until),
    ];
    const choices = [kind, endpoint, state, ...dates, this.#clear];
    const rest = h.div({ class: "more-filters", id }, choices);
    const toggle = () => {
      const shown = rest.classList.toggle("opened");
      open.setAttribute("aria-expanded", String(shown));
    };
    const closed = { "aria-expanded": "false", "aria-controls": id };
    const open = button("Filters", toggle, { class: "quiet open-filters", ...closed });
    this.node = h.form(
      { class: "filters", role: "search", "aria-label": "Results" },
      this.#search,
      this.#favourite,
      open,
      rest,
      ...more,
    );
    this.#listen();
  }

  #listen() {
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#tell(true);
    });
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#tell(true), TYPED_MS);
    });
    for (const each of Object.values(this.#controls))
      each.addEventListener("change", () => this.#tell(false));
    this.#favourite.addEventListener("click", () => {
      const on = this.#favourite.getAttribute("aria-pressed") !== "true";
      this.#favourite.setAttribute("aria-pressed", String(on));
      this.#tell(false);
    });
    this.#clear.addEventListener("click", () => {
      this.#search.focus();
      this.#change(NONE, false);
    });
  }

  /** Adds the models to choose from. */
  offer(models) {
    const here = new Set([...this.#controls.endpoint.options].map(({ value }) => value));
    const fresh = models.filter(({ id }) => !here.has(id));
    this.#controls.endpoint.append(...options(fresh.map(({ id, name }) => [id, name])));
  }

  /** Shows filters. */
  show(filters) {
    const { endpoint, q, favourite } = filters;
    if (endpoint !== null) this.offer([{ id: endpoint, name: endpoint }]);
    if (this.#search.value.trim() !== (q ?? "")) this.#search.value = q ?? "";
    for (const [name, control] of Object.entries(this.#controls))
      control.value = filters[name] ?? "";
    this.#favourite.setAttribute("aria-pressed", String(favourite !== null));
    this.#clear.hidden = !isFiltered(filters);
  }

  focus() {
    this.#search.focus();
    this.#search.select();
  }

  #tell(typing) {
    clearTimeout(this.#timer);
    const on = this.#favourite.getAttribute("aria-pressed") === "true";
    const controls = Object.entries({ ...this.#controls, q: this.#search });
    const given = Object.fromEntries(controls.map(([name, { value }]) => [name, value.trim()]));
    given.favourite = on ? "1" : "";
    this.#change(filtersIn(given), typing);
  }
}
