// What the browser keeps by its name: for later visits, or for this tab. Where it forbids that, has no room, or
// the text cannot be read, nothing is kept.

import * as json from "./json.js";

/** For later visits. */
export const LASTING = () => localStorage; // the browser may forbid the name itself

/** For this tab, over a reload. */
export const TAB = () => sessionStorage;

/** Text with this name; null without one. */
export function readText(name, storage = LASTING) {
  try {
    return storage().getItem(name);
  } catch {
    return null;
  }
}

/** Keeps `text` in place of the one before; null: forgets that. */
export function keepText(name, text, storage = LASTING) {
  try {
    if (text === null) storage().removeItem(name);
    else storage().setItem(name, text);
  } catch {
    // It lasts until the page is closed.
  }
}

/** Value with this name; null without one. */
export function read(name, storage = LASTING) {
  try {
    return json.parse(readText(name, storage) ?? "null");
  } catch {
    return null;
  }
}

/** Keeps a value as JSON. */
export function keep(name, value, storage = LASTING) {
  keepText(name, json.write(value), storage);
}
