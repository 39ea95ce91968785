// Content of the form, kept over a reload and a restart of the browser.

import * as json from "../client/json.js";
import { keep, keepText, LASTING, read, TAB } from "../client/storage.js";

const PLACE = "darkroom.draft";
const MOST_CHARACTERS = 2_000_000; // browsers keep about five million

/** Values by field name that were entered last in this tab, or else in this browser. */
export function keptDraft() {
  return read(PLACE, TAB) ?? read(PLACE) ?? {};
}

export function keepDraft(values) {
  for (const storage of [TAB, LASTING]) keep(PLACE, light(values), storage);
}

export function forgetDraft() {
  for (const storage of [TAB, LASTING]) keepText(PLACE, null, storage);
}

/** `values` without those that there is no room for, such as files. */
function light(values) {
  const kept = {};
  let room = MOST_CHARACTERS;
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) continue;
    const length = json.write(value).length;
    if (length > room) continue;
    room -= length;
    kept[name] = value;
  }
  return kept;
}
