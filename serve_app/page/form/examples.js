// Example inputs of the chosen model, as buttons that fill the form.

import { imageIn } from "../client/models.js";
import { button, byId, h } from "../interface/element.js";
import { roving } from "../interface/roving.js";

const MOST = 6;

/** Shows the examples of `model`: in the form, and on the empty stage. `use(input)` is called with the
 * one that was clicked. */
export function showExamples(model, use) {
  const shown = model.examples.slice(0, MOST);
  byId("examples").hidden = shown.length === 0;
  byId("examples").open = model.demo; // what a demo model draws is not what people expect
  for (const group of document.querySelectorAll(".examples")) {
    group.hidden = shown.length === 0;
    group.replaceChildren(...shown.map((each) => example(each, use)));
    roving(group, "button");
  }
}

/** Button of an example, with the image that it made, if one is stored. */
function example({ input, output }, use) {
  const picture = imageIn(output);
  const words = input.prompt ?? Object.values(input).join(", ");
  const image = picture ? h.img({ src: picture, alt: "", loading: "lazy" }) : null;
  image?.addEventListener("error", () => image.remove());
  return button([image, words], () => use(input), { class: "example" });
}
