// Schema of an endpoint's input or output, as a table.

import { jsonSchema } from "../client/models.js";
import { h } from "../interface/element.js";
import { inline } from "./markdown.js";

const MOST_DEPTH = 3;
const MOST_CHOICES = 12;
const NULLABLE = new Set(["null", undefined]);

/** Schema of the output of an endpoint in its OpenAPI document, or null. The path of a result has a part of the id only, as at fal. */
export function outputSchema(document) {
  const result = Object.keys(document?.paths ?? {}).find((path) =>
    path.endsWith("/requests/{request_id}"),
  );
  return jsonSchema(document?.paths?.[result]?.get?.responses?.["200"]);
}

/** Rows of a schema: `{name, type, required, fallback, description, noEffect}`. The fields of objects
 * follow their object, with a dotted name. */
export function rowsOf(schema, document, before = "", depth = 0) {
  const whole = resolved(schema, document);
  const required = new Set(whole.required ?? []);
  const order = whole["x-fal-order-properties"] ?? Object.keys(whole.properties ?? {});
  const named = order.filter((name) => name in (whole.properties ?? {}));
  return named.flatMap((name) => {
    const spec = resolved(whole.properties[name], document);
    const inner = innerOf(spec, document);
    const mark = spec.type === "array" ? "[]" : "";
    const row = {
      name: before + name,
      type: typeWords(spec, document),
      required: required.has(name),
      fallback: spec.default,
      description: spec.description ?? "",
      noEffect: spec["x-darkroom-no-effect"] === true,
    };
    if (inner === null || depth >= MOST_DEPTH) return [row];
    return [row, ...rowsOf(inner, document, `${before}${name}${mark}.`, depth + 1)];
  });
}

/** Table of the rows. `withDefaults`: of an input. */
export function schemaTable(rows, { label, withDefaults }) {
  const heads = ["Field", "Type", ...(withDefaults ? ["Default"] : []), "Meaning"];
  return h.table(
    { class: "table schema", "aria-label": label },
    h.thead(h.tr(heads.map((head) => h.th({ scope: "col" }, head)))),
    h.tbody(rows.map((row) => tableRow(row, withDefaults))),
  );
}

function tableRow(row, withDefaults) {
  const mark = row.required && withDefaults ? h.span({ class: "mark" }, "required") : null;
  const meaning = row.description === "" ? "—" : inline(row.description);
  return h.tr(
    { class: row.noEffect ? "vain" : null },
    h.th({ scope: "row" }, h.code(row.name), " ", mark),
    h.td({ "data-label": "Type" }, row.type),
    withDefaults && h.td({ "data-label": "Default" }, defaultCell(row.fallback)),
    h.td({ class: "meaning" }, meaning),
  );
}

function defaultCell(value) {
  return value === undefined ? "—" : h.code(JSON.stringify(value));
}

/** Type of a value in words, with its bounds or its choices. */
export function typeWords(spec, document) {
  const ways = waysOf(spec, document);
  if (ways.length > 1)
    return [...new Set(ways.map((way) => typeWords(way, document)))].join(", or ");
  const [way] = ways;
  const choices = way.enum ?? ("const" in way ? [way.const] : null);
  if (choices !== null) return choiceWords(choices);
  if (way.type === "array") {
    const items = typeWords(resolved(way.items ?? {}, document), document);
    const several = items.replace(/^(whole number|number|text|object)/, "$1s");
    return `list of ${several}${boundWords(way.minItems, way.maxItems, "items")}`;
  }
  const name = { integer: "whole number", number: "number", string: "text", boolean: "yes or no" };
  const bounds = boundWords(way.minimum, way.maximum);
  return (name[way.type] ?? (way.properties ? "object" : "any value")) + bounds;
}

function choiceWords(choices) {
  const shown = choices.slice(0, MOST_CHOICES).map(String).join(", ");
  return choices.length > MOST_CHOICES
    ? `${shown} and ${choices.length - MOST_CHOICES} more`
    : shown;
}

/** Bounds in words. Those of 64-bit numbers say nothing to a person. */
function boundWords(least, most, noun = "") {
  const [from, to] = [least, most].map((each) =>
    typeof each === "number" && Math.abs(each) < Number.MAX_SAFE_INTEGER ? each : undefined,
  );
  const what = noun === "" ? "" : ` ${noun}`;
  if (from !== undefined && to !== undefined) return `, ${from} to ${to}${what}`;
  if (from !== undefined) return `, at least ${from}${what}`;
  return to === undefined ? "" : `, at most ${to}${what}`;
}

function innerOf(spec, document) {
  const found = waysOf(spec, document).map((way) =>
    way.type === "array" ? resolved(way.items ?? {}, document) : way,
  );
  return found.find((each) => each.properties) ?? null;
}

function waysOf(spec, document) {
  const all = spec.anyOf ?? spec.oneOf ?? [spec];
  const ways = all.map((each) => resolved(each, document));
  const real = ways.filter((each) => !NULLABLE.has(each.type) || each.enum || each.properties);
  return real.length > 0 ? real : ways;
}

/** `spec` with its reference resolved. */
function resolved(spec, document, depth = 0) {
  if (spec?.allOf?.length === 1) return resolved({ ...spec.allOf[0], ...without(spec) }, document);
  if (!spec?.$ref || depth > 20) return spec ?? {};
  let found = document;
  for (const part of spec.$ref.replace(/^#\//, "").split("/")) found = found?.[part];
  const { $ref: _reference, ...rest } = spec;
  return resolved({ ...found, ...rest }, document, depth + 1);
}

function without({ allOf: _all, ...rest }) {
  return rest;
}
