// What the parts of the operator's view share: calls, questions, and what is said about them.

import { ask, wordsOf } from "../interface/ask.js";
import { button, h, options, problemLine, tell } from "../interface/element.js";

const SAID_MS = 10_000; // it covers what is below it

/** Desk of an operator. `page` is that of the view. `look()` looks again at the part that is shown. */
export class Desk {
  #said = h.p({ class: "said", role: "status", hidden: true });
  #problem = problemLine();
  #timer = null;
  #kinds = null;

  constructor(page, look) {
    this.page = page;
    this.look = look;
    this.node = h.div({ class: "answers" }, this.#said, this.#problem);
    /** JSON of a call, see `Api.call`. */
    this.call = (...given) => page.api.call(...given);
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
      if (done === null) this.complain("");
      else this.#done(done, result);
      return true;
    } catch (error) {
      this.complain(wordsOf(error));
      return false;
    }
  }

  /** Asks first, see `ask()`, then says `done` and looks again. Resolves with the result, or null. What was
   * refused is looked at again too: somebody else may have changed it. */
  async ask({ done, submit, ...question }) {
    let failed = false;
    const tried = async (...given) => {
      try {
        return await submit(...given);
      } catch (error) {
        failed = true;
        throw error;
      }
    };
    const result = await ask({ ...question, submit: tried });
    if (result !== null) this.#done(done, result);
    else if (failed) this.look();
    return result;
  }

  /** Says what was done, and looks at what it changed. `words` may be a function of the result. */
  #done(words, result) {
    this.complain("");
    tell(this.#said, typeof words === "function" ? words(result) : words);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#said.hidden = true), SAID_MS);
    this.look();
  }

  complain(words) {
    tell(this.#problem, words);
    if (words !== "") this.#said.hidden = true;
  }

  /** Says nothing more about what was done, as when another part is opened. */
  clear() {
    this.complain("");
    this.#said.hidden = true;
  }
}

/** Part of a view: `node` shows it, and `look()` reads what it shows, again each `everyMs` if there are. */
export class Part {
  constructor(desk) {
    this.desk = desk;
  }
}

/** Rows that are read page by page, the newest first. `path()` is the call with its query, whose answer has
 * the rows in `items`; `show(rows, answer)` gets all that were read. `more` is the button for more. */
export class Pages {
  #desk;
  #given;
  #rows = [];
  #next = null;

  constructor(desk, words, given) {
    this.#desk = desk;
    this.#given = given;
    this.more = button(words, () => desk.run(() => this.#load(`&before=${this.#next}`)));
  }

  /** Reads the first page. */
  async look() {
    this.#rows = [];
    await this.#load("");
  }

  async #load(from) {
    const { path, items, show } = this.#given;
    const page = await this.#desk.call("GET", path() + from);
    this.#rows.push(...page[items]);
    this.#next = page.next_before;
    this.more.hidden = this.#next === null;
    show(this.#rows, page);
  }
}

/** Offers `choices` in a select, pairs of value and words, and keeps what is chosen if it is among them. An
 * unchanged list stays open. */
export function offer(control, choices) {
  const chosen = control.value;
  const shown = [...control.options].map(({ value, text }) => [value, text]);
  if (String(shown) === String(choices)) return;
  control.replaceChildren(...options(choices));
  if (choices.some(([value]) => value === chosen)) control.value = chosen;
}

/** Mark with a state, in these words. */
export function pill(state, words = state) {
  return h.span({ class: `pill ${state}` }, words);
}

/** Section with a heading, a sentence and content. */
export function section(name, about, ...content) {
  return h.section(
    { "aria-label": name },
    h.h3(name),
    about !== "" && h.p({ class: "help" }, about),
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
