// Facts of a result: what the server knows about its request.

import * as json from "../../client/json.js";
import { requestPath, resultOf } from "../../client/watch.js";
import { titleOf } from "../../form/help.js";
import { factRows, h } from "../../interface/element.js";
import { RENEWED_MS } from "../../results/media.js";
import { bytes, clock, seconds } from "../../interface/words.js";
import { itemsOf } from "../collection.js";

const MOST_CHARACTERS = 120; // of a setting
const MOST_KEPT = 60; // requests

/** Reader of whole requests, which keeps the last ones. */
export class Facts {
  #api;
  #kept = new Map(); // id → promise
  #forgotten = new Map(); // id → time

  constructor(api) {
    this.#api = api;
  }

  /** `{request, output}` of an ended request. Throws `Refused` or `Unreachable`. */
  of(id) {
    if (!this.#kept.has(id)) {
      if (this.#kept.size >= MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value);
      const looking = this.#look(id);
      this.#kept.set(id, looking);
      looking.catch(() => this.#kept.delete(id));
    }
    return this.#kept.get(id);
  }

  /** Item with this key, which need not be loaded. `undefined` if there is none, or no answer. */
  async itemOf(key) {
    const whole = await this.of(key.split(".")[0]).catch(() => null);
    return whole === null ? undefined : itemsOf(whole.request).find((each) => each.key === key);
  }

  /** Lets the next call read the request again, unless that was done just now. */
  forget(id) {
    if (Date.now() - (this.#forgotten.get(id) ?? 0) < RENEWED_MS) return;
    this.#forgotten.set(id, Date.now());
    this.#kept.delete(id);
  }

  async #look(id) {
    const request = await this.#api.call("GET", `v1/requests/${encodeURIComponent(id)}`);
    const { output } =
      request.state === "succeeded"
        ? await resultOf(this.#api, requestPath(request.endpoint_id, id))
        : {};
    return { request, output };
  }
}

/** Facts of an item by name; `whole` is of `Facts`, or null while it is loading. */
export function factsOf({ file, request, index, of }, whole) {
  const { seed, seeds = [] } = whole?.output ?? {};
  const pixels = file?.width && file.height ? `${file.width} × ${file.height}` : "";
  return {
    Model: request.endpoint_id,
    Draft: whole?.request.input.draft ? draftWords(whole.request.input.draft) : "",
    Seed: (seeds.length === of ? seeds[index] : seed) ?? whole?.request.input.seed,
    File: [pixels, bytes(file?.size)].filter(Boolean).join(" · "),
    Made: clock(request.created_at),
    Compute: request.run_s > 0 ? seconds(request.run_s) : "",
  };
}

/** Settings in the input of a request by their labels in the form, without its prompt and its seed. */
export function settingsOf(input) {
  const left = Object.entries(input).filter(
    ([name, value]) => !["prompt", "seed", "seeds", "sync_mode", "draft"].includes(name) && value !== null,
  );
  return Object.fromEntries(left.map(([name, value]) => [titleOf(name), words(value)]));
}

/** List of facts. Those without a value are left out. */
export function listOf(facts) {
  return h.dl({ class: "rows" }, factRows(facts));
}

function draftWords({ count, until }) {
  const steps = `${Math.round(100 * until)} % of the steps`;
  return count > 1 ? `one of ${count}, ${steps}` : steps;
}

function words(value) {
  if (value?.width && value.height) return `${value.width} × ${value.height}`;
  const text = typeof value === "string" ? value : json.write(value);
  if (text.startsWith("data:")) return "a file";
  return text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)} …` : text;
}
