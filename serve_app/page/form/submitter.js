// Submits what is in the form, again or as a grid.

import { Refused, Unreachable } from "../client/api.js";
import { endpointPath } from "../client/watch.js";
import { byId } from "../interface/element.js";
import { tool } from "../interface/late.js";
import { allLoaded } from "./file_input.js";
import { aspectOf } from "../results/aspect.js";
import { fieldsOf } from "./schema.js";
import { keepUsed, PROMPTS } from "./used.js";
import { expanded } from "./wildcards.js";

const NO_ANSWER =
  "Darkroom did not answer, so this request may or may not have been accepted. Check the list of requests before you try again.";

/** New noise of a variation of a draft. */
const VARIATION = 0.3;

/** Submits requests and shows them on the stage. `page` has the parts of the page that it uses: `api`,
 * `models`, `form`, `stage`, `recent`, and the functions `announce`,
 * `complain`, `use`, `cancel`, and `goingOn()`: the draft that the form goes on from, or null. */
export class Submitter {
  #page;
  #grids = null; // the module of the grids, when it is loaded
  #waits = false; // for files that are being uploaded

  constructor(page) {
    this.#page = page;
  }

  /** Submits the form of `model` when its files are uploaded, unless the form of another one is shown by
   * then; with `draft`, `{count, until}`, it makes drafts. Problems are shown at their fields. While it
   * waits for files, a further call does nothing: it would submit the same input twice. */
  async generate(model, { draft } = {}) {
    if (this.#waits || model === null) return;
    const { complain, form, goingOn } = this.#page;
    complain("");
    const button = byId("generate");
    button.setAttribute("aria-busy", "true");
    try {
      this.#waits = true;
      await allLoaded().finally(() => (this.#waits = false));
      if (!form.isOf(model)) return;
      const input = this.#read(model);
      if (input === null) return;
      if (draft) await this.#submit(model, drafted(input, draft));
      else await this.#submit(model, input, { origin: goingOn()?.origin });
    } catch (error) {
      complain(this.#problemsOf(error, model));
    } finally {
      button.removeAttribute("aria-busy");
    }
  }

  /** Asks which fields vary, and submits a request for each combination of their values. */
  async openGrid(model) {
    const input = this.#read(model);
    if (input === null) return;
    await this.#page.use("grid", async ({ chooseGrid }) => {
      await this.loadGrids();
      const draft = this.#page.goingOn();
      const fields = fieldsOf(model.input).filter((field) => draft?.leaves(field) ?? true);
      chooseGrid(fields, input, (cells) => this.#submitGrid(model, cells));
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
    return this.#grids?.cellOf(request, (id) => this.#page.cancel({ id })) ?? null;
  }

  /** Input in the form; null if there is none, or a value is not valid. */
  #read(model) {
    const { form } = this.#page;
    const input = model === null ? null : form.read();
    if (input === null) return null;
    form.keep();
    const ready = { ...input };
    if (typeof input.prompt === "string") {
      keepUsed(PROMPTS, input.prompt);
      ready.prompt = expanded(input.prompt);
    }
    return this.#page.goingOn()?.applied(ready) ?? ready;
  }

  async #submitGrid(model, cells) {
    let done = 0;
    try {
      for (const { input, grid } of cells) {
        if (this.#grids.isStopped(grid)) break;
        const origin = this.#page.goingOn()?.origin;
        const id = await this.#submit(model, input, { grid, origin });
        done += 1;
        if (this.#grids.isStopped(grid)) await this.#page.cancel({ id }); // it was on its way
      }
    } catch (error) {
      const words = `${done} of ${cells.length} requests were submitted. ${wordsOf(error)}`;
      this.#page.complain(words);
    }
    this.#grids.allSubmitted(cells[0].grid);
    this.#page.recent.look();
  }

  /** Id of the request. Throws `Refused` or `Unreachable`. */
  async #submit(model, input, { grid, origin, reveal = true } = {}) {
    const { api, stage, recent, announce } = this.#page;
    const at = Date.now();
    const path = `queue/${endpointPath(model.id)}`;
    const { request_id: id } = await api.call("POST", path, input);
    const { id: endpoint, name, demo, makes } = model;
    const aspect = aspectOf(input, defaultsOf(model), makes, sourceSides());
    stage.add({ id, endpoint, input, name, demo, makes, aspect, at, grid, origin });
    announce("Submitted.");
    if (grid === undefined) recent.look(); // a grid does so at its end
    if (reveal && (grid === undefined || String(grid.at) === "0,0")) stage.reveal();
    return id;
  }

  /** Shows the problems of `error` at their fields; returns the others as text. */
  #problemsOf(error, model) {
    const { form } = this.#page;
    const isHere = error instanceof Refused && error.problems.length > 0 && form.isOf(model);
    return isHere ? form.tell(error.problems).join(" ") : wordsOf(error);
  }
}

/** `input` for drafts of it. Their number is in `draft`, or that of the seeds. */
function drafted({ num_images: _count, ...input }, { count, until }) {
  return { ...input, draft: input.seeds?.length ? { until } : { count, until } };
}

function wordsOf(error) {
  return error instanceof Unreachable ? NO_ANSWER : error.message;
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
