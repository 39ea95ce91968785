// Panel beside a large result: its prompt, what can be done with it, and its facts.

import { copyButton } from "../../interface/copy.js";
import { button, h } from "../../interface/element.js";
import { isExpired } from "../../results/media.js";
import { factsOf, listOf, settingsOf } from "./facts.js";

const COPY = { class: "quiet copy-prompt", "data-name": "Copy the prompt" };

/**
 * Panel of results. `act` has the callbacks of the buttons, which get the item: `favourite`,
 * `share`, `remove`, `details`, `renew`, which reads it again; and those that get the whole request, and the
 * item: `again`, `newSeed`, `vary`, `four`, `drafts`, `useAsInput`.
 */
export class Panel {
  node = h.aside({ class: "panel", "aria-label": "About this result" });
  #facts;
  #act;
  #shown = null;
  #isPassed = false; // a press that goes on

  constructor(facts, act) {
    this.#facts = facts;
    this.#act = act;
  }

  async show(item) {
    const draw = (whole, problem) => this.#shown === item && this.#draw(item, whole, problem);
    this.#shown = item;
    draw(null, "");
    await this.#facts.of(item.id).then(
      (whole) => draw(whole, ""),
      (error) => draw(null, error.message),
    );
  }

  #draw(item, whole, problem) {
    const { request, file } = item;
    const focused = this.node.contains(document.activeElement)
      ? document.activeElement.dataset.name
      : undefined;
    const prompt = whole?.request.input.prompt ?? request.prompt;
    const settings = whole === null ? {} : settingsOf(whole.request.input);
    const words = h.h2({ class: prompt ? "words" : "words none" }, prompt || request.endpoint_id);
    this.node.replaceChildren(
      words,
      request.drafts ? h.p(h.span({ class: "pill" }, "Draft")) : "",
      prompt ? copyButton(() => words, COPY, COPY["data-name"]) : "",
      this.#buttons(item),
      this.#makeMore(item, whole),
      problem === "" ? "" : h.p({ class: "problem" }, problem),
      listOf(factsOf(item, whole)),
      Object.keys(settings).length ? h.h3("Settings") : "",
      listOf(settings),
      action("Log and JSON", () => this.#act.details(item)),
    );
    if (file === null) this.node.querySelector("[download]")?.remove();
    if (focused) this.node.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
  }

  #buttons(item) {
    const { file, request } = item;
    const favourite = action(request.favourite ? "♥ Favourite" : "♡ Favourite", () =>
      this.#act.favourite(item),
    );
    const click = async (event) => {
      if (this.#isPassed || !isExpired(file.url)) return;
      event.preventDefault();
      await this.#act.renew(item);
      if (this.#shown?.key !== item.key) return;
      this.#isPassed = true; // also if it is old still: the answer says why it does not work
      this.node.querySelector("[download]")?.click(); // the panel was drawn anew
      this.#isPassed = false;
    };
    favourite.dataset.name = "favourite";
    favourite.setAttribute("aria-pressed", String(request.favourite));
    return h.div(
      { class: "buttons" },
      favourite,
      h.a({ class: "quiet button", href: file.url, download: file.name, click }, "Download"),
      action("Share", () => this.#act.share(item)),
      action("Delete", () => this.#act.remove(item), "quiet danger"),
    );
  }

  #makeMore(item, whole) {
    const { again, newSeed, vary, four, drafts, useAsInput } = this.#act;
    const choices = { "Use again": again, "New seed": newSeed, Vary: vary, "× 4": four };
    if (whole?.output?.drafts?.length) choices.Drafts = drafts;
    choices["Use as input"] = useAsInput;
    const titles = {
      "Use again": "Fill the form so that it makes the same result",
      "New seed": "Fill the form, without the seed",
      Vary: "Make another one with a new seed",
      "× 4": "Make four others with new seeds",
      Drafts: "Finish, change or drop the drafts of this request",
      "Use as input": "Use this file as an input of the form",
    };
    return h.div(
      { class: "buttons", role: "group", "aria-label": "Make more" },
      Object.entries(choices).map(([name, what]) => {
        const made = action(name, () => what(whole, item));
        made.disabled = whole === null;
        made.title = titles[name];
        return made;
      }),
    );
  }
}

function action(name, click, kind = "quiet") {
  return button(name, click, { class: kind, "data-name": name });
}
