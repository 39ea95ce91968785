// Text of an output without files, such as a transcript or a caption.

import { copyText } from "../interface/copy.js";
import { byId, element } from "../interface/element.js";
import { tool } from "../interface/late.js";

/** Shows `text` before `whole`, the node with the whole output. `act.write(endpoint, input)` writes
 * into the form, and `act.models` knows what takes the text as its prompt. */
export function showText(whole, text, act) {
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
        element("span", { class: "actions" }, copy, button("Use as prompt", () => choose(text, act))),
      ),
      element("details", {}, element("summary", {}, "Whole output"), whole.cloneNode(true)),
    ),
  );
}

async function choose(text, { write, models }) {
  const { chooseInput } = await tool("reuse");
  const put = ({ id }, { name }) => write(id, { [name]: text });
  await chooseInput({ kind: "text" }, { current: byId("model").value, models: models.served(), put });
}

function button(name, click) {
  return element("button", { type: "button", class: "action", click }, name);
}
