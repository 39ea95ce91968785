// Converts a JSON schema to the fields of a form.

import { titleOf } from "./help.js";

/** Fields that users often change, in display order. They follow the prompt and the inputs. */
const FIRST =
  "image_size aspect_ratio resolution num_images duration seconds_total num_frames loras".split(" ");
/** Fields of drafts, for which the form has no controls. */
export const DRAFT_FIELDS = new Set(["draft", "from_draft", "new_noise", "noise_seed"]);
const MEDIA = /(?:^|_)(image|mask|video|audio|file)s?_urls?$/;
const NO_EFFECT = /\b(?:has|have|had) no effect\b|\bwithout effect\b|\bis ignored\b/i;

/**
 * Fields of an object's schema, in display order: `{name, title, description, kind, required,
 * fallback, always, least, most, step, choices, media, first, items, mostItems}`. `fallback` is the
 * default. `always` is sent where nothing else is chosen: `auto`, the shape of the input image.
 * Fields without effect here, unsupported fields and those of drafts are omitted.
 *
 * Kinds: prompt, text, whole, decimal, choice, switch, size, media, media-list, list (of numbers or
 * words, with the kind of an item in `items`), rows (of objects, with their fields in `items`), json.
 */
export function fieldsOf({ schema, document }) {
  const whole = plain(schema, document);
  const properties = Object.entries(whole.properties ?? {});
  const order = whole["x-fal-order-properties"] ?? [];
  const required = new Set(whole.required ?? []);
  const place = ([name]) => (order.includes(name) ? order.indexOf(name) : order.length);
  return properties
    .sort((one, other) => place(one) - place(other))
    .map(([name, property]) => readField(name, property, required.has(name), document))
    .filter((field) => field !== null)
    .sort((one, other) => FIRST.indexOf(one.name) - FIRST.indexOf(other.name));
}

/** True if the schema names no fields, so that any object is accepted. */
export function isOpen({ schema, document }) {
  const whole = plain(schema, document);
  return Object.keys(whole.properties ?? {}).length === 0;
}

function readField(name, property, required, document) {
  const spec = plain(property, document);
  if (!required && (isVain(spec) || "const" in spec || DRAFT_FIELDS.has(name))) return null;
  const media = mediaOf(name, spec, document);
  const kind = kindOf(name, spec, media, document);
  const choices = choicesOf(spec, document);
  const always = kind === "size" && choices.includes("auto") ? "auto" : undefined;
  return {
    name,
    title: titleOf(name),
    description: spec.description ?? "",
    kind,
    required,
    fallback: always ?? spec.default,
    always,
    least: spec.minimum ?? above(spec.exclusiveMinimum, kind),
    most: spec.maximum ?? below(spec.exclusiveMaximum, kind),
    step: spec.multipleOf,
    choices,
    media,
    items: itemsOf(kind, spec, document),
    mostItems: spec.maxItems,
    first: required || kind === "prompt" || kind.startsWith("media") || FIRST.includes(name),
  };
}

/** `property` with references resolved, and without single-item wrappers and "or null". */
function plain(property, document, depth = 0) {
  if (!property || typeof property !== "object" || depth > 20) return {};
  const { $ref, ...rest } = property;
  if ($ref) return plain({ ...target($ref, document), ...rest }, document, depth + 1);
  for (const wrapper of ["allOf", "anyOf", "oneOf"]) {
    // A file of fal's toolkit is a URL alone, or an object with it: the form sends the URL.
    const marked = property[wrapper]?.filter((each) => each["x-darkroom-file"]);
    const url = marked?.find((each) => each.type === "string");
    const inner = url ? [url] : property[wrapper]?.filter((each) => each.type !== "null");
    if (inner?.length === 1) {
      const { [wrapper]: _, ...around } = property;
      return plain({ ...plain(inner[0], document, depth + 1), ...around }, document, depth + 1);
    }
  }
  if (Array.isArray(property.type)) {
    const types = property.type.filter((each) => each !== "null");
    if (types.length === 1) return { ...property, type: types[0] };
  }
  return property;
}

function target(reference, document) {
  let found = document;
  for (const part of reference.replace(/^#\//, "").split("/"))
    found = found?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")];
  return found ?? {};
}

function branches(spec, document) {
  const all = spec.anyOf ?? spec.oneOf ?? [spec];
  return all.map((each) => plain(each, document)).filter((each) => each.type !== "null");
}

function kindOf(name, spec, media, document) {
  const ways = branches(spec, document);
  if (ways.some((way) => way.properties?.width && way.properties?.height)) return "size";
  if (media !== null) return spec.type === "array" ? "media-list" : "media";
  if (choicesOf(spec, document).length > 0) return "choice";
  const types = new Set(ways.map((way) => way.type));
  if (types.size > 1 && !(types.size === 2 && types.has("integer") && types.has("number")))
    return "json";
  if (types.has("boolean")) return "switch";
  if (types.has("number")) return "decimal";
  if (types.has("integer")) return "whole";
  if (types.has("string")) return /(?:^|_)prompt$|^text$/.test(name) ? "prompt" : "text";
  return types.has("array") ? arrayKind(spec, document) : "json";
}

function arrayKind(spec, document) {
  const item = plain(spec.items, document);
  if (["integer", "number", "string"].includes(item.type) && !item.enum) return "list";
  const fields = item.properties ? fieldsOf({ schema: item, document }) : [];
  const isFlat = fields.every(({ kind }) => !["json", "rows", "list", "media-list"].includes(kind));
  return fields.length > 0 && isFlat ? "rows" : "json";
}

function itemsOf(kind, spec, document) {
  const item = plain(spec.items, document);
  if (kind === "rows") return fieldsOf({ schema: item, document });
  return { integer: "whole", number: "decimal" }[item.type] ?? "text";
}

function choicesOf(spec, document) {
  return branches(spec, document).flatMap((way) => way.enum ?? ("const" in way ? [way.const] : []));
}

/** Kind of file whose URL the field accepts: image, video, audio, file; null if it is not a URL. */
function mediaOf(name, spec, document) {
  const hint = spec.ui?.field ?? spec["x-ui"]?.field ?? spec._fal_ui_field;
  const item = spec.type === "array" ? plain(spec.items, document) : spec;
  if (item.type !== "string" || item.enum) return null;
  if (name === "path" && /safetensors/.test(spec.description ?? "")) return "weights";
  const named = MEDIA.exec(name)?.[1];
  const marked = item["x-darkroom-file"] ?? hint ?? item.contentMediaType ?? "";
  const told = /^(image|mask|video|audio|file)/.exec(marked)?.[1];
  const kind = told ?? named ?? (/^ur[il]$/.test(item.format ?? "") ? "file" : undefined);
  return kind === "mask" ? "image" : (kind ?? null);
}

/** True if the field has no effect, or is refused unless empty. */
function isVain(spec) {
  const marked = spec["x-darkroom-no-effect"] === true || spec["x-darkroom-not-supported"] === true;
  return marked || NO_EFFECT.test(spec.description ?? "");
}

function above(bound, kind) {
  return typeof bound === "number" && kind === "whole" ? bound + 1 : undefined;
}

function below(bound, kind) {
  return typeof bound === "number" && kind === "whole" ? bound - 1 : undefined;
}
