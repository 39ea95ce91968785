// Text of an output without files, such as a transcript or a caption.

import { copyText } from "../interface/copy.js";
import { element } from "../interface/element.js";

/** Shows `text` before `whole`, the node with the whole output. `useAsPrompt` gets the text. */
export function showText(whole, text, useAsPrompt) {
  const words = element("blockquote", { class: "said" }, text);
  const copy = button("Copy", async () => {
    await copyText(words);
    copy.textContent = "Copied";
  });
  whole.replaceWith(
    element(
      "figure",
      { class: "print text" },
      words,
      element(
        "figcaption",
        {},
        element("span", { class: "actions" }, copy, button("Use as prompt", () => useAsPrompt(text))),
      ),
      element("details", {}, element("summary", {}, "Whole output"), whole.cloneNode(true)),
    ),
  );
}

function button(name, click) {
  return element("button", { type: "button", class: "action", click }, name);
}
