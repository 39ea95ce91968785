// LoRAs in the form: the choice of one that was uploaded or used before, and their trigger words.

import { openNew } from "../interface/dialog.js";
import { element } from "../interface/element.js";
import { roving } from "../interface/roving.js";
import { bytes } from "../interface/words.js";
import { wordsOf } from "./safetensors.js";
import { keepUsed, LORAS, usedTexts } from "../form/used.js";

const FRESH_MS = 30_000;

let asked = null; // {key, at, loras}: the last answer of the server

/** Opens the choice of a LoRA for `control`, the path in a row. */
export async function edit(control, rows, _field, api) {
  const search = element("input", { type: "search", placeholder: "Search", "aria-label": "Search LoRAs" });
  const list = element("div", { class: "targets" }, element("p", { class: "help" }, "Loading …"));
  const dialog = openNew("Choose a LoRA", "narrow", element("div", { class: "search" }, search), list);
  search.focus();
  let known;
  try {
    known = await knownLoras(api);
  } catch (error) {
    list.replaceChildren(element("p", { class: "problem" }, error.message));
    return;
  }
  const choose = (lora) => {
    dialog.close();
    control.write(lora.path);
    control.target.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const draw = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const textOf = ({ name, path, words, base }) => [name, path, base, ...words].join(" ").toLowerCase();
    const found = known.filter((lora) => wanted.every((each) => textOf(lora).includes(each)));
    const none = known.length ? "No LoRA has these words." : NONE;
    const shown = found.map((lora) => option(lora, choose));
    list.replaceChildren(...(shown.length ? shown : [element("p", { class: "help" }, none)]));
    roving(list, "button");
  };
  search.addEventListener("input", draw);
  draw();
}

const NONE =
  "None yet. Enter an id of the hub or a URL in the row, or choose a file: it is uploaded, and is here from then on.";

function option(lora, choose) {
  const facts = [lora.base, lora.size ? bytes(lora.size) : lora.path].filter(Boolean).join(" · ");
  return element(
    "button",
    { type: "button", class: "target", click: () => choose(lora) },
    element("b", {}, lora.name),
    element("span", { class: "facts" }, facts),
    lora.words.length ? element("span", { class: "facts" }, lora.words.slice(0, 5).join(", ")) : null,
  );
}

/** Uploaded LoRAs, and others that were used in this browser: `{path, name, base, size, words}`. */
async function knownLoras(api) {
  const uploaded = await uploadedLoras(api);
  const paths = new Set(uploaded.map(({ path }) => path));
  const used = usedTexts(LORAS).filter((path) => !paths.has(path) && !/\/files\//.test(path));
  const others = used.map((path) => ({ path, name: nameOf(path), base: "", size: 0, words: [] }));
  return [...uploaded, ...others];
}

async function uploadedLoras(api) {
  if (asked?.key !== api.key || Date.now() - asked.at > FRESH_MS) {
    const { loras } = await api.call("GET", "v1/loras?limit=100");
    asked = { key: api.key, at: Date.now(), loras };
  }
  return asked.loras.map(({ path, name, base_model: base, size, trigger_words: words }) => ({
    ...{ path, name, base: base ?? "", size, words },
  }));
}

function nameOf(path) {
  const [name] = path.split(/[?#@]/);
  const last = name.split("/").filter(Boolean).pop() ?? path;
  return last.replace(/\.safetensors$/, "");
}

/** Shows the trigger words of the LoRA in `control`; a click on one adds it to the prompt. */
export async function describe(control, rows, api) {
  const given = control.given();
  if (typeof given === "string" && /^([\w.-]+\/[\w./@-]+|https?:\/\/\S+)$/.test(given)) keepUsed(LORAS, given);
  let words = [];
  try {
    words = given instanceof File ? await wordsOf(given) : await uploadedWords(given, api);
  } catch {
    // Without its words, a LoRA works too.
  }
  if (control.given() !== given) return; // another one was chosen meanwhile
  control.words.replaceChildren(...words.map((word) => chip(word, rows)));
}

async function uploadedWords(path, api) {
  if (!/\/files\//.test(path)) return [];
  const find = async () => (await uploadedLoras(api)).find((each) => each.path === path)?.words;
  const words = await find();
  if (words !== undefined) return words;
  asked = null; // it may have been uploaded just now
  return (await find()) ?? [];
}

function chip(word, rows) {
  const click = () => {
    const prompt = rows.find(({ field }) => field.name === "prompt")?.control.target;
    if (prompt === undefined) return;
    const text = prompt.value.trimEnd();
    if (!text.toLowerCase().includes(word.toLowerCase()))
      prompt.value = text === "" ? word : `${text.replace(/,$/, "")}, ${word}`;
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
    prompt.focus();
  };
  const label = `Add “${word}” to the prompt`;
  return element("button", { type: "button", class: "example", title: label, click }, word);
}
