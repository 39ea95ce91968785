// Local files for the form: what fits a field, and how it gets into a request.

import { bytes } from "../interface/words.js";
import { Unreadable } from "./unreadable.js";

/** Files of a request up to this size, all together, travel inside it: that has no progress. */
const INLINE_BYTES = 2_000_000;

/** Most that a Darkroom takes by default; it may be set to less, which the upload then says. */
const MOST_BYTES = 2 ** 31;

const KINDS = { image: "an image", video: "a video", audio: "an audio file" };

/** Value of `accept` for an input of files; null for any file. */
export function acceptOf({ media }) {
  if (media === "weights") return ".safetensors";
  return media in KINDS ? `${media}/*` : null;
}

/** Throws `Unreadable` if a file of this name and media type cannot be what the field asks for. */
export function checkKind({ name, type }, { media }) {
  if (media in KINDS && !type.startsWith(`${media}/`))
    throw new Unreadable(`${name} is not ${KINDS[media]}.`);
}

/** Throws `Unreadable` if `file` cannot be what the field asks for. */
export function check(file, { media }) {
  checkKind(file, { media });
  if (media === "weights" && !/\.safetensors$/i.test(file.name))
    throw new Unreadable(`${file.name} is not a .safetensors file.`);
  if (file.size === 0) throw new Unreadable(`${file.name} is empty.`);
  if (file.size > MOST_BYTES)
    throw new Unreadable(`${file.name} has ${bytes(file.size)}; at most 2 GB are possible.`);
}

/** True if a file of this size travels inside the request, beside other files of `others` bytes. Weights
 * are always uploaded, so that they can be chosen again. */
export function isInline({ size }, { media }, others) {
  return media !== "weights" && others + size <= INLINE_BYTES;
}

/**
 * URL for `file` in a request: a data URI if it is `inline`, otherwise that of its upload. `context` and
 * `progress` are those of the control.
 */
export async function addressOf(file, inline, context, progress, signal) {
  return inline ? await dataUri(file) : await context.upload(file, progress, signal);
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
