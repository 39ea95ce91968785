// What was used in this browser, the latest first: prompts, and LoRAs by their paths.

import { keep, keepText, read } from "../client/storage.js";

export const PROMPTS = "darkroom.prompts";
export const LORAS = "darkroom.loras";

const MOST = 200;
const MOST_CHARACTERS = 4000;

/** Texts that were used, of the list `place`. */
export function usedTexts(place) {
  return read(place) ?? [];
}

/** Puts `text` in front of the list `place`. */
export function keepUsed(place, text) {
  const trimmed = text.trim();
  if (trimmed === "" || trimmed.length > MOST_CHARACTERS) return;
  const kept = [trimmed, ...usedTexts(place).filter((each) => each !== trimmed)].slice(0, MOST);
  keep(place, kept);
}

/** Forgets the lists. */
export function forgetUsed(...places) {
  for (const place of places) keepText(place, null);
}
