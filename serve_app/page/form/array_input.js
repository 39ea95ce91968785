// Controls for lists: of numbers or words, and of objects, such as LoRAs.

import * as json from "../client/json.js";
import { button, freshId, h } from "../interface/element.js";
import { bringBack, hold, Unreadable } from "./unreadable.js";

/** Control for a list: of numbers, separated by commas or spaces, or of texts, one in each line. */
export function listControl(field, id) {
  const numbers = field.items !== "text";
  const target = numbers
    ? h.input({
        id,
        type: "text",
        inputmode: "numeric",
        placeholder: "1, 2, 3",
        autocomplete: "off",
      })
    : h.textarea({ id, rows: 2, placeholder: "One in each line", autocomplete: "off" });
  const read = () => {
    const parts = target.value.split(numbers ? /[\s,;]+/ : /\s*\n\s*/).filter((part) => part.trim());
    if (parts.length === 0) return undefined;
    if (parts.length > (field.mostItems ?? Infinity))
      throw new Unreadable(`At most ${field.mostItems} are possible.`);
    return numbers ? parts.map((part) => numberIn(part, field.items)) : parts;
  };
  const write = (value) => (target.value = (Array.isArray(value) ? value : []).join(numbers ? ", " : "\n"));
  return { node: target, target, read, write };
}

function numberIn(text, kind) {
  if (/^-?\d+$/.test(text)) return json.whole(text);
  if (kind === "whole" || text === "" || !Number.isFinite(Number(text)))
    throw new Unreadable(`“${text}” is not a ${kind === "whole" ? "whole " : ""}number.`);
  return Number(text);
}

/**
 * Control for a list of objects: a row of controls for each, a button that removes it, and a button
 * that adds one. `controlFor` creates the controls of a row.
 */
export function rowsControl(field, id, context, controlFor) {
  const name = field.title.replace(/s$/, "");
  const list = h.div({ class: "items" });
  const words = `Add ${name}`; // its name, although the field's label is for it
  const add = button(words, null, { id, class: "quiet add", "aria-label": words });
  let rows = []; // {node, cells: [{field, control}]}
  const changed = () => {
    add.disabled = rows.length >= (field.mostItems ?? Infinity);
    rows.forEach(({ node }, at) => node.setAttribute("aria-label", `${name} ${at + 1}`));
    add.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const append = (value = {}) => {
    const cells = field.items.map((each) => makeCell(each, context, controlFor));
    for (const { field: item, control } of cells) control.write(value[item.name] ?? undefined);
    const row = { cells };
    const remove = () => {
      clear(row);
      rows = rows.filter((other) => other !== row);
      row.node.remove();
      changed();
      add.focus();
    };
    const given = { class: "quiet remove", "aria-label": `Remove this ${name}` };
    row.node = h.div(
      { class: "item", role: "group" },
      button("×", remove, given),
      cells.map(({ node }) => node),
    );
    rows.push(row);
    list.append(row.node);
    changed();
    return row;
  };
  add.addEventListener("click", () => append().cells[0].control.target.focus());
  const write = (value) => {
    rows.forEach(clear);
    rows = [];
    list.replaceChildren();
    for (const each of Array.isArray(value) ? value : []) append(each);
    changed();
  };
  const read = () => {
    const values = rows.map((row, at) => readRow(row, `${name} ${at + 1}`));
    return values.length ? values : undefined;
  };
  const parts = () => rows.map(({ cells }) => cells.map(({ control }) => hold(control)));
  const join = (given) => {
    for (const held of given) {
      const { cells } = append();
      cells.forEach(({ control }, at) => bringBack(control, held[at]));
    }
    changed();
  };
  return { node: h.div(list, add), target: add, read, write, parts, join };
}

function makeCell(field, context, controlFor) {
  const id = freshId(`item-${field.name}`);
  const control = controlFor(field, id, context);
  const node = h.div(
    { class: `cell ${field.kind}` },
    h.label({ for: id }, field.title),
    control.node,
  );
  return { field, control, node };
}

/** Ends the uploads of a row that goes. */
function clear({ cells }) {
  for (const { control } of cells) control.write(undefined);
}

function readRow({ cells }, where) {
  const value = {};
  for (const { field, control } of cells) {
    try {
      const item = control.read();
      if (item === undefined && field.required) throw new Unreadable("This is required.");
      if (item !== undefined) value[field.name] = item;
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      throw new Unreadable(`${where}, ${field.title.toLowerCase()}: ${error.message}`);
    }
  }
  return value;
}
