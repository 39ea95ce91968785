// Endpoints that this Darkroom serves, from `/v1/models`.

import { BASE } from "./api.js";
import { keep, keepText, read } from "./storage.js";

const MOST_PAGES = 50;
const MOST_IDS = 50; // in one call
const PLACE = "darkroom.model"; // the last model with its schema, so that its form is shown at once

/** Client of `/v1/models` that caches the models' schemas. The signal `all` has the latest list. */
export class Models {
  #api;
  #all;
  #whole = new Map(); // id → a promise of the model with its schema

  constructor(api, all) {
    this.#api = api;
    this.#all = all;
  }

  /** All models, without their schemas. */
  async list() {
    const found = [];
    let cursor = null;
    for (let page = 0; page < MOST_PAGES; page += 1) {
      const from = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
      const answer = await this.#api.call("GET", `v1/models?limit=100${from}`);
      found.push(...answer.models);
      cursor = answer.next_cursor ?? null;
      if (cursor === null) break;
    }
    this.#all.value = found.map(readModel);
    return this.#all.value;
  }

  /** Model with `input`: the JSON schema of its input as `{schema, document}`, or null. */
  async one(id) {
    if (!this.#whole.has(id)) {
      const looking = this.#look(id);
      this.#whole.set(id, looking);
      const forget = () => this.#whole.get(id) === looking && this.#whole.delete(id);
      looking.then((found) => found ?? forget(), forget); // it may be added later
    }
    return await this.#whole.get(id);
  }

  /** All models that are served, with their schemas. */
  async served() {
    const ids = (await this.list()).filter(({ away }) => away === "").map(({ id }) => id);
    const missing = ids.filter((id) => !this.#whole.has(id));
    for (let at = 0; at < missing.length; at += MOST_IDS) {
      const asked = missing.slice(at, at + MOST_IDS);
      const query = `limit=100&expand=openapi-3.0&endpoint_id=${encodeURIComponent(asked.join())}`;
      for (const each of await this.#read(query))
        this.#whole.set(each.endpoint_id, Promise.resolve(withInput(each)));
    }
    return (await Promise.all(ids.map((id) => this.one(id)))).filter((each) => each !== null);
  }

  async #look(id) {
    const found = await this.find(id, "&expand=openapi-3.0");
    return found && withInput(found.given);
  }

  /** Model, and what `/v1/models` says of it; null if there is none. With `expand`, more of it. */
  async find(id, expand = "") {
    const models = await this.#read(`endpoint_id=${encodeURIComponent(id)}${expand}`);
    const found = models.find((each) => each.endpoint_id === id);
    return found === undefined ? null : { ...readModel(found), given: found };
  }

  async #read(query) {
    return (await this.#api.call("GET", `v1/models?${query}`)).models;
  }

  /** Model that was used last in this browser, as it was then; null without one. */
  get last() {
    return read(PLACE);
  }

  keep(model) {
    keep(PLACE, model);
  }

  forget() {
    this.#whole.clear();
    keepText(PLACE, null);
  }
}

function readModel({ endpoint_id: id, metadata = {}, darkroom = {}, darkroom_demo: demo = false }) {
  const { category = "", description = "", license: licence = "" } = metadata;
  return {
    id,
    name: metadata.display_name || id,
    description,
    category,
    licence,
    /** Kind of file that it makes: image, video or audio; empty if it is not known. */
    makes: /(image|video|audio)$/.exec(category)?.[1] ?? "",
    /** Where its weights are: hot, warm, cold, not_served or unknown. */
    state: darkroom.state ?? "unknown",
    /** Reason why it cannot be used here; empty if it can. */
    away: awayOf(darkroom),
    demo,
    /** What its own weights take without a GPU: `{seconds, download_gb}`; null if not stated. */
    cpu: darkroom.cpu ?? null,
    /** What the demo model can make, as a sentence. */
    aboutDemo: darkroom.about_demo ?? "",
    /** Words that the demo model knows, by group; without groups, they are not known. */
    demoWords: darkroom.demo_words ?? {},
    /** True if its inputs can be drafts. */
    drafts: darkroom.drafts === true,
    /** What it was tried with: `{input, output}`; the output may be missing. */
    examples: darkroom.examples ?? [],
    readme: darkroom.readme,
    family: darkroom.family,
    origin: darkroom.origin,
    weights: darkroom.weights,
    recipes: darkroom.recipes,
  };
}

/** Words about an endpoint that takes no requests. */
const SESSIONS_ONLY =
  "It takes realtime sessions only. Programs open them, such as with fal_client.realtime.";

function awayOf({ served, reason, requests }) {
  if (served === false) return reason || "This model is not served here.";
  return requests === false ? SESSIONS_ONLY : "";
}

/** URL of the first image in an output, or of the poster of its video; null without one. Paths are
 * below the address of this Darkroom. */
export function imageIn(output) {
  const first = output?.images?.[0]?.url ?? output?.image?.url ?? output?.poster?.url;
  if (typeof first !== "string" || !/^(https?:|data:image\/|\/)/.test(first)) return null;
  return first.startsWith("/") ? new URL(first.slice(1), BASE).href : first;
}

/** Model with its input, as `one` has it; the input is null without the OpenAPI document. */
function withInput(given) {
  const document = given.openapi;
  const schema = inputSchema(document, given.endpoint_id);
  return { ...readModel(given), input: schema && { schema, document } };
}

/** Schema of the input of the endpoint `id` in its OpenAPI document, or null. */
export function inputSchema(document, id) {
  return jsonSchema(document?.paths?.[`/${id}`]?.post?.requestBody);
}

/** Schema of a body in JSON, or null. */
export function jsonSchema(body) {
  return body?.content?.["application/json"]?.schema ?? null;
}
