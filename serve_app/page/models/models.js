// View of the models: cards with filters, and a page for each model.

import { element, freshId } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";
import { card } from "./card.js";
import { KINDS, listModels, matches, oneModel, STATES, wholeModel } from "./catalogue.js";
import { modelPage } from "./model_page.js";
import { RealModelOffer } from "./real_model.js";

const RENEW_MS = 5000;

/** Fills `host` with the view. */
export function open(host, page) {
  return new ModelsView(host, page);
}

class ModelsView {
  #page;
  #list = element("div", {});
  #one = element("article", { class: "model", hidden: true });
  #problem = element("p", { class: "problem", role: "alert", hidden: true });
  #cards = element("div", { class: "groups", "aria-live": "off" });
  #count = element("p", { class: "help", role: "status" });
  #search = element("input", {
    type: "search",
    placeholder: "Name, id or task",
    autocomplete: "off",
  });
  #state = element("select", {});
  #kinds = element("div", { class: "chips", role: "group", "aria-label": "Kind" });
  #kind = "";
  #models = [];
  #shown = null; // id of the model whose page is open
  #opened = null; // that page
  #offer; // of a real model
  #refresh = new Refresh(() => this.#renew(), RENEW_MS);

  constructor(host, page) {
    this.#page = page;
    this.#offer = new RealModelOffer(page);
    const heading = element("h2", {}, "Models");
    this.#list.append(heading, this.#offer.node, this.#tools(), this.#count, this.#cards);
    host.append(this.#problem, this.#list, this.#one);
  }

  /** Shows what the address names: the cards with its filters, or the page of its model. */
  async follow({ id = null, kind = "", state = "", words = "" }) {
    const back = this.#shown;
    if (id !== back) this.#refresh.stop();
    this.#shown = id;
    this.#list.hidden = id !== null;
    this.#one.hidden = id === null;
    if (id !== null) {
      this.#offer.leave();
      if (id !== back) await this.#open(id);
      return;
    }
    this.#kind = kind in KINDS ? kind : "";
    this.#state.value = state in STATES ? state : "";
    if (this.#search.value !== words) this.#search.value = words;
    this.#draw();
    this.#focusCard(back);
    await this.#try(async () => {
      this.#models = await listModels(this.#page.api);
      if (this.#shown !== null) return;
      this.#draw();
      this.#offer.show(this.#models);
    });
  }

  leave() {
    this.#shown = null;
    this.#refresh.stop();
    this.#offer.leave();
  }

  #tools() {
    const searchId = freshId("search");
    const stateId = freshId("state");
    this.#search.id = searchId;
    this.#state.id = stateId;
    this.#search.addEventListener("input", () => this.#filter());
    this.#state.addEventListener("change", () => this.#filter());
    const options = Object.entries(STATES).map(([value, { name }]) =>
      element("option", { value }, name),
    );
    this.#state.append(element("option", { value: "" }, "Any state"), ...options);
    return element(
      "div",
      { class: "tools", role: "search" },
      element("div", {}, element("label", { for: searchId }, "Search"), this.#search),
      element("div", {}, element("label", { for: stateId }, "State"), this.#state),
      this.#kinds,
    );
  }

  #filter() {
    const { words, kind, state } = this.#wanted();
    this.#page.address.correct({ words: words || null, kind: kind || null, state: state || null });
    this.#draw();
  }

  #wanted() {
    return { words: this.#search.value.trim(), kind: this.#kind, state: this.#state.value };
  }

  #focusCard(id) {
    this.#cards.querySelector(`[data-id="${CSS.escape(id ?? "")}"] a`)?.focus();
  }

  #draw() {
    const focused = this.#cards.querySelector(".card:focus-within")?.dataset.id;
    this.#drawKinds();
    const found = this.#models.filter((model) => matches(model, this.#wanted()));
    const away = found.filter(({ state }) => state === "not_served");
    const served = found.filter(({ state }) => state !== "not_served");
    const groups = Object.entries(KINDS).map(([kind, name]) => [
      name,
      "",
      served.filter((model) => model.kind === kind),
    ]);
    const reasons = [...new Set(away.map(({ reason }) => reason))];
    const others = reasons.map((reason) => [
      "Not served here",
      reason,
      away.filter((model) => model.reason === reason),
    ]);
    const shown = [...groups, ...others].filter(([, , models]) => models.length > 0);
    this.#cards.replaceChildren(...shown.map((group) => this.#group(...group)));
    const total = this.#models.length;
    const counted = found.length === total ? `${total}` : `${found.length} of ${total}`;
    this.#count.textContent = total === 0 ? "" : `${counted} models`;
    this.#focusCard(focused);
  }

  #group(name, reason, models) {
    return element(
      "section",
      { class: reason === "" ? "group" : "group away" },
      element("h3", {}, name, element("span", { class: "mark" }, models.length)),
      reason === "" ? null : element("p", { class: "help" }, reason),
      element("ul", { class: "cards" }, models.map(card)),
    );
  }

  #drawKinds() {
    const there = Object.keys(KINDS).filter((kind) =>
      this.#models.some((each) => each.kind === kind),
    );
    const choose = (kind) => () => {
      this.#kind = kind;
      this.#filter();
    };
    if (this.#kinds.childElementCount !== there.length + 1) {
      const chip = ([kind, name]) =>
        element("button", { type: "button", "data-kind": kind, click: choose(kind) }, name);
      const named = there.map((kind) => [kind, KINDS[kind]]);
      this.#kinds.replaceChildren(...[["", "All"], ...named].map(chip));
    }
    for (const each of this.#kinds.children)
      each.setAttribute("aria-pressed", String(each.dataset.kind === this.#kind));
  }

  async #open(id) {
    this.#one.replaceChildren(element("p", { class: "help" }, "Loading …"));
    scrollTo({ top: 0 });
    await this.#try(async () => {
      const [model, standing] = await Promise.all([
        wholeModel(this.#page.api, id),
        this.#standing(),
      ]);
      if (this.#shown !== id) return;
      if (model === null) throw new Error(`There is no model ${id} here.`);
      this.#opened = modelPage(model, this.#page.act, standing);
      this.#one.replaceChildren(...this.#opened.nodes);
      this.#one.querySelector("h2").focus({ preventScroll: true });
      this.#refresh.start();
    });
  }

  /** Shows the newest state of the open model. */
  async #renew() {
    const id = this.#shown;
    const [model, standing] = await Promise.all([
      oneModel(this.#page.api, id).catch(() => null),
      this.#standing(),
    ]);
    if (this.#shown === id && model !== null) this.#opened.renew(model, standing);
  }

  /** Status of the installation, or null for keys that may not see it. */
  async #standing() {
    if (!(await this.#page.caller.isOperator())) return null;
    return await this.#page.api.call("GET", "v1/status").catch(() => null);
  }

  async #try(work) {
    this.#problem.hidden = true;
    try {
      await work();
    } catch (error) {
      this.#one.replaceChildren(
        element("a", { href: "#view=models", class: "back" }, "‹ All models"),
      );
      this.#problem.textContent = error.message;
      this.#problem.hidden = false;
    }
  }
}
