// Dialog that shows what made a file, and fills the form with it.

import * as json from "../client/json.js";
import { dialogOf, makeClosable } from "../interface/dialog.js";
import { button, element, factRows } from "../interface/element.js";
import { SHOWN_IMAGES } from "../interface/image_types.js";
import { bytes } from "../interface/words.js";

const NONE =
  "This file does not say what made it. Darkroom writes prompt, model, seed and settings into " +
  "the images, videos and sounds that it makes, but other programs may remove them.";

/** Opens the dialog for a file and its description, which may be null. `models` are the served ones and
 * others; `use()` uses the file as input, and is null if nothing takes such a file. */
export function showOrigin(file, found, { models, act, use }) {
  const body = element("div", { class: "origin-body" });
  const preview = SHOWN_IMAGES.test(file.type) ? URL.createObjectURL(file) : null;
  const dialog = dialogOf("What made this file", "made-by", [
    preview === null ? null : element("img", { src: preview, alt: "" }),
    element("p", { class: "help" }, `${file.name} · ${bytes(file.size)}`),
    body,
  ]);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (preview !== null) URL.revokeObjectURL(preview);
  });
  document.body.append(dialog);
  makeClosable(dialog);
  dialog.showModal();
  const close = () => dialog.close();
  if (found === null) body.append(element("p", {}, NONE));
  else body.append(...parts(found, models.find(served(found)), { act, close, use }));
  body.querySelector("button:enabled")?.focus();
}

function served({ endpoint }) {
  return ({ id, away }) => id === endpoint && away === "";
}

function parts(found, model, { act, close, use }) {
  const { endpoint, seed, prompt, settings, request, demo } = found;
  const fill = (withSeed) => {
    close();
    const input = { ...settings, ...(prompt ? { prompt } : {}) };
    act.again({ endpoint, input, seed: withSeed ? seed : undefined });
  };
  const fills = [
    button("Use these settings", () => fill(true), { class: "main" }),
    ...(seed === null ? [] : [button("New seed", () => fill(false))]),
  ];
  for (const each of fills) each.disabled = model === undefined;
  const useIt = () => {
    close();
    use();
  };
  const facts = {
    Model: demo ? `${endpoint} (demo model)` : endpoint,
    Seed: seed,
    ...Object.fromEntries(
      Object.entries(settings).map(([name, value]) => [name.replaceAll("_", " "), words(value)]),
    ),
    Request: request,
  };
  return [
    prompt ? element("p", { class: "prompt-words" }, prompt) : "",
    element("dl", { class: "rows" }, factRows(facts)),
    model === undefined
      ? element("p", { class: "problem" }, `This Darkroom does not serve ${endpoint}.`)
      : "",
    element("div", { class: "buttons" }, fills, use === null ? "" : button("Use as input", useIt)),
  ];
}

function words(value) {
  if (value?.width && value.height) return `${value.width} × ${value.height}`;
  return typeof value === "string" ? value : json.write(value);
}
