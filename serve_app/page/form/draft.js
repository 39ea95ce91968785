// Content of the form, kept over a reload and a restart of the browser.

import * as json from "../client/json.js";

const PLACE = "darkroom.draft";
const MOST_CHARACTERS = 2_000_000; // browsers keep about five million

/** Values by field name that were entered last in this tab, or else in this browser. */
export function keptDraft() {
  for (const storage of [() => sessionStorage, () => localStorage]) {
    try {
      const kept = storage().getItem(PLACE);
      if (kept !== null) return json.parse(kept);
    } catch {
      // The storage is forbidden, or its content cannot be read.
    }
  }
  return {};
}

export function keepDraft(values) {
  for (const storage of [() => sessionStorage, () => localStorage]) {
    try {
      storage().setItem(PLACE, json.write(light(values)));
    } catch {
      // The storage is full or forbidden: the form is kept until the page is closed.
    }
  }
}

export function forgetDraft() {
  for (const storage of [() => sessionStorage, () => localStorage]) {
    try {
      storage().removeItem(PLACE);
    } catch {
      // Nothing was kept.
    }
  }
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
