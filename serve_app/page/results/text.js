// Text of an output without files, such as a transcript or a caption.

import { copyButton } from "../interface/copy.js";
import { button, h } from "../interface/element.js";

const ACTION = { class: "action" };

/** Shows `text` before `whole`, the node with the whole output. `useAsPrompt` gets the text. */
export function showText(whole, text, useAsPrompt) {
  const words = h.blockquote({ class: "said" }, text);
  const copy = copyButton(() => words, ACTION);
  const use = button("Use as prompt", () => useAsPrompt(text), ACTION);
  whole.replaceWith(
    h.figure(
      { class: "print text" },
      words,
      h.figcaption(h.span({ class: "actions" }, copy, use)),
      h.details(h.summary("Whole output"), whole.cloneNode(true)),
    ),
  );
}
