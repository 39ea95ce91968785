// Table whose rows change while the user looks at it: what stays the same is not drawn again, so that the
// focus and a click are not lost.

import { keepChildren } from "./children.js";
import { button, h } from "./element.js";

const SHORT = 20; // characters: with spaces in one line, beside a column of long texts too
const LONG_WORD = /\S{25}/; // would make the table wider than the window

/**
 * Table named `label`. `columns`: `{name, cell(row), number, wide}`, of which the first names the row;
 * `cell` returns text, an element, or a list of them. `key(row)`: the row's identity. `actions(row)`:
 * buttons `{name, call, danger}`. `empty`: the sentence without rows.
 */
export class LiveTable {
  #kind; // {columns, key, actions}
  #body = h.tbody();
  #rows = new Map(); // key → {node, row}
  #table;
  #empty;

  constructor({ label, empty, actions = null, ...kind }) {
    const { columns } = kind;
    this.#kind = { ...kind, actions };
    const heads = columns.map(({ name, number }) =>
      h.th({ scope: "col", class: number ? "number" : null }, name),
    );
    if (actions !== null) heads.push(h.td());
    const head = h.thead(h.tr(heads));
    this.#table = h.table({ class: "table", "aria-label": label, hidden: true }, head);
    this.#table.append(this.#body);
    this.#empty = h.p({ class: "help", hidden: true }, empty);
    this.node = h.div({ class: "live" }, this.#table, this.#empty);
  }

  /** Shows the rows in their order. */
  show(rows) {
    const keys = new Set(rows.map((row) => String(this.#kind.key(row))));
    for (const key of this.#rows.keys()) if (!keys.has(key)) this.#rows.delete(key);
    keepChildren(
      this.#body,
      rows.map((row) => this.#update(row)),
    );
    this.#table.hidden = rows.length === 0;
    this.#empty.hidden = rows.length > 0;
  }

  #update(row) {
    const key = String(this.#kind.key(row));
    const known = this.#rows.get(key);
    const cells = this.#cells(row, key);
    if (known === undefined) {
      const node = h.tr({ "data-key": key }, cells);
      this.#rows.set(key, { node, row });
      return node;
    }
    known.row = row;
    cells.forEach((cell, place) => replaceChanged(known.node.children[place], cell));
    return known.node;
  }

  #cells(row, key) {
    const cells = this.#kind.columns.map(({ name, cell, number, wide }, place) => {
      const content = [cell(row)].flat().filter((each) => each !== "" && each !== null);
      if (place === 0) return h.th({ scope: "row" }, content);
      const node = h.td({ "data-label": name, class: number ? "number" : wide ? "wide" : null }, content);
      node.classList.toggle("short", node.textContent.length <= SHORT);
      node.classList.toggle("long", LONG_WORD.test(node.textContent));
      return node;
    });
    if (this.#kind.actions !== null) cells.push(this.#buttons(row, key));
    return cells;
  }

  #buttons(row, key) {
    const name = String(this.#kind.columns[0].name);
    const buttons = this.#kind.actions(row).map(({ name: words, danger }) =>
      button(words, () => this.#act(key, words), {
        class: danger ? "quiet danger" : "quiet",
        "aria-label": `${words}: ${name} ${key}`,
      }),
    );
    return h.td({ class: "acts" }, buttons.length ? h.div(buttons) : null);
  }

  /** Does what a button says, with the newest state of its row. */
  #act(key, words) {
    const row = this.#rows.get(key)?.row;
    if (row !== undefined)
      this.#kind
        .actions(row)
        .find(({ name }) => name === words)
        ?.call();
  }
}

function replaceChanged(old, cell) {
  if (old.isEqualNode(cell)) return;
  const place = [...old.querySelectorAll("button, a")].indexOf(document.activeElement);
  old.replaceWith(cell);
  if (place >= 0) cell.querySelectorAll("button, a")[place]?.focus();
}
