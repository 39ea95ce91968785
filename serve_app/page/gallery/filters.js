// Search and filters above the gallery.

import { button, element, freshId } from "../interface/element.js";
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
  #search = element("input", {
    type: "search",
    placeholder: "Search in prompts",
    "aria-label": "Search in prompts",
    "aria-keyshortcuts": "/",
    maxlength: 200,
    enterkeyhint: "search",
  });
  #kind = choice("Kind", KINDS);
  #state = choice("State", STATES);
  #endpoint = choice("Model", { "": "All models" });
  #since = element("input", { type: "date" });
  #until = element("input", { type: "date" });
  #favourite = button([element("span", { "aria-hidden": "true" }, "♥ "), "Favourites"], null, {
    class: "quiet toggle",
    "aria-pressed": "false",
  });
  #clear = button("Clear filters", null, { class: "quiet clear", hidden: true });

  constructor(change, ...more) {
    this.#change = change;
    const id = freshId("filters");
    const rest = element(
      "div",
      { class: "more-filters", id },
      this.#kind,
      this.#endpoint,
      this.#state,
      element("label", { class: "date" }, "From", this.#since),
      element("label", { class: "date" }, "To", this.#until),
      this.#clear,
    );
    const toggle = () => {
      const shown = rest.classList.toggle("opened");
      open.setAttribute("aria-expanded", String(shown));
    };
    const closed = { "aria-expanded": "false", "aria-controls": id };
    const open = button("Filters", toggle, { class: "quiet open-filters", ...closed });
    this.node = element(
      "form",
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
    for (const each of [this.#kind, this.#state, this.#endpoint, this.#since, this.#until])
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
    const here = new Set([...this.#endpoint.options].map(({ value }) => value));
    const fresh = models.filter(({ id }) => !here.has(id));
    this.#endpoint.append(...fresh.map(({ id, name }) => element("option", { value: id }, name)));
  }

  /** Shows filters. */
  show(filters) {
    const { q, kind, state, endpoint, since, until, favourite } = filters;
    if (endpoint !== null) this.offer([{ id: endpoint, name: endpoint }]);
    if (this.#search.value.trim() !== (q ?? "")) this.#search.value = q ?? "";
    this.#kind.value = kind ?? "";
    this.#state.value = state ?? "";
    this.#endpoint.value = endpoint ?? "";
    this.#since.value = since ?? "";
    this.#until.value = until ?? "";
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
    const given = {
      q: this.#search.value.trim(),
      kind: this.#kind.value,
      state: this.#state.value,
      endpoint: this.#endpoint.value,
      since: this.#since.value,
      until: this.#until.value,
      favourite: on ? "1" : "",
    };
    this.#change(filtersIn(given), typing);
  }
}

function choice(name, choices) {
  const options = Object.entries(choices).map(([value, words]) =>
    element("option", { value }, words),
  );
  return element("select", { "aria-label": name }, ...options);
}
