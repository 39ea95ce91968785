// Dialog that shows a request as JSON, which can be changed, and as a program.

import { BASE } from "../client/api.js";
import * as json from "../client/json.js";
import { codeFor, LANGUAGES, languagesOf } from "./code.js";
import { copyText } from "../interface/copy.js";
import { open, makeClosable } from "../interface/dialog.js";
import { byId, element } from "../interface/element.js";

const PREFERRED = "darkroom.language";
const FORM = "json"; // the input itself

/** Dialog with one tab per language. The last choice is stored. `page` has its `address`, and
 * `apply(endpoint, input)`, which fills the form. */
export class ProgramDialog {
  #page;
  #dialog = byId("code");
  #call = null;
  #language;

  constructor(page) {
    this.#page = page;
    makeClosable(this.#dialog, { outside: false }); // JSON may be typed in it
    this.#dialog.addEventListener("close", () => {
      if (!this.#dialog.open) page.address.leave("code"); // the event may be late
    });
    try {
      this.#language = localStorage.getItem(PREFERRED);
    } catch {
      this.#language = null;
    }
    byId("copy").addEventListener("click", () => this.#copy());
    byId("apply").addEventListener("click", () => this.#apply());
  }

  /** Closes the dialog, or opens it again with what it showed last. */
  follow(code) {
    if (code === null) this.#dialog.close();
    else if (this.#call === null) this.#page.address.correct({ code: null });
    else this.show(this.#call);
  }

  /** Shows the call of `endpoint`, whose `category` says in which languages it can be called. */
  show({ endpoint, input, category }) {
    if (this.#page.address.now.code === null) this.#page.address.go({ code: "1", request: null });
    this.#call = { endpoint, input, category, base: BASE.href.replace(/\/$/, "") };
    this.#tabs(languagesOf(category));
    open(this.#dialog);
  }

  #tabs(languages) {
    const tab = (language, name) =>
      element(
        "button",
        { type: "button", "data-language": language, click: () => this.#choose(language) },
        name,
      );
    const tabs = languages.map((language) => tab(language, LANGUAGES[language]));
    byId("languages").replaceChildren(tab(FORM, "JSON"), ...tabs);
    byId("input-json").value = json.write(this.#call.input, 2);
    const isThere = [FORM, ...languages].includes(this.#language);
    this.#draw(isThere ? this.#language : "python");
  }

  #choose(language) {
    this.#language = language;
    try {
      localStorage.setItem(PREFERRED, language);
    } catch {
      // The choice is kept until the page is closed.
    }
    this.#draw(language);
  }

  #draw(language) {
    const isForm = language === FORM;
    byId("program").hidden = isForm;
    byId("input-json").hidden = !isForm;
    byId("apply").hidden = !isForm;
    byId("program").textContent = isForm ? "" : codeFor(language, this.#call);
    byId("copy").textContent = "Copy";
    this.#say("");
    for (const tab of byId("languages").children) {
      tab.setAttribute("aria-pressed", String(tab.dataset.language === language));
    }
  }

  #say(problem) {
    byId("code-problem").textContent = problem;
    byId("code-problem").hidden = problem === "";
  }

  async #apply() {
    let input;
    try {
      input = json.parse(byId("input-json").value);
    } catch (error) {
      return this.#say(`This is not JSON: ${error.message}`);
    }
    if (input === null || typeof input !== "object" || Array.isArray(input))
      return this.#say("An input is an object: { … }");
    this.#page.address.correct({ code: null }); // going back would undo a change of the model
    this.#dialog.close();
    await this.#page.apply(this.#call.endpoint, input);
  }

  async #copy() {
    const isForm = byId("program").hidden;
    await copyText(byId(isForm ? "input-json" : "program"));
    byId("copy").textContent = "Copied";
  }
}
