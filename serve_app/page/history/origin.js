// Dialog that shows what made a file, and fills the form with it.

import * as json from "../client/json.js";
import { openNew } from "../interface/dialog.js";
import { button, factRows, h } from "../interface/element.js";
import { SHOWN_IMAGES } from "../interface/image_types.js";
import { bytes } from "../interface/words.js";

const NONE =
  "This file does not say what made it. Darkroom writes prompt, model, seed and settings into " +
  "the images, videos and sounds that it makes, but other programs may remove them.";

/** Opens the dialog for a file and its description, which may be null. `models` are the served ones and
 * others; `use()` uses the file as input, and is null if nothing takes such a file. */
export function showOrigin(file, found, { models, act, use }) {
  const body = h.div({ class: "origin-body" });
  const preview = SHOWN_IMAGES.test(file.type) ? URL.createObjectURL(file) : null;
  const content = [
    preview === null ? null : h.img({ src: preview, alt: "" }),
    h.p({ class: "help" }, `${file.name} · ${bytes(file.size)}`),
    body,
  ];
  const dialog = openNew("What made this file", content, { kind: "made-by" });
  dialog.addEventListener("close", () => preview !== null && URL.revokeObjectURL(preview));
  const close = () => dialog.close();
  if (found === null) body.append(h.p(NONE));
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
    prompt ? h.p({ class: "prompt-words" }, prompt) : "",
    h.dl({ class: "rows" }, factRows(facts)),
    model === undefined
      ? h.p({ class: "problem" }, `This Darkroom does not serve ${endpoint}.`)
      : "",
    h.div({ class: "buttons" }, fills, use !== null && button("Use as input", useIt)),
  ];
}

function words(value) {
  if (value?.width && value.height) return `${value.width} × ${value.height}`;
  return typeof value === "string" ? value : json.write(value);
}
