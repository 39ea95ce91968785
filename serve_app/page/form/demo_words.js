// Words that a demo model knows: their list, and a line that names the others as one types.

import { byId, h } from "../interface/element.js";

const MOST = 5; // words that are named
const UNSHOWN = "others"; // group of articles and the like

/** Line below the prompt. `show(model)` follows each change of the chosen model. */
export class DemoWords {
  #known = null; // null: any word
  #line = h.p({ class: "help unknown-words", role: "status" });

  constructor() {
    for (const name of ["input", "change"]) byId("form").addEventListener(name, () => this.look());
  }

  /** Lists what `model` knows, and looks at the prompt. Call it when the form has been drawn. */
  show({ demoWords = {} }) {
    const groups = Object.entries(demoWords);
    this.#known = groups.length ? new Set(groups.flatMap(([, words]) => words)) : null;
    byId("demo-words").hidden = this.#known === null;
    byId("demo-words")
      .querySelector("dl")
      .replaceChildren(
        ...groups
          .filter(([name]) => name !== UNSHOWN)
          .map(([name, words]) => h.div(h.dt(name), h.dd(words.join(", ")))),
      );
    prompt()?.after(this.#line);
    this.look();
  }

  /** Names the words of the prompt that are not known. */
  look() {
    const words = this.#known === null ? [] : unknown(prompt()?.value ?? "", this.#known);
    const more = words.length > MOST ? ` and ${words.length - MOST} more` : "";
    this.#line.textContent = words.length
      ? `The demo model does not know: ${words.slice(0, MOST).join(", ")}${more}.`
      : "";
  }
}

function prompt() {
  return byId("fields").querySelector('textarea[id^="field-prompt-"]');
}

/** Different words of `text` that are not among `known`, in their order. */
export function unknown(text, known) {
  const words = text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [];
  return [...new Set(words)].filter((word) => !known.has(word));
}
