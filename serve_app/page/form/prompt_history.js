// Prompts that were used in this browser, the latest first.

const PLACE = "darkroom.prompts";
const MOST = 200;
const MOST_CHARACTERS = 4000;

export function keptPrompts() {
  try {
    return JSON.parse(localStorage.getItem(PLACE) ?? "[]");
  } catch {
    return []; // forbidden, or not readable
  }
}

export function keepPrompt(prompt) {
  const text = prompt.trim();
  if (text === "" || text.length > MOST_CHARACTERS) return;
  const kept = [text, ...keptPrompts().filter((each) => each !== text)].slice(0, MOST);
  try {
    localStorage.setItem(PLACE, JSON.stringify(kept));
  } catch {
    // The storage is full or forbidden.
  }
}

export function forgetPrompts() {
  try {
    localStorage.removeItem(PLACE);
  } catch {
    // Nothing was kept.
  }
}
