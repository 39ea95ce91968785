// Models as the view shows them, from `/v1/models`.

const MOST_PAGES = 50;

/** Words for what a model makes, by its kind, in the order in which they are shown. */
export const KINDS = { image: "Images", video: "Videos", audio: "Audio", other: "Others" };

/** Words for where the weights are. */
export const STATES = {
  hot: { name: "Hot", words: "Loaded on a device: a request starts at once." },
  warm: { name: "Warm", words: "In a machine's memory: a request starts within seconds." },
  cold: { name: "Cold", words: "Not loaded: the next request loads it first." },
  not_served: { name: "Not served", words: "Not served here." },
  unknown: { name: "Unknown", words: "The database does not answer now." },
};

/** All models of the catalogue, in its order. */
export async function listModels(api) {
  const found = [];
  let cursor = null;
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const from = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const answer = await api.call("GET", `v1/models?limit=100${from}`);
    found.push(...answer.models);
    cursor = answer.next_cursor;
    if (cursor === null) break;
  }
  return found.map(readModel);
}

/** Model with its OpenAPI document and its price, or null if there is none with this id. */
export async function wholeModel(api, id) {
  const query = `endpoint_id=${encodeURIComponent(id)}`;
  const [answer, prices] = await Promise.all([
    api.call("GET", `v1/models?${query}&expand=openapi-3.0`),
    api.call("GET", `v1/models/pricing?${query}`).catch(() => null),
  ]);
  const [found] = answer.models;
  if (found === undefined) return null;
  return { ...readModel(found), document: found.openapi, price: prices?.prices[0] ?? null };
}

/** Model without its document, or null. */
export async function oneModel(api, id) {
  const answer = await api.call("GET", `v1/models?endpoint_id=${encodeURIComponent(id)}`);
  return answer.models.length > 0 ? readModel(answer.models[0]) : null;
}

function readModel({ endpoint_id: id, metadata, darkroom, darkroom_demo: demo }) {
  return {
    id,
    name: metadata.display_name || id,
    description: metadata.description,
    category: metadata.category,
    licence: metadata.license,
    kind: darkroom.kind in KINDS ? darkroom.kind : "other",
    state: darkroom.state,
    requests: darkroom.requests !== false,
    reason: darkroom.reason ?? "",
    away: darkroom.reason ?? "",
    demo,
    cpu: darkroom.cpu ?? null,
    aboutDemo: darkroom.about_demo ?? "",
    readme: darkroom.readme,
    family: darkroom.family,
    origin: darkroom.origin,
    weights: darkroom.weights,
    recipes: darkroom.recipes,
    examples: darkroom.examples,
  };
}

/** Words for a category, such as `text-to-image`. */
export function categoryWords(category) {
  const words = category.replaceAll("-", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Words for the least memory of a GPU that a recipe is made for; empty without recipes. */
export function memoryWords({ recipes }) {
  const least = Math.min(...recipes.map((each) => each.memory_gb));
  return Number.isFinite(least) ? `from ${least} GB` : "";
}

/** True if the model has all `words` in its texts, and is of the kind and the state. Empty: any. */
export function matches(model, { words, kind, state }) {
  const text = [model.name, model.id, model.description, categoryWords(model.category)]
    .join(" ")
    .toLowerCase();
  return (
    (kind === "" || model.kind === kind) &&
    (state === "" || model.state === state) &&
    words
      .toLowerCase()
      .split(/\s+/)
      .every((word) => text.includes(word))
  );
}
