// Items of the gallery that are selected.

/** Set of keys. Dispatches `change`. `anchor` is the key from which a range is extended. */
export class Selection extends EventTarget {
  anchor = null;
  #keys = new Set();

  get size() {
    return this.#keys.size;
  }

  get keys() {
    return [...this.#keys];
  }

  has(key) {
    return this.#keys.has(key);
  }

  toggle(key) {
    if (!this.#keys.delete(key)) this.#keys.add(key);
    this.anchor = key;
    this.#changed();
  }

  /** Selects all from the anchor to `key`; the anchor is `first`, if there is none. */
  extend(first, key, items) {
    this.anchor ??= first;
    const places = [this.anchor, key].map((each) => items.findIndex((item) => item.key === each));
    const [from, to] = places.sort((one, other) => one - other);
    for (const item of items.slice(Math.max(0, from), to + 1)) this.#keys.add(item.key);
    this.#changed();
  }

  all(items) {
    for (const { key } of items) this.#keys.add(key);
    this.#changed();
  }

  /** Forgets what is not among `items` any more. */
  keep(items) {
    if (this.size === 0) return;
    const here = new Set(items.map(({ key }) => key));
    if (!here.has(this.anchor)) this.anchor = null; // a range from it would have no beginning
    const gone = this.keys.filter((key) => !here.has(key));
    if (gone.length === 0) return;
    for (const key of gone) this.#keys.delete(key);
    this.#changed();
  }

  clear() {
    this.anchor = null;
    if (this.size === 0) return;
    this.#keys.clear();
    this.#changed();
  }

  #changed() {
    if (this.size === 0) this.anchor = null;
    this.dispatchEvent(new Event("change"));
  }
}
