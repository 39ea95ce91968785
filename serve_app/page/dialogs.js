// What opens over the page: a request with all that is known of it, and the code for an input.

import { BASE } from "./api.js";
import { codeFor, LANGUAGES } from "./code.js";
import { byId, element } from "./element.js";
import * as json from "./json.js";
import { fileFigure, filesIn } from "./media.js";
import { requestPath, resultOf } from "./watch.js";
import { promptOf } from "./sheet.js";
import { clock, runningWords, seconds, STATES, waitingWords } from "./words.js";

const LOOK_MS = 1500;
const PREFERRED = "darkroom.language";

/** Opens a dialog of the page; Escape, its button and a click beside it close it. */
function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

export function makeClosable(dialog) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

/** `act` has `again` (use this input) and `cancel`, each with the request. */
export class Details {
  #api;
  #act;
  #dialog = byId("details");
  #shown = null; // the id that is open
  #outcome = null;

  constructor(api, act) {
    this.#api = api;
    this.#act = act;
    makeClosable(this.#dialog);
    this.#dialog.addEventListener("close", () => (this.#shown = null));
  }

  async show(id) {
    this.#shown = id;
    this.#outcome = null;
    byId("details-body").replaceChildren(element("p", { class: "help" }, "Looking …"));
    open(this.#dialog);
    while (this.#shown === id) {
      const final = await this.#look(id);
      if (final) return;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  async #look(id) {
    try {
      const request = await this.#api.call("GET", `v1/requests/${encodeURIComponent(id)}`);
      const final = !["queued", "running"].includes(request.state);
      if (final && request.state === "succeeded" && this.#outcome === null) {
        this.#outcome = await resultOf(this.#api, requestPath(request.endpoint_id, id));
      }
      if (this.#shown === id) this.#draw(request, final);
      return final;
    } catch (error) {
      if (this.#shown === id)
        byId("details-body").replaceChildren(element("p", { class: "bad" }, error.message));
      return error.body !== undefined && !error.passing;
    }
  }

  #draw(request, final) {
    const output = this.#outcome?.output;
    const known = { id: request.request_id, endpoint: request.endpoint_id, input: request.input };
    const button = (name, what) =>
      element("button", { type: "button", class: "quiet", click: () => what(known) }, name);
    const again = () => {
      this.#dialog.close();
      this.#act.again(known);
    };
    byId("details-body").replaceChildren(
      element("h2", { id: "details-title" }, promptOf(request.input) || request.endpoint_id),
      element("p", { class: `state ${request.state}` }, this.#standing(request)),
      element(
        "div",
        { class: "made", "data-files": filesIn(output).length },
        ...this.#figures(output, request),
      ),
      element("dl", { class: "rows" }, ...rows(request)),
      element(
        "div",
        { class: "buttons" },
        final ? null : button("Cancel", this.#act.cancel),
        button("Use this input", again),
      ),
      section("Log", element("ol", { class: "log" }, ...(request.log ?? []).map(logLine))),
      section("Input", element("pre", { tabindex: 0 }, short(request.input))),
      output === undefined
        ? null
        : section("Output", element("pre", { tabindex: 0 }, short(output))),
    );
  }

  #standing({ state, waiting, progress, error }) {
    if (state === "queued" && waiting) return waitingWords(waiting.position, waiting);
    if (state === "running") return runningWords(progress ?? {});
    return error ? `${STATES[state]}. ${error.message}` : (STATES[state] ?? state);
  }

  #figures(output, { input }) {
    return filesIn(output).map((file) => fileFigure(file, promptOf(input)));
  }
}

function rows(request) {
  const facts = {
    Request: request.request_id,
    Model: request.endpoint_id,
    Submitted: clock(request.created_at),
    Started: clock(request.started_at),
    Ended: clock(request.finished_at),
    Ran: seconds(request.run_s),
    Attempts: request.attempt,
    Priority: request.priority === "normal" ? "" : request.priority,
  };
  return Object.entries(facts)
    .filter(([, value]) => value !== "" && value !== undefined && value !== null)
    .map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, String(value))),
    );
}

function section(title, ...content) {
  return element("section", {}, element("h3", {}, title), ...content);
}

function logLine({ at, level, message }) {
  return element(
    "li",
    { class: level?.toLowerCase() },
    element("time", {}, clock(at)),
    " ",
    message,
  );
}

/** JSON to read: a data URI is told by its beginning. */
function short(value) {
  return json.write(value, 2).replace(/"(data:[^"]{60})[^"]{40,}"/g, '"$1…"');
}

/** The code for one input, in three languages. */
export class CodeDialog {
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
