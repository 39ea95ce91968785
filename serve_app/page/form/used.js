// What was used in this browser, the latest first: prompts, and LoRAs by their paths.

export const PROMPTS = "darkroom.prompts";
export const LORAS = "darkroom.loras";

const MOST = 200;
const MOST_CHARACTERS = 4000;

/** Texts that were used, of the list `place`. */
export function usedTexts(place) {
  try {
    return JSON.parse(localStorage.getItem(place) ?? "[]");
  } catch {
    return []; // forbidden, or not readable
  }
}

/** Puts `text` in front of the list `place`. */
export function keepUsed(place, text) {
  const trimmed = text.trim();
  if (trimmed === "" || trimmed.length > MOST_CHARACTERS) return;
  const kept = [trimmed, ...usedTexts(place).filter((each) => each !== trimmed)].slice(0, MOST);
  try {
    localStorage.setItem(place, JSON.stringify(kept));
  } catch {
    // The storage is full or forbidden.
  }
}

/** Forgets the lists. */
export function forgetUsed(...places) {
  for (const place of places) {
    try {
      localStorage.removeItem(place);
    } catch {
      // Nothing was kept.
    }
  }
}
