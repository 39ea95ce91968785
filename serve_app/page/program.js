// The dialog with the program for an input.

import { BASE } from "./api.js";
import { codeFor, LANGUAGES } from "./code.js";
import { open, makeClosable } from "./dialog.js";
import { byId, element } from "./element.js";

const PREFERRED = "darkroom.language";

/** In each language that there is; the last one chosen is remembered. */
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
      // It holds until the page is left.
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
      // Over plain HTTP from another machine there is no clipboard to call: the older way.
      getSelection().selectAllChildren(program);
      document.execCommand("copy");
    }
    byId("copy").textContent = "Copied";
  }
}
