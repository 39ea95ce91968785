// Images of the form that a tool works on.

import { BASE } from "../client/api.js";
import { openNew } from "../interface/dialog.js";
import { element } from "../interface/element.js";

/** Loads the image at `url`; null without one, or if another server has it. */
export async function pictureAt(url) {
  const src = ownAddress(url ?? "");
  if (src === null) return null;
  const image = element("img", { src, alt: "" });
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  }
}

/** `url` at the page's own origin, so that its pixels can be read; null if it is elsewhere. */
function ownAddress(url) {
  if (/^(data|blob):/.test(url)) return url;
  const path = /\/(files\/.*)$/.exec(url)?.[1];
  return path === undefined ? null : new URL(path, BASE).href;
}

/** Row of the image that a mask belongs to; undefined without one. */
export function imageRow(rows, mask) {
  return rows.find(({ field }) => field.media === "image" && field.kind === "media" && field !== mask);
}

/** Opens a dialog that says why there is nothing to work on. */
export function refuse(title, url) {
  const words = url
    ? "The page cannot show this image, because another server has it. Save it, and choose the file."
    : "Choose the image first: a file, or a result by Use as input.";
  openNew(title, "narrow", element("p", { class: "help" }, words));
}

export function button(words, click, attributes = {}) {
  return element("button", { type: "button", class: "quiet", click, ...attributes }, words);
}
