// A result as large as its box: an image to zoom, a video, or a sound with its waveform.

import { h } from "../../interface/element.js";
import { moves, silentVideo, soundOf } from "../../results/media.js";
import { wordsOf } from "../tile.js";
import { Zoom } from "./zoom.js";

/** Fills `box` with the file of an item. Returns its `Zoom`; null for what cannot be zoomed. `zoom`
 * has the callbacks of a `Zoom`. */
export function view(box, item, zoom = {}) {
  const { file } = item;
  const words = wordsOf(item);
  if (file.kind === "image") return image(box, file, words, zoom);
  if (file.kind === "video") box.replaceChildren(video(file, words));
  else if (file.kind === "audio")
    box.replaceChildren(soundOf({ url: file.url, waveform: file.thumbnail?.url }, words));
  else box.replaceChildren(h.p({ class: "file-name" }, file.name));
  return null;
}

/** Image of a file, which shows its thumbnail until the file has arrived. */
export function imageOf(file, words) {
  const shown = h.img({
    src: (file.thumbnail ?? file).url,
    alt: words,
    draggable: "false",
  });
  if (file.thumbnail === null) return shown;
  const whole = h.img({ src: file.url, alt: "" });
  whole.decode().then(
    () => (shown.src = file.url),
    () => {}, // the thumbnail stays
  );
  return shown;
}

/** Width and height of a file, or of its thumbnail. */
export function sidesOf({ width, height, thumbnail }) {
  const known = width && height ? { width, height } : thumbnail;
  return { width: known?.width || 1024, height: known?.height || 1024 };
}

function image(box, file, words, zoom) {
  const shown = imageOf(file, words);
  box.replaceChildren(shown);
  return new Zoom(box, shown, { ...sidesOf(file), ...zoom });
}

function video({ url, thumbnail }, words) {
  const given = { src: url, poster: thumbnail?.url, controls: true, autoplay: moves() };
  return silentVideo({ ...given, "aria-label": words });
}
