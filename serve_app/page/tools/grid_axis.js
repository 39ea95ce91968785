// One axis of a grid: a field of the form and the values that it takes.

import { freshId, h, labelled, select } from "../interface/element.js";
import * as json from "../client/json.js";
import { Unreadable } from "../form/unreadable.js";

const MOST_VALUES = 64;

/** Fields that a grid can vary: `{key, title, field}`. */
export function variables(fields, input) {
  const own = fields
    .filter(({ kind }) => ["whole", "decimal", "choice", "switch"].includes(kind))
    .map((field) => ({ key: field.name, title: field.title, field }));
  return [...own, ...scales(fields, input)];
}

/** `input` with a value of the variable `key`. */
export function withValue(input, key, value) {
  const place = /^loras\.(\d+)$/.exec(key)?.[1];
  if (place === undefined) return { ...input, [key]: value };
  const scaled = (lora, at) => (at === Number(place) ? { ...lora, scale: value } : lora);
  return { ...input, loras: input.loras.map(scaled) };
}

/** Scale of each LoRA in the form. */
function scales(fields, input) {
  const rows = fields.find(({ name, kind }) => name === "loras" && kind === "rows");
  const field = rows?.items.find(({ name }) => name === "scale");
  if (field === undefined) return [];
  const titled = (_, at) => ({ key: `loras.${at}`, title: `Scale of LoRA ${at + 1}`, field });
  return (input.loras ?? []).map(titled);
}

/** Controls for an axis: the field and its values. `changed()` is called after each change. */
export class GridAxis {
  #variables;
  #changed;
  #select;
  #values = h.div({ class: "values" });
  #read = () => [];

  constructor(title, variables, chosen, changed) {
    this.#variables = variables;
    this.#changed = changed;
    const choices = [["", "–"], ...variables.map(({ key, title: name }) => [key, name])];
    this.#select = select(choices, { value: chosen ?? "", change: () => this.#show() });
    this.node = h.div({ class: "axis" }, labelled(title, this.#select), this.#values);
    this.#show({ quiet: true });
  }

  /** The field that varies, or null. */
  get variable() {
    return this.#variables.find(({ key }) => key === this.#select.value) ?? null;
  }

  /** The values. Throws `Unreadable`. */
  read() {
    return this.variable === null ? [] : this.#read();
  }

  #show({ quiet = false } = {}) {
    this.#values.replaceChildren();
    if (this.variable !== null) {
      const { field } = this.variable;
      const isChoice = field.kind === "choice" || field.kind === "switch";
      if (isChoice) this.#offer(field.kind === "switch" ? [false, true] : field.choices);
      else this.#ask(field);
    }
    if (!quiet) this.#changed();
  }

  #offer(choices) {
    const boxes = choices.map((value) => {
      const id = freshId("value");
      const box = h.input({ id, type: "checkbox", change: () => this.#changed() });
      box.checked = true;
      const label = h.label({ for: id }, wordsOf(value));
      return { value, box, node: h.span({ class: "line" }, box, label) };
    });
    this.#values.append(...boxes.map(({ node }) => node));
    this.#read = () => boxes.filter(({ box }) => box.checked).map(({ value }) => value);
  }

  #ask(field) {
    const target = h.input({
      type: "text",
      "aria-label": `Values of ${this.variable.title}`,
      placeholder: "1, 2, 3 or 1..10",
      autocomplete: "off",
      input: () => this.#changed(),
    });
    target.value = proposal(field).join(", ");
    this.#values.append(target);
    this.#read = () => numbersIn(target.value, field);
  }
}

/** Text of a value, for a title. */
export function wordsOf(value) {
  if (value === true) return "on";
  if (value === false) return "off";
  return value === null ? "none" : String(value).replaceAll("_", " ");
}

/** Values to begin with: seeds by chance, otherwise about the field's default. */
function proposal({ name, fallback, least, most, kind, step }) {
  if (name === "seed") return [1, 2, 3].map(() => Math.floor(Math.random() * 1e6));
  const usual = Number(fallback ?? least ?? 1);
  const grain = kind === "whole" ? (step ?? 1) : (step ?? 0.05);
  const round = (value) => Number((Math.round(value / grain) * grain).toFixed(4));
  const inside = (value) => Math.max(least ?? -Infinity, Math.min(most ?? Infinity, value));
  const values = [0.5, 1, 1.5].map((part) => round(inside(usual * part)));
  return [...new Set(values)];
}

/** Numbers in `text`: 1, 2, 3; 1..5; or 0..1:0.25 with a step. Throws `Unreadable`. */
export function numbersIn(text, field) {
  const values = text.split(/[\s,;]+/).filter(Boolean).flatMap((part) => span(part, field));
  for (const value of values) {
    if (field.kind === "whole" && !/^-?\d+$/.test(String(value)))
      throw new Unreadable(`${value} is not a whole number.`);
    if (value < (field.least ?? -Infinity) || value > (field.most ?? Infinity))
      throw new Unreadable(`${value} is outside ${field.least ?? "…"} to ${field.most ?? "…"}.`);
  }
  return [...new Set(values)];
}

function span(part, field) {
  const [, from, to, by] = /^(-?[\d.]+?)\.\.(-?[\d.]+)(?::([\d.]+))?$/.exec(part) ?? [];
  if (from === undefined) {
    if (/^-?\d+$/.test(part)) return [json.whole(part)];
    if (Number.isFinite(Number(part))) return [Number(part)];
    throw new Unreadable(`“${part}” is not a number.`);
  }
  const [start, end, step] = [Number(from), Number(to), Number(by ?? field.step ?? 1)];
  const count = Math.floor((end - start) / step + 1e-9) + 1;
  if (!(count >= 1)) throw new Unreadable(`“${part}” has no values.`);
  if (count > MOST_VALUES) throw new Unreadable(`“${part}” has more than ${MOST_VALUES} values.`);
  return Array.from({ length: count }, (_, at) => Number((start + at * step).toFixed(6)));
}
