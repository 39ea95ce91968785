// A call as JSON, which can be changed, and as a program.

import { BASE } from "../client/api.js";
import * as json from "../client/json.js";
import { keepText, readText } from "../client/storage.js";
import { codeFor, LANGUAGES, languagesOf } from "./code.js";
import { chips, press } from "../interface/chips.js";
import { copyButton } from "../interface/copy.js";
import { button, h, problemLine, tell } from "../interface/element.js";

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
  #page;
  #form;
  #call = null;
  #tabs = h.div({ class: "languages", role: "group", "aria-label": "Language" });
  #text = h.pre({ tabindex: 0 });
  #json = h.textarea({ class: "code", "aria-label": "Input as JSON", spellcheck: false });
  #problem = problemLine();
  #copy = copyButton(() => (this.#json.hidden ? this.#text : this.#json), { class: "main" });
  #use = button("Use in the form", () => this.#used());

  constructor({ form = null, ...page }) {
    this.#page = page;
    this.#form = form;
    const buttons = h.div({ class: "buttons" }, this.#copy, this.#use);
    const parts = [this.#tabs, form, this.#text, this.#json, this.#problem, buttons];
    this.node = h.div({ class: "program" }, parts);
  }

  /** Shows the call: its form, if it has one, or the tab that was chosen last. */
  show() {
    this.#take();
    const languages = languagesOf(this.#call.category);
    const names = { [FORM_TAB]: "Form", [JSON_TAB]: "JSON", ...LANGUAGES };
    const shown = [JSON_TAB, ...languages];
    if (this.#form !== null) shown.unshift(FORM_TAB);
    const tabs = shown.map((tab) => [tab, names[tab]]);
    this.#tabs.replaceChildren(...chips(tabs, (tab) => this.#choose(tab)));
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
    this.#call = this.#page.read();
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
    tell(this.#problem, "");
    press(this.#tabs, tab);
  }

  async #used() {
    let input;
    try {
      input = json.parse(this.#json.value);
    } catch (error) {
      return tell(this.#problem, `This is not JSON: ${error.message}`);
    }
    if (input === null || typeof input !== "object" || Array.isArray(input))
      return tell(this.#problem, "An input is an object: { … }");
    await this.#page.apply(this.#call.endpoint, input);
    if (this.#form !== null) this.#draw(FORM_TAB);
  }
}
