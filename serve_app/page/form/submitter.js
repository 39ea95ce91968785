// Submits what is in the form, again or as a grid.

import { isLost, Refused } from "../client/api.js";
import { endpointPath } from "../client/watch.js";
import { button, byId } from "../interface/element.js";
import { tool } from "../interface/late.js";
import { allLoaded } from "./file_input.js";
import { aspectOf } from "../results/aspect.js";
import { fieldsOf } from "./schema.js";
import { keepUsed, PROMPTS } from "./used.js";
import { expanded } from "./wildcards.js";

const NO_ANSWER =
  "Darkroom did not answer, so this request may or may not have been accepted. Check the list of requests before you try again.";

const REPEATING =
  "Darkroom did not answer. The page tries again for up to a minute; it stays one request.";

/** New noise of a variation of a draft. */
const VARIATION = 0.3;

/** Submits requests and shows them on the stage. `page` has the parts `api`, `models`, `form`, `stage`, and the functions `announce`, `complain`, `use`, `cancel`, and `goingOn()`: the draft that
 * the form goes on from, or null. */
export class Submitter {
  #page;
  #grids = null; // the module of the grids, when it is loaded
  #submitting = new Set(); // sources of requests that are not accepted yet

  constructor(page) {
    this.#page = page;
  }

  /** Submits the form of `model` when its files are uploaded, unless the form of another one is shown by
   * then; with `draft`, `{count, until}`, it makes drafts. Problems are shown at their fields. Until the
   * request is accepted, a further call from that form does nothing: who presses again on a slow
   * connection wants one request. `page` has what differs for the form of a model's page. True if it was submitted. */
  async generate(model, { draft, button = byId("generate"), ...page } = {}) {
    const source = page.form ? model.id : "";
    if (this.#submitting.has(source) || model === null) return false;
    const { complain, form, goingOn } = { ...this.#page, ...page };
    complain("");
    button.setAttribute("aria-busy", "true");
    this.#submitting.add(source);
    try {
      await allLoaded(button.form);
      if (!form.isOf(model)) return false;
      const input = this.#read(model, form, goingOn());
      if (input === null) return false;
      if (draft) await this.#submit(model, drafted(input, draft), { complain });
      else await this.#submit(model, input, { origin: goingOn()?.given.origin, complain });
      return true;
    } catch (error) {
      complain(this.#problemsOf(error, model, form));
      return false;
    } finally {
      this.#submitting.delete(source);
      button.removeAttribute("aria-busy");
    }
  }

  /** Asks which fields vary, and submits a request for each combination of their values. */
  async openGrid(model) {
    const { form, goingOn } = this.#page;
    const input = this.#read(model, form, goingOn());
    if (input === null) return;
    await this.#page.use("grid", async ({ chooseGrid }) => {
      await this.loadGrids();
      const draft = goingOn();
      const fields = fieldsOf(model.input).filter((field) => draft?.leaves(field) ?? true);
      const known = { model, endpoint: model.id, origin: draft?.given.origin };
      chooseGrid(fields, input, (cells) =>
        this.#submitGrid(cells[0].grid, { ...known, input: cells[0].input }, () => cells),
      );
    });
  }

  /** Submits the input of a request again with other seeds: `count` results. */
  async repeat(request, count) {
    const { endpoint, input, restored, origin } = request;
    try {
      const model = await this.#modelOf(endpoint);
      const whole = restored ? await this.whole(request) : input;
      const { seed: _seed, seeds: _seeds, noise_seed: _noise, ...rest } = whole;
      if (rest.from_draft) rest.new_noise ||= VARIATION; // its seed is the draft's
      const fields = model.input ? fieldsOf(model.input) : [];
      const single = rest.draft || rest.from_draft;
      const most = single ? 1 : fields.find(({ name }) => name === "num_images")?.most;
      const together = count > 1 && most >= count;
      const body = together ? { ...rest, num_images: count } : rest;
      for (let made = 0; made < (together ? 1 : count); made += 1)
        await this.#submit(model, body, { origin });
    } catch (error) {
      this.#page.complain(wordsOf(error));
    }
  }

  /** Submits a prompt to another model, with its defaults. Returns what went wrong, or "". */
  drawWith(id, prompt) {
    const drawing = this.#modelOf(id).then((model) => this.#submit(model, { prompt }));
    return drawing.then(() => "", wordsOf);
  }

  /** Finishes a draft of `request` as it is. Throws `Refused` or `Unreachable`. */
  async finish(request, draft, origin) {
    const model = await this.#modelOf(request.endpoint);
    const input = { ...(await this.baseOf(request, draft)), from_draft: draft.id };
    await this.#submit(model, input, { origin, reveal: false });
  }

  /** Input that made one draft of `request`. */
  async baseOf(request, { seed }) {
    const whole = request.restored ? await this.whole(request) : request.input;
    const { draft: _draft, seeds: _seeds, ...rest } = whole;
    return { ...rest, seed };
  }

  /** Input of a request as the server has it; otherwise as this tab kept it. Throws `Refused` or
   * `Unreachable` if what it kept is `cut`: without its files and settings, it is another input. */
  async whole({ id, input, cut = false }) {
    try {
      const request = await this.#page.api.call("GET", `v1/requests/${encodeURIComponent(id)}`);
      return request.input ?? input;
    } catch (error) {
      if (cut) throw error;
      return input;
    }
  }

  /** Model of an endpoint. Throws an error with words for the user if it is not served. */
  async #modelOf(endpoint) {
    const model = await this.#page.models.one(endpoint);
    if (model === null) throw new Error(`This Darkroom does not serve ${endpoint}.`);
    return model;
  }

  /** Loads what shows grids. */
  async loadGrids() {
    this.#grids ??= await tool("grid");
  }

  /** Place of the card of a request in its grid; null if grids could not be loaded. */
  cell(request) {
    const rest = (known, isThere) =>
      this.#submitGrid(known.grid, known, async () => {
        const input = known.cut ? await this.whole(known) : known.input;
        return this.#grids.cellsOf(known.grid, input).filter(({ grid }) => !isThere(grid.at));
      });
    const cancel = (id) => this.#page.cancel({ id });
    return this.#grids?.cellOf(request, { cancel, rest }) ?? null;
  }

  /** Input in the form; null if there is none, or a value is not valid. */
  #read(model, form, draft) {
    const input = model === null ? null : form.read();
    if (input === null) return null;
    form.keep();
    const ready = { ...input };
    if (typeof input.prompt === "string") {
      keepUsed(PROMPTS, input.prompt);
      ready.prompt = expanded(input.prompt);
    }
    return draft?.applied(ready) ?? ready;
  }

  #submitGrid(grid, known, read) {
    const submit = (...given) => this.#submit(...given);
    const [modelOf, cell] = [(id) => this.#modelOf(id), (request) => this.cell(request)];
    return this.#grids.submitCells(grid, known, read, { ...this.#page, submit, modelOf, cell });
  }

  /** Id of the request. `tries` is as in `Api.submit`. Throws `Refused` or `Unreachable`. */
  async #submit(model, input, { grid, origin, tries, complain, reveal = true } = {}) {
    const { api, stage, announce } = this.#page;
    const at = Date.now();
    const path = `queue/${endpointPath(model.id)}`;
    const posting = tries ? api.submit(path, input, tries) : this.#post(path, input, complain);
    const { request_id: id } = await posting;
    const { id: endpoint, name, demo, makes } = model;
    const aspect = aspectOf(input, defaultsOf(model), makes, sourceSides());
    stage.add({ id, endpoint, input, name, demo, makes, aspect, at, grid, origin });
    announce("Submitted.");
    if (reveal && (grid === undefined || String(grid.at) === "0,0")) stage.reveal();
    return id;
  }

  /** Submits `input`. While its answer is lost, the page says that it tries again, until the user
   * stops it. Throws `Refused` or `Unreachable`. */
  async #post(path, input, complain = this.#page.complain) {
    const { api } = this.#page;
    const over = new AbortController();
    const stop = button("Stop", () => {
      stop.disabled = true; // the answer of a call that is on its way still counts
      over.abort();
    });
    const waits = () => {
      if (!stop.isConnected) complain(REPEATING, " ", stop);
    };
    try {
      return await api.submit(path, input, { waits, signal: over.signal });
    } finally {
      if (stop.isConnected) complain("");
    }
  }

  /** Shows the problems of `error` at their fields; returns the others as text. */
  #problemsOf(error, model, form) {
    const isHere = error instanceof Refused && error.problems.length > 0 && form.isOf(model);
    return isHere ? form.tell(error.problems).join(" ") : wordsOf(error);
  }
}

/** `input` for drafts of it. Their number is in `draft`, or that of the seeds. */
function drafted({ num_images: _count, ...input }, { count, until }) {
  return { ...input, draft: input.seeds?.length ? { until } : { count, until } };
}

function wordsOf(error) {
  return isLost(error) ? NO_ANSWER : error.message;
}

function defaultsOf({ input }) {
  const fields = input ? fieldsOf(input) : [];
  return Object.fromEntries(fields.map(({ name, fallback }) => [name, fallback]));
}

/** Sides of the input image in the form, or null. */
function sourceSides() {
  const image = byId("fields").querySelector(".media-preview img");
  return image?.naturalWidth > 0 ? [image.naturalWidth, image.naturalHeight] : null;
}
