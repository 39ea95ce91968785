// Saves files in the browser's folder for downloads.

import { h } from "./element.js";

const SAVED_MS = 60_000; // until the browser has saved it

/** Saves a file, a `Blob`, with this name. */
export function save(file, name) {
  const url = URL.createObjectURL(file);
  h.a({ href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), SAVED_MS);
}
