// Seed of a result or a draft.

import { button } from "../interface/element.js";

const LONGEST_SEED = 8; // digits

/** A seed; a long one without its middle, with the whole one on demand. The seeds of drafts differ in their
 * last digits. */
export function shortSeed(seed) {
  const whole = String(seed ?? "");
  if (whole.length <= LONGEST_SEED) return whole;
  const short = `${whole.slice(0, 3)}…${whole.slice(-4)}`;
  const label = `Whole seed ${whole}`;
  const given = { class: "action", title: whole, "aria-label": label };
  const shown = button(short, () => shown.replaceWith(whole), given);
  return shown;
}
