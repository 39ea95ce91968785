// Files in an output, and how they are displayed.

import { BASE } from "../client/api.js";
import { button, h } from "../interface/element.js";
import { SHOWN_IMAGES } from "../interface/image_types.js";
import { dragHandle, makeDraggable } from "./drag.js";
import { bytes, shortSeconds } from "../interface/words.js";

/** Other media types that a browser displays without executing, so they may be opened from this origin. */
const SHOWN = /^(?:video\/(?:mp4|webm)|audio\/(?:mpeg|mp4|wav|x-wav|ogg|flac|webm))$/;

const BY_EXTENSION = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  webp: "image/webp",
  gif: "image/gif",
  mp4: "video/mp4",
  webm: "video/webm",
  mp3: "audio/mpeg",
  wav: "audio/wav",
  ogg: "audio/ogg",
  flac: "audio/flac",
};

/** Pause between two tries to read a file again: one that is gone is not asked for again and again. */
export const RENEWED_MS = 60_000;

const blobs = new WeakMap(); // file of an output → Blob URL of its content

/**
 * Every file in `output`, in order, as `{url, input, type, kind, name, width, height, size, duration,
 * poster, waveform}`. A file is an object with a `url`, or with its content: `{content,
 * content_type, …}` in base64. Content in an output stays in the memory until `releaseFiles`.
 */
export function filesIn(output) {
  if (output === null || typeof output !== "object") return [];
  const { content, content_type: type } = output;
  if (typeof content === "string" && typeof type === "string")
    return [readFile({ ...output, url: `data:${type};base64,${content}` }, output)].filter(Boolean);
  if (typeof output.url === "string") return [readFile(output)].filter(Boolean);
  const { video, poster, videos, posters } = output;
  if (Array.isArray(videos) && Array.isArray(posters)) {
    const pairs = videos.map((each, at) => ({ video: each, poster: posters[at] }));
    return filesIn({ ...output, video: null, poster: null, videos: pairs, posters: null });
  }
  if (typeof video?.url === "string" && typeof poster?.url === "string")
    return withPoster(filesIn({ ...output, poster: null }), readFile(poster));
  const waveforms = output.waveforms ?? (output.waveform ? [output.waveform] : null);
  if (Array.isArray(waveforms))
    return withWaveforms(filesIn({ ...output, waveform: null, waveforms: null }), waveforms);
  return Object.entries(output)
    .filter(([name]) => !Array.isArray(output[`${name}s`])) // `image` repeats the first of `images`
    .flatMap(([, value]) => filesIn(value));
}

/** Adds the poster to its video, which shows it until it plays. The poster is not a file of its own. */
function withPoster(files, poster) {
  if (poster?.kind !== "image") return files;
  return files.map((file) => (file.kind === "video" ? { ...file, poster: poster.url } : file));
}

/** Adds each waveform to its audio file, in their order. */
function withWaveforms(files, waveforms) {
  const images = waveforms.map((each) => (typeof each?.url === "string" ? readFile(each) : null));
  return files.map((file) => {
    if (file.kind !== "audio") return file;
    const image = images.shift();
    return image?.kind === "image" ? { ...file, waveform: image.url } : file;
  });
}

/** Releases the content of the files in `output`, which are not shown any more. */
export function releaseFiles(output) {
  if (output === null || typeof output !== "object") return;
  if (blobs.has(output)) URL.revokeObjectURL(blobs.get(output));
  blobs.delete(output);
  for (const value of Object.values(output)) releaseFiles(value);
}

/** True if `url` is that of a private file whose time is over: Darkroom answers it no more. */
export function isExpired(url) {
  const ends = /\/files\/[^?]*\?(?:.*&)?expires=(\d+)/.exec(url);
  return ends !== null && Date.now() >= 1000 * Number(ends[1]);
}

/** Gives `files`, which `node` shows, their new URLs when something in it is used after theirs have
 * expired. `read()` reads their output anew. */
export function keepFresh(node, files, read) {
  let at = 0; // time of the last try
  let renewing = null;
  let isPassed = false; // a press that goes on
  const isOld = () => files.some(({ url }) => isExpired(url));
  const renew = () => {
    if (Date.now() - at < RENEWED_MS) return renewing;
    at = Date.now();
    renewing = renewed(node, files, read).catch(() => {}); // the old URL then says why it does not work
    return renewing;
  };
  const press = async (event) => {
    const pressed = event.target.closest("a, button");
    if (isPassed || pressed === null || !isOld()) return;
    event.preventDefault();
    event.stopPropagation();
    await renew();
    isPassed = true;
    pressed.click();
    isPassed = false;
  };
  node.addEventListener("click", press, true);
  node.addEventListener("error", () => isOld() && renew(), true); // of an image or a player
}

async function renewed(node, files, read) {
  const output = await read();
  const fresh = filesIn(output);
  const urls = new Map();
  for (const [at, file] of files.entries()) {
    if (fresh[at] === undefined || !isExpired(file.url)) continue;
    for (const name of ["url", "poster", "waveform"])
      if (file[name] && fresh[at][name]) urls.set(file[name], fresh[at][name]);
    Object.assign(file, fresh[at]); // as an input and in a drag, it is used later
  }
  for (const each of node.querySelectorAll("[href], [src], [poster]"))
    for (const name of ["href", "src", "poster"])
      if (urls.has(each.getAttribute(name))) replace(each, name, urls.get(each.getAttribute(name)));
  releaseFiles(output); // its own content is not shown
}

/** Replaces a URL of an element; a player goes on where it was. */
function replace(node, name, url) {
  const { currentTime, paused } = node;
  node.setAttribute(name, url);
  if (name !== "src" || !currentTime) return;
  node.currentTime = currentTime;
  if (!paused) play(node);
}

/** Description of a file, which is `own` in the output. A path is below the address of this Darkroom. */
function readFile(given, own = given) {
  try {
    return described(given, new URL(given.url.replace(/^\/(?!\/)/, ""), BASE), own);
  } catch {
    return null; // not a URL, or one that cannot be decoded
  }
}

function described(given, url, own) {
  if (!["http:", "https:", "data:"].includes(url.protocol)) return null;
  const inline = url.protocol === "data:";
  const last = inline ? "" : decodeURIComponent(url.pathname.split("/").pop());
  const declared = inline ? /^data:([^;,]*)/i.exec(given.url)[1] : given.content_type;
  const guessed = BY_EXTENSION[last.split(".").pop().toLowerCase()];
  const type = declared || guessed || "application/octet-stream";
  const kind = SHOWN_IMAGES.test(type) || SHOWN.test(type) ? type.split("/")[0] : "file";
  return {
    url: inline ? blobUrl(own, given.url, kind === "file" ? "" : type) : url.href,
    input: inline ? given.url : url.href, // as a request may name it
    type,
    kind,
    name: given.file_name || last || `file.${type.split("/")[1]}`,
    width: given.width,
    height: given.height,
    size: given.file_size,
    duration: given.duration,
  };
}

/** Blob URL of the data URI of a file, one for all drawings of it. Browsers do not open data URIs, but a
 * Blob URL can be opened and saved. */
function blobUrl(own, uri, type) {
  if (blobs.has(own)) return blobs.get(own);
  const comma = uri.indexOf(",");
  const text = decodeURIComponent(uri.slice(comma + 1));
  const raw = uri.slice(0, comma).endsWith(";base64") ? atob(text) : text;
  const content = Uint8Array.from(raw, (character) => character.charCodeAt(0));
  const made = URL.createObjectURL(new Blob([content], { type: type || "application/octet-stream" }));
  blobs.set(own, made);
  return made;
}

/** Figure with the file as an image, a player or a name, and links to download and open it. With `use`,
 * a button that calls it with the file. */
export function fileFigure(file, words, use = null) {
  const save = h.a({ href: file.url, download: file.name, class: "action" }, "Download");
  const open = h.a({ href: file.url, target: "_blank", rel: "noopener", class: "action" }, "Open");
  const facts = [
    file.width && file.height ? `${file.width} × ${file.height}` : "",
    shortSeconds(file.duration),
    bytes(file.size),
  ];
  return h.figure(
    { class: `print ${file.kind}` },
    shown(file, words),
    h.figcaption(
      h.span({ class: "facts" }, facts.filter(Boolean).join(" · ")),
      h.span(
        { class: "actions" },
        save,
        file.kind === "file" ? null : open,
        use && file.kind !== "file" ? asInput(file, use) : null,
      ),
      ["video", "audio"].includes(file.kind) ? dragHandle(file) : null,
    ),
  );
}

function asInput(file, use) {
  const click = () => use({ ...file, url: file.input });
  return button("Use as input", click, { class: "action" });
}

/** Element that shows the file: an image, a player or a name. */
export function shown(file, words) {
  if (file.kind === "image") {
    const { width, height } = file;
    const image = h.img({ src: file.url, alt: words, width, height });
    const link = h.a({ href: file.url, target: "_blank", rel: "noopener", class: "paper" }, image);
    link.setAttribute("aria-label", `Open: ${words || file.name}`);
    if (width && height) {
      // Its place before it is loaded. From its attributes alone, a browser gives it none.
      link.style.setProperty("--width", `${width}px`);
      link.style.setProperty("--ratio", String(width / height));
    }
    makeDraggable(link, file);
    return link;
  }
  if (file.kind === "video") return player(file, words);
  if (file.kind === "audio") return soundOf(file, words || file.name);
  return h.p({ class: "file-name" }, file.name);
}

/** Player of an audio file, below its waveform if it has one. */
export function soundOf({ url, waveform }, words) {
  return h.div(
    { class: "sound" },
    waveform ? h.img({ src: waveform, alt: "", class: "wave" }) : null,
    h.audio({ src: url, controls: true, preload: "metadata", "aria-label": words }),
  );
}

/** Video without sound, which plays over and over: browsers start no other by themselves. */
export function silentVideo(attributes) {
  const video = h.video({ loop: true, playsinline: true, ...attributes });
  video.muted = true; // the attribute has no effect on an element that a script creates
  return video;
}

/** Lets a video play while it is in sight and `isWanted()`, unless the user wants no motion. */
export function playInSight(video, isWanted = () => true) {
  if (!moves()) return;
  const watcher = new IntersectionObserver(([{ isIntersecting }]) => {
    if (!isIntersecting) video.pause();
    else if (isWanted()) play(video);
  });
  watcher.observe(video);
}

/** False if the user wants no motion. */
export function moves() {
  return !matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function play(video) {
  video.play().catch(() => {}); // the browser may forbid it
}

/** Muted video that plays over and over while it is in sight; others play under the mouse. */
function player(file, words) {
  const video = silentVideo({
    src: file.url,
    controls: true,
    preload: "metadata",
    poster: file.poster,
    width: file.width,
    height: file.height,
    "aria-label": words || file.name,
    class: "paper",
  });
  playInSight(video, () => video.closest(".sheet:first-child, dialog"));
  if (moves()) video.addEventListener("mouseenter", () => play(video));
  return video;
}
