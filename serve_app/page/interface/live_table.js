// Table whose rows change while the user looks at it: what stays the same is not drawn again, so that the
// focus and a click are not lost.

import { button, element } from "./element.js";

/**
 * Table named `label`. `columns`: `{name, cell(row), number, wide}`, of which the first names the row;
 * `cell` returns text, an element, or a list of them. `key(row)`: the row's identity. `actions(row)`:
 * buttons `{name, call, danger}`. `empty`: the sentence without rows.
 */
export class LiveTable {
  #columns;
  #key;
  #actions;
  #body = element("tbody");
  #rows = new Map(); // key → {node, row}
  #table;
  #empty;

  constructor({ label, columns, key, actions = null, empty }) {
    this.#columns = columns;
    this.#key = key;
    this.#actions = actions;
    const heads = columns.map(({ name, number }) =>
      element("th", { scope: "col", class: number ? "number" : null }, name),
    );
    if (actions !== null) heads.push(element("td", {}));
    const head = element("thead", {}, element("tr", {}, heads));
    this.#table = element("table", { class: "table", "aria-label": label, hidden: true }, head);
    this.#table.append(this.#body);
    this.#empty = element("p", { class: "help", hidden: true }, empty);
    this.node = element("div", { class: "live" }, this.#table, this.#empty);
  }

  /** Shows the rows in their order. */
  show(rows) {
    const keys = new Set(rows.map((row) => String(this.#key(row))));
    for (const [key, { node }] of this.#rows) {
      if (keys.has(key)) continue;
      node.remove();
      this.#rows.delete(key);
    }
    rows.forEach((row, place) => {
      const node = this.#update(row);
      if (this.#body.children[place] !== node) {
        this.#body.insertBefore(node, this.#body.children[place] ?? null);
      }
    });
    this.#table.hidden = rows.length === 0;
    this.#empty.hidden = rows.length > 0;
  }

  #update(row) {
    const key = String(this.#key(row));
    const known = this.#rows.get(key);
    const cells = this.#cells(row, key);
    if (known === undefined) {
      const node = element("tr", { "data-key": key }, cells);
      this.#rows.set(key, { node, row });
      return node;
    }
    known.row = row;
    cells.forEach((cell, place) => replaceChanged(known.node.children[place], cell));
    return known.node;
  }

  #cells(row, key) {
    const cells = this.#columns.map(({ name, cell, number, wide }, place) => {
      const content = [cell(row)].flat().filter((each) => each !== "" && each !== null);
      if (place === 0) return element("th", { scope: "row" }, content);
      const kind = number ? "number" : wide ? "wide" : null;
      return element("td", { "data-label": name, class: kind }, content);
    });
    if (this.#actions !== null) cells.push(this.#buttons(row, key));
    return cells;
  }

  #buttons(row, key) {
    const name = String(this.#columns[0].name);
    const buttons = this.#actions(row).map(({ name: words, danger }) =>
      button(words, () => this.#act(key, words), {
        class: danger ? "quiet danger" : "quiet",
        "aria-label": `${words}: ${name} ${key}`,
      }),
    );
    return element("td", { class: "acts" }, buttons.length ? element("div", {}, buttons) : null);
  }

  /** Does what a button says, with the newest state of its row. */
  #act(key, words) {
    const row = this.#rows.get(key)?.row;
    if (row !== undefined)
      this.#actions(row)
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
