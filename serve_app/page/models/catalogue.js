// Words for models, the search among them, and what the page of one shows.

import { capitalized } from "../interface/words.js";

/** Words for what a model makes, by its kind, in the order in which they are shown. */
export const KINDS = { image: "Images", video: "Videos", audio: "Audio", other: "Others" };

/** Kind of what a model makes, as in `KINDS`. */
export function kindOf({ makes }) {
  return makes || "other";
}

/** Words for where the weights are. */
export const STATES = {
  hot: { name: "Hot", words: "Loaded on a device: a request starts at once." },
  warm: { name: "Warm", words: "In a machine's memory: a request starts within seconds." },
  cold: { name: "Cold", words: "Not loaded: the next request loads it first." },
  not_served: { name: "Not served", words: "Not served here." },
  unknown: { name: "Unknown", words: "The database does not answer now." },
};

/** Words for a category, such as `text-to-image`. */
export function categoryWords(category) {
  return capitalized(category.replaceAll("-", " "));
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
    (kind === "" || kindOf(model) === kind) &&
    (state === "" || model.state === state) &&
    words
      .toLowerCase()
      .split(/\s+/)
      .every((word) => text.includes(word))
  );
}

/** Model with its OpenAPI document and its price, or null. */
export async function wholeModel({ api, models }, id) {
  const pricing = `v1/models/pricing?endpoint_id=${encodeURIComponent(id)}`;
  const [found, prices] = await Promise.all([
    models.find(id, "&expand=openapi-3.0"),
    api.call("GET", pricing).catch(() => null),
  ]);
  if (found === null) return null;
  return { ...found, document: found.given.openapi, price: prices?.prices[0] ?? null };
}
