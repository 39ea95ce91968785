// The API key, as this browser keeps it.

const PLACE = "darkroom.key";

const FORM = /^[A-Za-z0-9_-]{1,64}:[\x21-\x7e]{16,256}$/;

/** The `id:secret` in what was pasted, which may be all that `darkroom env` prints; else null. */
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

/** Remembered across visits; where the browser forbids that, until the page is left. */
export class KeptKey {
  #value;

  constructor() {
    try {
      this.#value = localStorage.getItem(PLACE);
    } catch {
      this.#value = null;
    }
  }

  get value() {
    return this.#value;
  }

  keep(value) {
    this.#value = value;
    try {
      if (value === null) localStorage.removeItem(PLACE);
      else localStorage.setItem(PLACE, value);
    } catch {
      // It is still known for this visit.
    }
  }
}
