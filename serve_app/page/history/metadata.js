// Description of a generation in the file that it made, as Darkroom writes it: JSON in ASCII.

import * as json from "../client/json.js";

const MARK = '{"darkroom":1,';
const MOST = 32_000; // characters of a description
const PART = 4_000_000; // bytes that are read at once

/**
 * Description in a file: `{endpoint, model, seed, prompt, settings, request, demo}`, whose seed may be
 * null; null if it has none. The formats are not read: a prompt cannot have the mark, because its quotes are escaped.
 */
export async function descriptionIn(file) {
  for (let from = 0; from < file.size; from += PART) {
    const part = await file.slice(from, from + PART + MOST).arrayBuffer();
    const found = find(new TextDecoder("latin1").decode(part));
    if (found !== null) return found;
  }
  return null;
}

function find(text) {
  for (let at = text.indexOf(MARK); at >= 0; at = text.indexOf(MARK, at + 1)) {
    const found = read(text.slice(at, at + MOST));
    if (found !== null) return found;
  }
  return null;
}

/** Description at the beginning of `text`; null if it is damaged. */
function read(text) {
  const end = endOfObject(text);
  if (end === null) return null;
  try {
    const {
      endpoint,
      model = "",
      seed = 0, // older versions left out 0
      prompt = "",
      settings = {},
      ...more
    } = json.parse(text.slice(0, end));
    const fits =
      typeof endpoint === "string" &&
      (seed === null || ["number", "bigint"].includes(typeof seed)) &&
      typeof prompt === "string" &&
      settings !== null &&
      typeof settings === "object" &&
      !Array.isArray(settings);
    const { request_id: request = "", demo = false } = more;
    return fits
      ? { endpoint, model: String(model), seed, prompt, settings, request: String(request), demo }
      : null;
  } catch {
    return null;
  }
}

/** Place after the object that `text` begins with; null if it does not end. */
function endOfObject(text) {
  let depth = 0;
  let quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (quoted && character === "\\") at += 1;
    else if (character === '"') quoted = !quoted;
    else if (!quoted && character === "{") depth += 1;
    else if (!quoted && character === "}") {
      depth -= 1;
      if (depth === 0) return at + 1;
    }
  }
  return null;
}
