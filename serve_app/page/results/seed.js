// Seed of a result or a draft.

import { button } from "../interface/element.js";

const LONGEST_SEED = 8; // digits

/** A seed; a long one as its beginning, with the whole one on demand. */
export function shortSeed(seed) {
  const whole = String(seed ?? "");
  if (whole.length <= LONGEST_SEED) return whole;
  const start = `${whole.slice(0, LONGEST_SEED - 2)}…`;
  const label = `Whole seed ${whole}`;
  const given = { class: "action", title: whole, "aria-label": label };
  const shown = button(start, () => shown.replaceWith(whole), given);
  return shown;
}
