// Help texts of fields. The schema's own descriptions are written for programmers.

import { h } from "../interface/element.js";
import { capitalized } from "../interface/words.js";

/** Fields whose title says enough. */
const CLEAR =
  "prompt text image_size aspect_ratio image_url image_urls video_url audio_url num_images resolution " +
  "num_frames frames_per_second output_format format";

/** Text by field name. */
const TEXTS = {
  negative_prompt: "What should not be in it.",
  mask_url: "An image of the same size: white is redrawn, black stays.",
  reference_image_urls: "Images whose content or style it should follow.",
  strength: "Low keeps the input, high redraws it.",
  guidance_scale: "Higher follows the prompt more closely, with less variety.",
  num_inference_steps: "More steps take longer and add detail.",
  steps: "More steps take longer and add detail.",
  seed: "The same seed gives the same result. Empty: a random one.",
  seeds: "One result for each seed.",
  loras: "Small additions to the model that change its style or its subjects.",
  acceleration: "Faster, with slightly less quality.",
  sync_mode: "Puts the files inside the answer, and does not store them.",
};

/** Names that are clearer than those of the schema. */
const TITLES = {
  sync_mode: "Do not store the files",
  loras: "LoRAs",
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  seconds_total: "Length in seconds",
  seconds_start: "Start at second",
  num_frames: "Frames",
  output_format: "File format",
  format: "File format",
  image_size: "Size",
};

export function helpOf({ name, description }) {
  if (CLEAR.split(" ").includes(name)) return "";
  return Object.hasOwn(TEXTS, name) ? TEXTS[name] : description;
}

/** Title of a field, such as "Number of images" for `num_images`. */
export function titleOf(name) {
  if (Object.hasOwn(TITLES, name)) return TITLES[name];
  const words = name.replace(/_urls?$/, "").replace(/^num_/, "number_of_");
  return capitalized(words.replaceAll("_", " "));
}

/** Nodes for `text`, in which words between backticks become code. */
export function withCode(text) {
  return text
    .split(/`([^`]+)`/)
    .map((part, at) => (at % 2 === 1 ? h.code(part) : part))
    .filter((part) => part !== "");
}
