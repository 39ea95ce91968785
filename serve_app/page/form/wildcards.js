// Wildcards of prompts: of {red|blue}, each request gets one.

const CHOICE = /\{([^{}]*\|[^{}]*)\}/;
const MOST = 100; // choices in a prompt

/** `prompt` with one of the words of each choice. Choices may be inside of others. */
export function expanded(prompt, random = Math.random) {
  let text = prompt;
  for (let made = 0; made < MOST && CHOICE.test(text); made += 1) {
    text = text.replace(CHOICE, (_, inner) => {
      const words = inner.split("|");
      return words[Math.floor(random() * words.length)].trim();
    });
  }
  return text;
}
