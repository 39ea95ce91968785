// View of the models: cards with filters, and a page for each model.

import { Refused, Unreachable } from "../client/api.js";
import * as json from "../client/json.js";
import { chips, press } from "../interface/chips.js";
import { button, freshId, h, labelled, problemLine, select } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";
import { card } from "./card.js";
import { KINDS, kindOf, matches, STATES, wholeModel } from "./catalogue.js";
import { modelPage } from "./model_page.js";
import { preflight, RealModelOffer } from "./real_model.js";
import { trial } from "./trial.js";

const RENEW_MS = 5000;

/** Fills `host` with the view. */
export function open(host, page) {
  return new ModelsView(host, page);
}

class ModelsView {
  #page;
  #list = h.div();
  #one = h.article({ class: "model", hidden: true });
  #problem = problemLine();
  #cards = h.div({ class: "groups", "aria-live": "off" });
  #count = h.p({ class: "help", role: "status" });
  #search = h.input({
    id: freshId("search"),
    type: "search",
    placeholder: "Name, id or task",
    autocomplete: "off",
    input: () => this.#filter(),
  });
  #state = select(
    [["", "Any state"], ...Object.entries(STATES).map(([value, { name }]) => [value, name])],
    { change: () => this.#filter() },
  );
  #kinds = h.div({ class: "chips", role: "group", "aria-label": "Kind" });
  #kind = "";
  #models = [];
  #entered = new Map(); // id of a model → input in the form of its page
  #shown = null; // id of the model whose page is open
  #opened = null; // that page, when it is loaded
  #offer; // of a real model
  #refresh = null; // of what is shown now
  #words = h.span(); // what went wrong

  constructor(host, page) {
    this.#page = page;
    this.#offer = new RealModelOffer(page);
    const again = () => {
      this.#refresh?.stop();
      this.#refresh?.start();
    };
    this.#problem.append(this.#words, " ", button("Try again", again));
    const heading = h.h2("Models");
    this.#list.append(heading, this.#offer.node, this.#tools(), this.#count, this.#cards);
    host.append(this.#problem, this.#list, this.#one);
  }

  /** Shows what the address names: the cards with its filters, or the page of its model. */
  async follow({ id = null, kind = "", state = "", words = "" }) {
    const back = this.#shown;
    this.#shown = id;
    this.#list.hidden = id !== null;
    this.#one.hidden = id === null;
    if (id !== null) {
      this.#offer.leave();
      if (id !== back) this.#open(id);
      return;
    }
    this.#kind = kind in KINDS ? kind : "";
    this.#state.value = state in STATES ? state : "";
    if (this.#search.value !== words) this.#search.value = words;
    this.#draw();
    this.#focusCard(back);
    this.#follow(async (isShown) => {
      const models = await this.#page.models.list();
      if (!isShown() || json.write(models) === json.write(this.#models)) return;
      this.#models = models;
      this.#draw();
      this.#offer.show(this.#models);
    });
  }

  leave() {
    this.#shown = null;
    this.#refresh?.stop();
    this.#refresh = null;
    this.#offer.leave();
  }

  #tools() {
    return h.div(
      { class: "tools", role: "search" },
      h.div(labelled("Search", this.#search)),
      h.div(labelled("State", this.#state)),
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
    const isServed = ({ state }) => state !== "not_served";
    const served = Map.groupBy(found.filter(isServed), kindOf);
    const away = Map.groupBy(found.filter((model) => !isServed(model)), (model) => model.away);
    const kinds = Object.keys(KINDS).filter((kind) => served.has(kind));
    this.#cards.replaceChildren(
      ...kinds.map((kind) => this.#group(KINDS[kind], "", served.get(kind))),
      ...[...away].map(([reason, models]) => this.#group("Not served here", reason, models)),
    );
    const total = this.#models.length;
    const counted = found.length === total ? `${total}` : `${found.length} of ${total}`;
    this.#count.textContent = total === 0 ? "" : `${counted} models`;
    this.#focusCard(focused);
  }

  #group(name, reason, models) {
    return h.section(
      { class: reason === "" ? "group" : "group away" },
      h.h3(name, h.span({ class: "mark" }, models.length)),
      reason !== "" && h.p({ class: "help" }, reason),
      h.ul({ class: "cards" }, models.map(card)),
    );
  }

  #drawKinds() {
    const there = Object.keys(KINDS).filter((kind) =>
      this.#models.some((each) => kindOf(each) === kind),
    );
    const choose = (kind) => {
      this.#kind = kind;
      this.#filter();
    };
    if (this.#kinds.childElementCount !== there.length + 1) {
      const named = there.map((kind) => [kind, KINDS[kind]]);
      this.#kinds.replaceChildren(...chips([["", "All"], ...named], choose));
    }
    press(this.#kinds, this.#kind);
  }

  #open(id) {
    this.#opened = null;
    this.#one.replaceChildren(h.p({ class: "help" }, "Loading …"));
    scrollTo({ top: 0 });
    this.#follow(async (isShown) => {
      if (this.#opened !== null) return await this.#renew(id);
      const [model, standing, served] = await Promise.all([
        wholeModel(this.#page, id),
        this.#standing(),
        this.#page.models.one(id).catch(() => null), // then it can be tried in the form
      ]);
      if (!isShown()) return;
      if (model === null) throw new Error(`There is no model ${id} here.`);
      this.#opened = modelPage(
        model,
        this.#page.act,
        standing,
        served === null || served.away !== "" ? null : trial(served, this.#page, this.#entered),
      );
      const opened = this.#opened;
      this.#one.replaceChildren(...opened.nodes);
      preflight(this.#page.api, id).then(opened.answer, () => {}); // it may wait for the hub
      if (document.querySelector("dialog[open]") === null)
        this.#one.querySelector("h2").focus({ preventScroll: true });
    });
  }

  /** Shows the newest state of the open model. */
  async #renew(id) {
    const [model, standing] = await Promise.all([
      this.#page.models.find(id).catch(() => null),
      this.#standing(),
    ]);
    if (this.#shown === id && model !== null) this.#opened.renew(model, standing);
  }

  /** Status of the installation, or null for keys that may not see it. */
  async #standing() {
    if (!(await this.#page.caller.isOperator())) return null;
    return await this.#page.api.call("GET", "v1/status").catch(() => null);
  }

  /** Calls `look(isShown)` now and again: what it has loaded is shown only while `isShown()`. It does not
   * wait for what was shown before, which may hang. Errors that may pass are shown until a look succeeds. */
  #follow(look) {
    this.#refresh?.stop();
    this.#complain("");
    const refresh = new Refresh(
      async () => {
        const isShown = () => this.#refresh === refresh;
        try {
          await look(isShown);
          if (isShown()) this.#complain("");
          return null;
        } catch (error) {
          if (!isShown()) return null;
          const passes =
            error instanceof Unreachable || (error instanceof Refused && error.passing);
          if (!passes) refresh.stop();
          this.#complain(error.message);
          return RENEW_MS;
        }
      },
      RENEW_MS,
      this.#page.store.changes,
      { of: ["replicas"] },
    );
    this.#refresh = refresh;
    refresh.start();
  }

  #complain(words) {
    if (words !== "" && this.#opened === null)
      this.#one.replaceChildren(h.a({ href: "#view=models", class: "back" }, "‹ All models"));
    if (this.#words.textContent !== words) this.#words.textContent = words; // it is announced
    this.#problem.hidden = words === "";
  }
}
