// Grid of results. Only the rows near the window are in the document, however many there are.

import { keepChildren } from "../interface/children.js";
import { h } from "../interface/element.js";
import { day } from "../interface/words.js";
import { playUnderMouse } from "./hover.js";
import { listenForLongPresses } from "./presses.js";
import { midnight } from "./query.js";
import { firstItem, layout, placeAfter, rowAt, rowOf } from "./rows.js";
import { tile } from "./tile.js";

const BEYOND = 900; // pixels above and below the window that are drawn too
const NEAR_END = 2500; // pixels before the end at which more is loaded

/**
 * Grid of a `Collection`. `selection` is a `Selection`; `act` has the callbacks `open(item)`,
 * `favourite(items)`, `remove()`, `moved(date)` with the date of the first row in sight.
 */
export class Grid {
  node = h.div({
    role: "grid",
    class: "grid",
    "aria-label": "Results",
    "aria-multiselectable": "true",
  });
  #collection;
  #selection;
  #act;
  #target;
  #rows = [];
  #height = 0;
  #width = 0;
  #drawn = new Map(); // place of a row → its node
  #tiles = new Map(); // key of an item → {item, node}
  #current = null; // key of the item that the Tab key reaches
  #waiting = 0; // number of the next frame
  #watcher = new ResizeObserver(() => this.#resized());
  #scrolled = () => this.#later();
  #date = null;

  constructor(collection, selection, act, target) {
    this.#collection = collection;
    this.#selection = selection;
    this.#act = act;
    this.#target = target;
    collection.addEventListener("change", () => this.arrange());
    selection.addEventListener("change", () => this.#mark());
    this.node.addEventListener("keydown", (event) => this.#key(event));
    this.node.addEventListener("click", (event) => this.#click(event));
    this.node.addEventListener("focusin", (event) => this.#focused(event));
    // What is pressed stays where it is until it is released: otherwise the browser sends no click.
    this.node.addEventListener("pointerdown", () => collection.change(released));
    const failed = ({ target }) => collection.renew(target.closest(".tile")?.dataset.key);
    this.node.addEventListener("error", failed, { capture: true }); // of images: it does not bubble
    playUnderMouse(this.node, ({ dataset }) => this.#itemOf(dataset.key).file);
    listenForLongPresses(this.node, ".tile", ({ dataset }) => selection.toggle(dataset.key));
  }

  /** Begins to follow the window. */
  start() {
    addEventListener("scroll", this.#scrolled, { passive: true });
    this.#watcher.observe(this.node);
    this.#watcher.observe(document.body); // what is above the grid may have changed
    this.arrange();
  }

  stop() {
    removeEventListener("scroll", this.#scrolled);
    this.#watcher.disconnect();
    cancelAnimationFrame(this.#waiting);
  }

  /** Changes the height that rows have about, in pixels. */
  resize(target) {
    this.#target = target;
    this.arrange();
  }

  /** Lays everything out again, so that what is in sight stays where it is. */
  arrange() {
    const width = this.node.clientWidth;
    if (width === 0) return; // hidden
    const kept = this.#anchor();
    const control = this.#focusedControl();
    this.#width = width;
    const { rows, height } = layout(this.#collection.items, width, this.#target);
    this.#rows = rows;
    this.#height = height;
    this.node.style.height = `${height}px`;
    this.node.setAttribute("aria-rowcount", rows.length);
    this.#keepRows();
    this.#stay(kept);
    this.#draw(control !== null);
    const tile = this.#tiles.get(this.#current)?.node;
    if (control !== null) tile?.querySelector(control).focus({ preventScroll: true });
  }

  /** Keeps the nodes of rows that begin as before, with what is in them now: a node that is moved in the
   * document loses the focus. */
  #keepRows() {
    const before = new Map([...this.#drawn.values()].map((node) => [node.dataset.name, node]));
    this.#drawn.clear();
    for (const [at, row] of this.#rows.entries()) {
      const node = before.get(this.#nameOf(row));
      if (node) this.#drawn.set(at, this.#filled(node, at));
      if (this.#drawn.size === before.size) break;
    }
  }

  #nameOf({ day: date, from }) {
    return date ?? this.#collection.items[from].key;
  }

  /** Selector of the control of a tile that has the focus; null if none has it. */
  #focusedControl() {
    if (!this.node.contains(document.activeElement)) return null;
    return [".check", ".heart"].find((each) => document.activeElement.matches(each)) ?? "a";
  }

  /** First item of the first row that is whole in sight, with its distance from the top of the
   * window; null at the top of the page. */
  #anchor() {
    if (scrollY < 40 || this.#rows.length === 0) return null;
    const [top, covered] = [this.#top(), this.#covered()];
    let at = rowAt(this.#rows, covered - top);
    if (at >= this.#rows.length) return null;
    if (this.#rows[at].y + top < covered) at = Math.min(at + 1, this.#rows.length - 1);
    const place = firstItem(this.#rows, at);
    for (const [key, { node }] of this.#tiles) {
      if (node.isConnected && this.#placeDrawn(node) === place)
        return { key, from: this.#rows[rowOf(this.#rows, place)].y + top };
    }
    return null;
  }

  #stay(kept) {
    if (kept === null) return;
    const place = this.#collection.placeOf(kept.key);
    if (place < 0) return;
    const moved = this.#rows[rowOf(this.#rows, place)].y + this.#top() - kept.from;
    if (Math.abs(moved) > 1) scrollBy({ top: moved, behavior: "instant" });
  }

  #placeDrawn(node) {
    return Number(node.dataset.place);
  }

  /** Distance of the grid from the top of the window. */
  #top() {
    return this.node.getBoundingClientRect().top;
  }

  #resized() {
    if (this.node.clientWidth !== this.#width) this.arrange();
    else this.#later();
  }

  #later() {
    cancelAnimationFrame(this.#waiting);
    this.#waiting = requestAnimationFrame(() => this.#draw());
  }

  /** Draws what is near the window. `held`: the grid has the focus. */
  #draw(held = this.node.contains(document.activeElement)) {
    const top = this.#top();
    const rows = this.#rows;
    const from = rowAt(rows, -top - BEYOND);
    let to = from;
    while (to < rows.length && rows[to].y < innerHeight - top + BEYOND) to += 1;
    this.#choose(rowAt(rows, -top), held);
    const wanted = new Set(Array.from({ length: to - from }, (_, at) => from + at));
    // The row that the Tab key reaches stays in the document.
    const place = this.#collection.placeOf(this.#current);
    if (place >= 0) wanted.add(rowOf(rows, place));
    const places = [...wanted].sort((one, other) => one - other);
    this.#drawn = new Map(places.map((at) => [at, this.#drawn.get(at) ?? this.#row(at)]));
    keepChildren(this.node, [...this.#drawn.values()]); // screen readers follow the order
    this.#forget();
    const atEnd = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    this.#tell(atEnd ? rows.length - 1 : rowAt(rows, 160 - top));
    if (this.#collection.more && this.#height + top < innerHeight + NEAR_END) {
      if (this.#collection.problem === "") this.#collection.load();
    }
  }

  /** Makes the first item in sight the one that the Tab key reaches, unless the grid has the
   * focus. */
  #choose(at, held) {
    if (held && this.#collection.placeOf(this.#current) >= 0) return;
    const first = Math.min(at, this.#rows.length - 1);
    const item = first < 0 ? undefined : this.#collection.items[firstItem(this.#rows, first)];
    this.#reach(item?.key ?? null);
  }

  /** Makes an item the one that the Tab key reaches. */
  #reach(key) {
    this.#linkOf(this.#current)?.setAttribute("tabindex", "-1");
    this.#current = key;
    this.#linkOf(key)?.setAttribute("tabindex", "0");
  }

  #itemOf(key) {
    return this.#collection.items[this.#collection.placeOf(key)];
  }

  #linkOf(key) {
    return this.#tiles.get(key)?.node.querySelector("a");
  }

  #row(at) {
    const { day: date } = this.#rows[at];
    const name = this.#nameOf(this.#rows[at]);
    const node = h.div({ role: "row", class: "row", "data-name": name });
    if (date !== undefined) {
      const title = h.h3(day(midnight(date).toISOString()));
      node.classList.add("day");
      node.append(h.div({ role: "gridcell" }, title));
    }
    return this.#filled(node, at);
  }

  /** The node of the row at a place, with its tiles; those that are in it already are not moved. */
  #filled(node, at) {
    const { day: date, y, height, from, to, widths } = this.#rows[at];
    node.setAttribute("aria-rowindex", at + 1);
    node.style.transform = `translateY(${y}px)`;
    node.style.height = `${height}px`;
    if (date !== undefined) return node;
    const made = this.#collection.items.slice(from, to).map((item) => this.#tile(item));
    for (const [index, each] of made.entries()) {
      each.style.width = `${widths[index]}px`;
      each.dataset.place = from + index;
    }
    keepChildren(node, made);
    return node;
  }

  /** Node of an item: the one that it has, unless the item has changed. */
  #tile(item) {
    const known = this.#tiles.get(item.key);
    if (known?.item === item) return known.node;
    const node = tile(item);
    this.#tiles.set(item.key, { item, node });
    this.#show(item.key, node);
    return node;
  }

  #show(key, node) {
    const chosen = this.#selection.has(key);
    node.setAttribute("aria-selected", String(chosen));
    node.querySelector(".check").checked = chosen;
    node.querySelector("a").tabIndex = key === this.#current ? 0 : -1;
  }

  #mark() {
    this.node.classList.toggle("choosing", this.#selection.size > 0);
    for (const [key, { node }] of this.#tiles) this.#show(key, node);
  }

  /** Forgets tiles that are not in the document. */
  #forget() {
    for (const [key, { node }] of this.#tiles) if (!node.isConnected) this.#tiles.delete(key);
  }

  #tell(at) {
    const row = this.#rows[Math.min(at, this.#rows.length - 1)];
    const date = row === undefined ? null : (row.day ?? this.#collection.items[row.from].date);
    if (date === this.#date) return;
    this.#date = date;
    this.#act.moved(date);
  }

  /** Scrolls to the first result of a day that is loaded; false if none is. */
  goTo(date) {
    const row = this.#rows.find((each) => each.day === date);
    if (row === undefined) return false;
    scrollTo({ top: scrollY + this.#top() + row.y - this.#covered() });
    this.#draw();
    this.#move(this.#collection.items[firstItem(this.#rows, this.#rows.indexOf(row))].key);
    return true;
  }

  /** Focuses an item that is loaded, and scrolls to it. */
  focus(key) {
    if (this.#collection.placeOf(key) >= 0) this.#move(key);
  }

  #move(key) {
    this.#reach(key);
    const { y, height } = this.#rows[rowOf(this.#rows, this.#collection.placeOf(key))];
    const top = this.#top() + y;
    const covered = this.#covered();
    const beneath = top + height + 24 - innerHeight;
    if (top < covered) scrollBy({ top: top - covered, behavior: "instant" });
    else if (beneath > 0) scrollBy({ top: beneath, behavior: "instant" });
    this.#draw();
    this.#linkOf(key)?.focus({ preventScroll: true });
  }

  /** Height of what covers the top of the window. */
  #covered() {
    const covers = [...document.querySelectorAll("body > header, .gallery .filters")];
    const sticky = covers.filter((each) => getComputedStyle(each).position === "sticky");
    return 12 + sticky.reduce((sum, each) => sum + each.offsetHeight, 0);
  }

  #focused({ target }) {
    const key = target.closest(".tile")?.dataset.key;
    if (key !== undefined) this.#reach(key);
  }

  #key(event) {
    if (event.altKey || this.#current === null) return;
    const command = event.ctrlKey || event.metaKey;
    const item = this.#itemOf(this.#current);
    if (item === undefined) return;
    const page = (innerHeight - this.#covered()) * 0.9;
    const place = this.#collection.placeOf(this.#current);
    const next = placeAfter(event.key, place, this.#collection.items.length, this.#rows, page);
    if (next !== null && (!command || event.key === "Home" || event.key === "End")) {
      event.preventDefault();
      const { key } = this.#collection.items[next];
      if (event.shiftKey) this.#selection.extend(this.#current, key, this.#collection.items);
      this.#move(key);
      return;
    }
    const action = this.#action(event, command, item);
    if (action === null) return;
    event.preventDefault();
    action();
  }

  #action({ key, target }, command, item) {
    if (command) return key === "a" ? () => this.#selection.all(this.#collection.items) : null;
    if (key === " " && target.matches("a")) return () => this.#selection.toggle(item.key);
    if (key === "f") return () => this.#act.favourite(item);
    if (key === "Delete" || key === "Backspace") return () => this.#act.remove(item);
    if (key === "Escape" && this.#selection.size > 0) return () => this.#selection.clear();
    return null;
  }

  #click(event) {
    const node = event.target.closest(".tile");
    if (node === null) return;
    const item = this.#itemOf(node.dataset.key);
    if (item === undefined) return;
    if (event.target.matches(".heart")) return this.#act.favourite(item);
    const box = event.target.matches(".check");
    if (event.shiftKey) {
      event.preventDefault();
      this.#selection.extend(this.#selection.anchor ?? item.key, item.key, this.#collection.items);
      return;
    }
    const choosing = this.#selection.size > 0 || event.ctrlKey || event.metaKey;
    if (!box) event.preventDefault();
    if (box || choosing) this.#selection.toggle(item.key);
    else this.#act.open(item);
  }
}

/** Resolves when the pressed pointer is released, or when the browser scrolls or drags with it. */
function released() {
  return new Promise((resolve) => {
    const over = new AbortController();
    const end = () => {
      over.abort();
      resolve();
    };
    for (const name of ["pointerup", "pointercancel"])
      addEventListener(name, end, { capture: true, signal: over.signal });
  });
}
