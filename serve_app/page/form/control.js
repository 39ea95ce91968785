// Form controls: one factory per kind of field.

import { h, select } from "../interface/element.js";
import * as json from "../client/json.js";
import { listControl, rowsControl } from "./array_input.js";
import { mediaControl } from "./file_input.js";
import { sizeControl } from "./size.js";
import { Unreadable } from "./unreadable.js";

const MAKERS = {
  prompt: textControl,
  text: textControl,
  whole: numberControl,
  decimal: numberControl,
  choice: choiceControl,
  switch: switchControl,
  json: jsonControl,
  size: sizeControl,
  media: mediaControl,
  "media-list": mediaControl,
  list: listControl,
  rows: (field, id, context) => rowsControl(field, id, context, controlFor),
};

/**
 * Creates a control: `{node, target, read, write}`. `target` is the element for the label. `read()`
 * returns undefined for the field's default and may throw `Unreadable`. `write(undefined)` restores
 * the default, and so does a value of another type; it ends the uploads of what it replaces. Controls of
 * several parts, and of files, have `parts()` and `join(parts)` for what `read` cannot return yet
 * (`hold`). Those of files also have `put({url, name})` and `renew()`, after which their images can be
 * loaded. `context`: `upload(file, progress, signal)` and `sign(url)` return a URL, `recall()`
 * offers earlier prompts, `edit(tool, field, control)` opens a tool, `describe(field, control)` shows
 * the trigger words of a LoRA.
 */
export function controlFor(field, id, context) {
  return MAKERS[field.kind](field, id, context);
}

function textControl(field, id) {
  const usual = typeof field.fallback === "string" ? field.fallback : "";
  const placeholder = usual || (field.hint ?? "");
  const target =
    field.kind === "prompt"
      ? h.textarea({ id, rows: field.required ? 4 : 2, placeholder, spellcheck: true })
      : h.input({ id, type: "text", placeholder, autocomplete: "off" });
  return {
    node: target,
    target,
    read: () => (target.value === "" ? undefined : target.value),
    // What was entered in a field of this name may be an object: the other model asks for one.
    write: (value) => (target.value = typeof value === "object" ? "" : (value ?? "")),
  };
}

function numberControl(field, id) {
  const { least, most, fallback } = field;
  const step = field.step ?? (field.kind === "whole" ? 1 : "any");
  const placeholder = fallback ?? (field.name === "seed" ? "random" : "");
  const bounds = { min: least, max: most, step };
  const target = h.input({
    id,
    type: "number",
    inputmode: "decimal",
    placeholder,
    ...bounds,
  });
  const read = () => readNumber(field, target);
  if (!isSlid(field))
    return { node: target, target, read, write: (value) => (target.value = value ?? "") };
  const slider = h.input({
    type: "range",
    min: least,
    max: most,
    step: field.kind === "whole" ? step : (field.step ?? fineStep(least, most)),
    "aria-label": `${field.title}, slider`,
    input: () => (target.value = slider.value),
  });
  const follow = () => (slider.value = target.value === "" ? (fallback ?? least) : target.value);
  target.addEventListener("input", follow);
  follow();
  const write = (value) => {
    target.value = value ?? "";
    follow();
  };
  return { node: h.div({ class: "slid" }, slider, target), target, read, write };
}

function readNumber(field, target) {
  if (target.validity.badInput) throw new Unreadable("This is not a number.");
  if (target.value === "") return undefined;
  if (/^-?\d+$/.test(target.value)) return json.whole(target.value);
  if (field.kind === "whole") throw new Unreadable("This should be a whole number.");
  return Number(target.value);
}

/** True if the bounds are narrow enough for a slider. */
function isSlid({ least, most, kind }) {
  const both = typeof least === "number" && typeof most === "number";
  return both && most > least && (kind === "decimal" ? most - least <= 1000 : most - least <= 400);
}

function fineStep(least, most) {
  return most - least > 5 ? 0.1 : 0.01;
}

function choiceControl(field, id) {
  const { choices, fallback } = field;
  const none = fallback === undefined || fallback === null;
  const options = choices.map((each, at) => [at, spoken(each)]);
  if (none) options.unshift(["", field.required ? "Choose …" : "–"]);
  const target = select(options, { id });
  const write = (value) => {
    const at = choices.indexOf(value ?? fallback);
    target.value = at < 0 ? "" : String(at);
  };
  write(undefined);
  return {
    node: target,
    target,
    read: () => {
      const chosen = target.value === "" ? undefined : choices[Number(target.value)];
      return chosen === fallback ? undefined : chosen;
    },
    write,
  };
}

function spoken(choice) {
  return choice === null ? "none" : String(choice).replaceAll("_", " ");
}

function switchControl(field, id) {
  const target = h.input({ id, type: "checkbox" });
  const usual = field.fallback === true;
  target.checked = usual;
  return {
    node: target,
    target,
    read: () => (target.checked === usual ? undefined : target.checked),
    write: (value) => (target.checked = value ?? usual),
  };
}

function jsonControl(field, id) {
  const shown =
    field.fallback === undefined || field.fallback === null ? "" : json.write(field.fallback);
  const target = h.textarea({
    id,
    rows: 3,
    class: "code",
    placeholder: shown,
    spellcheck: "false",
  });
  return {
    node: target,
    target,
    read: () => {
      if (target.value.trim() === "") return undefined;
      try {
        return json.parse(target.value);
      } catch (error) {
        throw new Unreadable(`This is not JSON: ${error.message}`);
      }
    },
    write: (value) => (target.value = value === undefined ? "" : json.write(value, 2)),
  };
}
