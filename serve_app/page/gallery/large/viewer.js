// A result as large as its box: an image to zoom, a video, or a sound with its waveform.

import { element } from "../../interface/element.js";
import { wordsOf } from "../tile.js";
import { Zoom } from "./zoom.js";

/** Fills `box` with the file of an item. Returns its `Zoom`; null for what cannot be zoomed. `zoom`
 * has the callbacks of a `Zoom`. */
export function view(box, item, zoom = {}) {
  const { file } = item;
  const words = wordsOf(item);
  if (file.kind === "image") return image(box, file, words, zoom);
  if (file.kind === "video") box.replaceChildren(video(file, words));
  else if (file.kind === "audio") box.replaceChildren(sound(file, words));
  else box.replaceChildren(element("p", { class: "file-name" }, file.name));
  return null;
}

/** Image of a file, which shows its thumbnail until the file has arrived. */
export function imageOf(file, words) {
  const shown = element("img", {
    src: (file.thumbnail ?? file).url,
    alt: words,
    draggable: "false",
  });
  if (file.thumbnail === null) return shown;
  const whole = element("img", { src: file.url, alt: "" });
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

function video(file, words) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const player = element("video", {
    src: file.url,
    controls: true,
    loop: true,
    playsinline: true,
    autoplay: !still,
    poster: file.thumbnail?.url,
    "aria-label": words,
  });
  player.muted = true; // otherwise the browser does not start it
  return player;
}

function sound(file, words) {
  const wave = file.thumbnail;
  return element(
    "div",
    { class: "sound" },
    wave === null ? null : element("img", { src: wave.url, alt: "", class: "wave" }),
    element("audio", { src: file.url, controls: true, preload: "metadata", "aria-label": words }),
  );
}
