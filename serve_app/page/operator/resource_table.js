// Table of a kind of resources, from its declaration: its columns, sentences, and what may be done with each.

import { endpointPath } from "../client/watch.js";
import { h, tell } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { bytes, capitalized, clock } from "../interface/words.js";
import { pill } from "./desk.js";

const CELLS = {
  text: words,
  sentence: words,
  code: (value) => h.code({}, value),
  state: (value) => pill(value),
  number: (value) => value.toLocaleString("en"),
  bytes,
  time: clock,
  yes_no: (value) => (value ? "yes" : "no"),
};

/**
 * Table of the kind `name`. What is special: `cells`, the contents of columns by
 * their fields, each of a row; `more` columns of a `LiveTable`; `actions(row)` before those that the
 * declaration has, and `deletable(row)`; `key(row)`, if no field differs for all.
 */
export class ResourceTable {
  node = h.div();
  #desk;
  #name;
  #special;
  #kind = null;
  #table = null;
  #grants = [];
  #turn = 0; // counts the lists that were asked for: the last one is shown, whatever answer comes last
  #below = h.p({ class: "help", hidden: true });

  constructor(desk, name, special = {}) {
    this.#desk = desk;
    this.#name = name;
    this.#special = { cells: {}, more: [], actions: () => [], deletable: () => true, ...special };
  }

  /** Reads the list and shows it. Resolves with the answer. */
  async look(query = "") {
    const turn = ++this.#turn;
    await this.#draw();
    const answer = await this.#desk.call("GET", `${this.#kind.path.slice(1)}${query}`);
    if (turn !== this.#turn) return answer;
    await this.show(answer[this.#kind.items]);
    const words = this.#kind.below.replaceAll(/\{(\w+)\}/g, (_, name) =>
      name.includes("_bytes") ? bytes(answer[name]) : answer[name],
    );
    tell(this.#below, words);
    return answer;
  }

  /** Shows rows that were read elsewhere. */
  async show(rows) {
    await this.#draw();
    this.#table.show(rows);
  }

  async #draw() {
    if (this.#table !== null) return;
    const [kind, { grants }] = await Promise.all([
      this.#desk.resource(this.#name),
      this.#desk.page.caller.look(),
    ]);
    if (this.#table !== null) return; // two calls at once
    const { cells, more, key = (row) => row[kind.cursor] } = this.#special;
    this.#kind = kind;
    this.#grants = grants;
    this.#table = new LiveTable({
      label: capitalized(kind.plural),
      empty: kind.empty,
      key,
      columns: [...columnsOf(kind.table_columns, cells), ...more],
      actions: (row) => this.#actions(row),
    });
    this.node.append(this.#table.node, this.#below);
  }

  #actions(row) {
    const { scope, change_scope: changes, deletion, delete_verb: verb, restart } = this.#kind;
    const needed = changes || scope;
    const may = needed === "" || this.#grants.includes(needed);
    const actions = [...this.#special.actions(row)];
    if (may && restart !== "") actions.push({ name: "Restart", call: () => this.#restart(row) });
    if (may && deletion !== "" && this.#special.deletable(row))
      actions.push({ name: capitalized(verb), danger: true, call: () => this.#delete(row) });
    return actions;
  }

  #path(row) {
    return `${this.#kind.path.slice(1)}/${endpointPath(row[this.#kind.key])}`;
  }

  async #restart(row) {
    const { name, key } = this.#kind;
    const work = () => this.#desk.call("POST", `${this.#path(row)}/restart`, {});
    await this.#desk.run(work, `The ${name} ${row[key]} is restarted.`);
  }

  async #delete(row) {
    const { name, key, deletion, delete_verb: verb, force } = this.#kind;
    await this.#desk.ask({
      title: `${capitalized(verb)} the ${name} ${row[key]}?`,
      words: deletion,
      action: `${capitalized(verb)} it`,
      danger: true,
      fields: force === "" ? [] : [{ name: "forced", label: force, type: "checkbox" }],
      submit: ({ forced = false }) =>
        this.#desk.call("DELETE", `${this.#path(row)}${forced ? "?force=true" : ""}`),
      done: `The ${name} ${row[key]} is ${verb}d.`,
    });
  }
}

function columnsOf(declared, cells) {
  return declared
    .filter(({ under }) => under === "")
    .map((column) => {
      const below = declared.filter(({ under }) => under === column.field);
      const cell = (row) => [
        contentOf(column, row, cells) ?? column.absent,
        ...below.map((each) => line(each, row, cells)),
      ];
      const number = column.format === "number" || column.format === "bytes";
      return { name: column.heading, cell, number, wide: column.format === "sentence" };
    });
}

/** Content of a cell; null if the field has none. */
function contentOf({ field, format }, row, cells) {
  const value = row[field] ?? null;
  if (value === null || value === "" || value.length === 0) return null;
  return field in cells ? cells[field](row) : CELLS[format](value);
}

/** What stands below the content of another field. */
function line(column, row, cells) {
  const content = contentOf(column, row, cells);
  return content && h.span({ class: "facts" }, `${column.heading}: `, content);
}

function words(value) {
  return Array.isArray(value) ? value.join(", ") : String(value);
}
