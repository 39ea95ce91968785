// What the parts of the operator's view share: calls, questions, and what is said about them.

import { ask, wordsOf } from "../interface/ask.js";
import { element, freshId } from "../interface/element.js";

const SAID_MS = 10_000; // it covers what is below it

/** Desk of an operator. `page` is that of the view. `look()` looks again at the part that is shown. */
export class Desk {
  #page;
  #said = element("p", { class: "said", role: "status", hidden: true });
  #problem = element("p", { class: "problem", role: "alert", hidden: true });
  #timer = null;
  #kinds = null;

  constructor(page, look) {
    this.#page = page;
    this.look = look;
    this.node = element("div", { class: "answers" }, this.#said, this.#problem);
  }

  get page() {
    return this.#page;
  }

  get caller() {
    return this.#page.caller;
  }

  /** JSON of a call, see `Api.call`. */
  async call(method, path, body, headers = {}) {
    return await this.#page.api.call(method, path, body, headers);
  }

  /** Declarations of the resources by name, asked for once. Throws like `Api.call`. */
  async resources() {
    this.#kinds ??= this.call("GET", "v1/resources").then(
      ({ resources }) => new Map(resources.map((kind) => [kind.name, kind])),
    );
    try {
      return await this.#kinds;
    } catch (error) {
      this.#kinds = null;
      throw error;
    }
  }

  async resource(name) {
    return (await this.resources()).get(name);
  }

  /** Does something without a question, or says the problem. With `done` it says so and looks again.
   * True if it was done. */
  async run(work, done = null) {
    try {
      const result = await work();
      if (done !== null) this.#done(done, result);
      return true;
    } catch (error) {
      this.complain(wordsOf(error));
      return false;
    }
  }

  /** Asks first, see `ask()`, then says `done` and looks again. Resolves with the result, or null. */
  async ask({ done, ...question }) {
    const result = await ask(question);
    if (result !== null) this.#done(done, result);
    return result;
  }

  /** Says what was done, and looks at what it changed. `words` may be a function of the result. */
  #done(words, result) {
    this.complain("");
    this.#said.textContent = typeof words === "function" ? words(result) : words;
    this.#said.hidden = false;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#said.hidden = true), SAID_MS);
    this.look();
  }

  complain(words) {
    this.#problem.textContent = words;
    this.#problem.hidden = words === "";
    if (words !== "") this.#said.hidden = true;
  }

  /** Says nothing more about what was done, as when another part is opened. */
  clear() {
    this.complain("");
    this.#said.hidden = true;
  }
}

/** Select of `choices`, pairs of value and words. `change()` is called at each choice. */
export function select(choices, change) {
  return element("select", { id: freshId("choice"), change }, options(choices));
}

/** Options of `choices`, pairs of value and words. */
export function options(choices) {
  return choices.map(([value, words]) => element("option", { value }, words));
}

/** `control`, which has an id, under its label. */
export function labelled(words, control) {
  return element("div", {}, element("label", { for: control.id }, words), control);
}

/** Section with a heading, a sentence and content. */
export function section(name, about, ...content) {
  return element(
    "section",
    { "aria-label": name },
    element("h3", {}, name),
    about === "" ? null : element("p", { class: "help" }, about),
    ...content,
  );
}

/** Time in words: seconds, minutes, hours or days. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "—";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800
    ? `${Math.round(seconds / 3600)} h`
    : `${Math.round(seconds / 86_400)} days`;
}
