// A call as JSON, which can be changed, and as a program.

import { BASE } from "../client/api.js";
import * as json from "../client/json.js";
import { keepText, readText } from "../client/storage.js";
import { codeFor, LANGUAGES, languagesOf } from "./code.js";
import { copyText } from "../interface/copy.js";
import { button, element } from "../interface/element.js";

const PREFERRED = "darkroom.language";
const JSON_TAB = "json"; // the input itself
const FORM_TAB = "form";

/**
 * The tabs of a call, of which the last choice is stored: JSON, and one for each language. With
 * `form`, the first one shows that node. `read()` returns the call when a tab is chosen, `{endpoint,
 * input, category}`; the category says in which languages it can be called. `apply(endpoint, input)`
 * fills the form with changed JSON.
 */
export class Program {
  node = element("div", { class: "program" });
  #read;
  #apply;
  #form;
  #call = null;
  #tabs = element("div", { class: "languages", role: "group", "aria-label": "Language" });
  #text = element("pre", { tabindex: 0 });
  #json = element("textarea", {
    class: "code",
    "aria-label": "Input as JSON",
    spellcheck: false,
  });
  #problem = element("p", { class: "problem", role: "alert", hidden: true });
  #copy;
  #use;

  constructor({ read, apply, form = null }) {
    this.#read = read;
    this.#apply = apply;
    this.#form = form;
    this.#copy = button("Copy", () => this.#copied(), { class: "main" });
    this.#use = button("Use in the form", () => this.#used());
    const buttons = element("div", { class: "buttons" }, this.#copy, this.#use);
    const parts = [this.#tabs, form, this.#text, this.#json, this.#problem, buttons];
    this.node.append(...parts.filter((each) => each !== null));
  }

  /** Shows the call: its form, if it has one, or the tab that was chosen last. */
  show() {
    this.#take();
    const languages = languagesOf(this.#call.category);
    const names = { [FORM_TAB]: "Form", [JSON_TAB]: "JSON", ...LANGUAGES };
    const shown = [JSON_TAB, ...languages];
    if (this.#form !== null) shown.unshift(FORM_TAB);
    this.#tabs.replaceChildren(
      ...shown.map((tab) =>
        button(names[tab], () => this.#choose(tab), { class: null, "data-tab": tab }),
      ),
    );
    const first = this.#form !== null ? FORM_TAB : readText(PREFERRED);
    this.#draw(shown.includes(first) ? first : "python");
  }

  #choose(tab) {
    if (tab !== FORM_TAB) keepText(PREFERRED, tab);
    if (this.#form?.hidden === false) this.#take();
    this.#draw(tab);
  }

  /** Reads the call. JSON that was changed stays until then. */
  #take() {
    this.#call = this.#read();
    this.#json.value = json.write(this.#call.input, 2);
  }

  #draw(tab) {
    const isForm = tab === FORM_TAB;
    const isJson = tab === JSON_TAB;
    if (this.#form !== null) this.#form.hidden = !isForm;
    this.#text.hidden = isForm || isJson;
    this.#json.hidden = !isJson;
    this.#use.hidden = !isJson;
    this.#copy.hidden = isForm;
    const base = BASE.href.replace(/\/$/, "");
    this.#text.textContent = isForm || isJson ? "" : codeFor(tab, { ...this.#call, base });
    this.#copy.textContent = "Copy";
    this.#say("");
    for (const each of this.#tabs.children)
      each.setAttribute("aria-pressed", String(each.dataset.tab === tab));
  }

  #say(problem) {
    this.#problem.textContent = problem;
    this.#problem.hidden = problem === "";
  }

  async #used() {
    let input;
    try {
      input = json.parse(this.#json.value);
    } catch (error) {
      return this.#say(`This is not JSON: ${error.message}`);
    }
    if (input === null || typeof input !== "object" || Array.isArray(input))
      return this.#say("An input is an object: { … }");
    await this.#apply(this.#call.endpoint, input);
    if (this.#form !== null) this.#draw(FORM_TAB);
  }

  async #copied() {
    await copyText(this.#json.hidden ? this.#text : this.#json);
    this.#copy.textContent = "Copied";
  }
}
