// Endpoints that this Darkroom serves, from `/v1/models`.

const MOST_PAGES = 50;

/** Client of `/v1/models` that caches the models' schemas. */
export class Models {
  #api;
  #whole = new Map(); // id → a promise of the model with its schema

  constructor(api) {
    this.#api = api;
  }

  /** All models, without their schemas. */
  async list() {
    const models = [];
    let cursor = null;
    for (let page = 0; page < MOST_PAGES; page += 1) {
      const query = cursor === null ? "" : `?cursor=${encodeURIComponent(cursor)}`;
      const answer = await this.#api.call("GET", `v1/models${query}`);
      models.push(...(answer.models ?? []));
      cursor = answer.next_cursor ?? null;
      if (cursor === null || answer.has_more === false) break;
    }
    return models.filter((model) => typeof model.endpoint_id === "string").map(readModel);
  }

  /** Model with `input`: the JSON schema of its input as `{schema, document}`, or null. */
  async one(id) {
    if (!this.#whole.has(id)) {
      const looking = this.#look(id);
      this.#whole.set(id, looking);
      looking.catch(() => this.#whole.delete(id));
    }
    return await this.#whole.get(id);
  }

  async #look(id) {
    const query = `endpoint_id=${encodeURIComponent(id)}&expand=openapi-3.0`;
    const answer = await this.#api.call("GET", `v1/models?${query}`);
    const found = answer.models?.find((model) => model.endpoint_id === id);
    return found ? { ...readModel(found), input: inputOf(found, id) } : null;
  }

  forget() {
    this.#whole.clear();
  }
}

function readModel(model) {
  const metadata = model.metadata ?? {};
  return {
    id: model.endpoint_id,
    name: metadata.display_name || model.endpoint_id,
    description: metadata.description ?? "",
    category: metadata.category ?? "",
    licence: licenceOf(metadata.license ?? metadata.licence),
    /** Reason why it is not served; empty if it is served. */
    away: model.darkroom?.served === false ? model.darkroom.reason || "This model is not served here." : "",
    demo: model.darkroom_demo === true || metadata.darkroom_demo === true,
  };
}

function licenceOf(given) {
  return typeof given === "string" ? given : (given?.name ?? "");
}

/** Schema of the endpoint's input, from any of the supported document formats. */
function inputOf(model, id) {
  const document = model.openapi ?? model["openapi-3.0"] ?? model.metadata?.openapi ?? null;
  if (document === null) {
    const schema = model.input_schema ?? model.json_schema;
    return schema ? { schema, document: schema } : null;
  }
  const post = document.paths?.[`/${id}`]?.post ?? firstPost(document);
  const content = post?.requestBody?.content ?? {};
  const schema =
    (content["application/json"] ?? Object.values(content)[0])?.schema ?? named(document);
  return schema ? { schema, document } : null;
}

function firstPost(document) {
  return Object.values(document.paths ?? {}).find((path) => path.post)?.post;
}

function named(document) {
  const schemas = document.components?.schemas ?? {};
  const name = Object.keys(schemas).find((each) => each.endsWith("Input"));
  return name ? schemas[name] : null;
}
