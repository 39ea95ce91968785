// Dialog that shows a request as a program.

import { BASE } from "./api.js";
import { codeFor, LANGUAGES } from "./code.js";
import { open, makeClosable } from "./dialog.js";
import { byId, element } from "./element.js";

const PREFERRED = "darkroom.language";

/** Dialog with one tab per language. The last choice is stored. */
export class ProgramDialog {
  #dialog = byId("code");
  #call = null;
  #language;

  constructor() {
    makeClosable(this.#dialog);
    try {
      this.#language = localStorage.getItem(PREFERRED);
    } catch {
      this.#language = null;
    }
    if (!(this.#language in LANGUAGES)) this.#language = "python";
    const tabs = Object.entries(LANGUAGES).map(([language, name]) =>
      element(
        "button",
        {
          type: "button",
          "data-language": language,
          "aria-pressed": "false",
          click: () => this.#choose(language),
        },
        name,
      ),
    );
    byId("languages").replaceChildren(...tabs);
    byId("copy").addEventListener("click", () => this.#copy());
  }

  show({ endpoint, input }) {
    this.#call = { endpoint, input, base: BASE.href.replace(/\/$/, "") };
    this.#draw();
    open(this.#dialog);
  }

  #choose(language) {
    this.#language = language;
    try {
      localStorage.setItem(PREFERRED, language);
    } catch {
      // The choice is kept until the page is closed.
    }
    this.#draw();
  }

  #draw() {
    byId("program").textContent = codeFor(this.#language, this.#call);
    byId("copy").textContent = "Copy";
    for (const tab of byId("languages").children) {
      tab.setAttribute("aria-pressed", String(tab.dataset.language === this.#language));
    }
  }

  async #copy() {
    const program = byId("program");
    try {
      await navigator.clipboard.writeText(program.textContent);
    } catch {
      // Over plain HTTP from another machine the clipboard API is missing, so use the older way.
      getSelection().selectAllChildren(program);
      document.execCommand("copy");
    }
    byId("copy").textContent = "Copied";
  }
}
