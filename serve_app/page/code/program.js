// Dialog that shows a request as a program.

import { BASE } from "../client/api.js";
import { codeFor, LANGUAGES } from "./code.js";
import { open, makeClosable } from "../interface/dialog.js";
import { byId, element } from "../interface/element.js";

const PREFERRED = "darkroom.language";

/** Dialog with one tab per language. The last choice is stored. `address` is the page's. */
export class ProgramDialog {
  #dialog = byId("code");
  #call = null;
  #language;

  #address;

  constructor(address) {
    this.#address = address;
    makeClosable(this.#dialog);
    this.#dialog.addEventListener("close", () => this.#address.leave("code"));
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

  /** Closes the dialog, or opens it again with what it showed last. */
  follow(code) {
    if (code === null) this.#dialog.close();
    else if (this.#call === null) this.#address.correct({ code: null });
    else this.show(this.#call);
  }

  show({ endpoint, input }) {
    if (this.#address.now.code === null) this.#address.go({ code: "1", request: null });
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
