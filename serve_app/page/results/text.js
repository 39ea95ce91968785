// Text of an output without files, such as a transcript or a caption.

import { copyText } from "../interface/copy.js";
import { button, element } from "../interface/element.js";

const ACTION = { class: "action" };

/** Shows `text` before `whole`, the node with the whole output. `useAsPrompt` gets the text. */
export function showText(whole, text, useAsPrompt) {
  const words = element("blockquote", { class: "said" }, text);
  const click = async () => {
    await copyText(words);
    copy.textContent = "Copied";
  };
  const copy = button("Copy", click, ACTION);
  const use = button("Use as prompt", () => useAsPrompt(text), ACTION);
  whole.replaceWith(
    element(
      "figure",
      { class: "print text" },
      words,
      element("figcaption", {}, element("span", { class: "actions" }, copy, use)),
      element("details", {}, element("summary", {}, "Whole output"), whole.cloneNode(true)),
    ),
  );
}

