// Control for the image size: a preset, or width and height.

import { h, select } from "../interface/element.js";
import { capitalized } from "../interface/words.js";
import * as json from "../client/json.js";

/** fal's presets: width and height in pixels. */
const PRESETS = {
  square_hd: [1024, 1024],
  square: [512, 512],
  portrait_4_3: [768, 1024],
  portrait_16_9: [576, 1024],
  landscape_4_3: [1024, 768],
  landscape_16_9: [1024, 576],
};
const OWN = "own";

/** Width and height of `value` (a preset or an object), or null. */
export function pixelsOf(value) {
  if (typeof value === "string") return PRESETS[value] ?? null;
  const { width, height } = value ?? {};
  return width > 0 && height > 0 ? [Number(width), Number(height)] : null;
}

/** Width and height of `ratio`, such as 16:9; null for other texts. */
export function sidesOf(ratio) {
  const sides = /^(\d+):(\d+)$/.exec(ratio ?? "");
  return sides ? [Number(sides[1]), Number(sides[2])] : null;
}

export function sizeControl(field, id) {
  const presets = field.choices.length ? field.choices : Object.keys(PRESETS);
  const usual = presetOf(field.fallback, presets) ?? "";
  const options = presets.map((each) => [each, spoken(each)]);
  if (usual === "") options.unshift(["", usualWords(field.fallback)]);
  const target = select([...options, [OWN, "Width × height …"]], { id });
  const [width, height] = ["Width", "Height"].map((name) =>
    h.input({
      type: "number",
      min: 1,
      step: 1,
      "aria-label": `${name} in pixels`,
      inputmode: "numeric",
    }),
  );
  const own = h.div(
    { class: "sides", hidden: true },
    width,
    h.span({ "aria-hidden": "true" }, "×"),
    height,
    "px",
  );
  const reveal = () => {
    if (target.value === OWN && width.value === "")
      write2(pixelsOf(field.fallback) ?? [1024, 1024]);
    own.hidden = target.value !== OWN;
  };
  const write2 = (sides) => ([width.value, height.value] = sides);
  target.addEventListener("change", reveal);
  const write = (value) => {
    const preset = value === undefined ? usual : presetOf(value, presets);
    target.value = preset ?? OWN;
    write2(preset === null ? (pixelsOf(value) ?? ["", ""]) : ["", ""]);
    reveal();
  };
  write(undefined);
  const read = () => {
    if (target.value !== OWN) return target.value === usual ? undefined : target.value;
    const sides = Object.entries({ width: width.value, height: height.value });
    return Object.fromEntries(
      sides.filter(([, side]) => side !== "").map(([name, side]) => [name, number(side)]),
    );
  };
  return { node: h.div({ class: "size" }, target, own), target, read, write };
}

/** Preset that `value` names or whose size it has; null without one. */
function presetOf(value, presets) {
  if (typeof value === "string") return presets.includes(value) ? value : null;
  const pixels = pixelsOf(value);
  if (pixels === null) return null;
  return presets.find((each) => String(PRESETS[each]) === String(pixels)) ?? null;
}

function number(text) {
  return /^-?\d+$/.test(text) ? json.whole(text) : Number(text);
}

function usualWords(fallback) {
  const pixels = pixelsOf(fallback);
  return pixels ? `Default · ${pixels.join(" × ")}` : "Default";
}

function spoken(preset) {
  if (preset === "auto") return "As the image";
  const words = preset
    .replace(/_(\d+)_(\d+)$/, " $1:$2")
    .replace(/_hd$/, " HD")
    .replaceAll("_", " ");
  const pixels = PRESETS[preset] ? ` · ${PRESETS[preset].join(" × ")}` : "";
  return capitalized(words) + pixels;
}
