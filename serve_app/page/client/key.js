// API key storage in this browser.

import { keepText, readText } from "./storage.js";

const PLACE = "darkroom.key";

const FORM = /^[A-Za-z0-9_-]{1,64}:[\x21-\x7e]{16,256}$/;

/** The `id:secret` in pasted text, which may be the whole output of `darkroom env`; null without
 * one. */
export function keyIn(pasted) {
  for (const line of pasted.split(/\r?\n/)) {
    const bare = line
      .trim()
      .replace(/^(export\s+)?FAL_KEY=|^(Authorization:\s*)?(Key|Bearer)\s+/i, "");
    const key = bare.replace(/^(['"])(.*)\1$/, "$2");
    if (FORM.test(key)) return key;
  }
  return null;
}

/** Key that is stored across visits. If the browser forbids that, it is kept until the page is
 * closed. `forgotten()` is called when another tab has forgotten it. */
export class KeptKey {
  value = readText(PLACE);

  constructor(forgotten) {
    addEventListener("storage", ({ key, newValue }) => {
      const isGone = (key === PLACE || key === null) && newValue === null; // no name: all is gone
      if (isGone && this.value !== null) forgotten();
    });
  }

  keep(value) {
    this.value = value;
    keepText(PLACE, value);
  }
}
