// Card of a model, with its picture.

import { imageIn } from "../client/models.js";
import { h } from "../interface/element.js";
import { categoryWords, memoryWords, STATES } from "./catalogue.js";

/** Card that links to the model's page. */
export function card(model) {
  const facts = [categoryWords(model.category), model.licence].filter(Boolean).join(" · ");
  const href = `#view=models&id=${encodeURIComponent(model.id)}`;
  return h.li(
    { class: "card", "data-id": model.id },
    h.div({ class: "cover" }, picture(model), model.demo ? demoMark() : null),
    h.h4(h.a({ href }, model.name)),
    h.p({ class: "facts" }, facts || model.id),
    h.p({ class: "standing" }, statePill(model.state), memoryNote(model)),
  );
}

function memoryNote(model) {
  const least = memoryWords(model);
  const words = model.cpu ? "runs without a GPU" : least && `${least} of GPU memory`;
  return words ? h.span({ class: "facts" }, words) : null;
}

/** Mark of a demo model. */
export function demoMark() {
  return h.span({ class: "pill demo", title: "A tiny demo model replaces it." }, "Demo");
}

/** Mark with where the weights are. */
export function statePill(state) {
  const { name, words } = STATES[state] ?? STATES.unknown;
  return h.span({ class: `pill ${state}`, title: words }, name);
}

/** Output of an example, or a calm plate with the model's name. */
export function picture(model) {
  const url = model.examples.map(({ output }) => imageIn(output)).find((each) => each !== null);
  if (url === undefined) return plate(model);
  const image = h.img({ src: url, alt: "", loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(plate(model)));
  return image;
}

function plate({ id, name }) {
  const made = h.span(
    { class: "plate", "aria-hidden": "true" },
    h.span(name.replace(/\s*([[(,]| with ).*$/, "")),
  );
  made.style.setProperty("--hue", String(hueOf(id)));
  return made;
}

/** Hue in degrees that an id always has: models of one owner and family are near each other. */
function hueOf(id) {
  const family = id.split("/").slice(0, 2).join("/");
  return (sum(family) % 360) + (sum(id) % 24);
}

function sum(text) {
  return [...text].reduce((total, each) => (total * 31 + each.codePointAt(0)) % 100_003, 7);
}
