// LoRAs in the form: the choice of one that was registered, uploaded or used before, and their trigger words.

import { button, h } from "../interface/element.js";
import { bytes } from "../interface/words.js";
import { keepUsed, LORAS, usedTexts } from "../form/used.js";
import { openSearch } from "./search.js";

const SEARCH_MS = 250; // after a letter
const MOST = 100; // LoRAs of an answer

let known = null; // {key, loras}: those that the server has named, by path

/** Opens the choice of a LoRA for `control`, the path in a row. */
export async function edit(control, rows, _field, api) {
  let all;
  const { dialog, search, list, show } = openSearch("Choose a LoRA", "Search LoRAs", {
    textOf: ({ name, path, words, base }) => [name, path, base, ...words].join(" "),
    contentOf,
    none: ({ length }) => (length ? "No LoRA has these words." : NONE),
    choose: ({ path }) => {
      control.write(path);
      control.target.dispatchEvent(new Event("change", { bubbles: true }));
    },
  });
  try {
    all = await knownLoras(api);
  } catch (error) {
    list.replaceChildren(h.p({ class: "problem" }, error.message));
    return;
  }
  let timer = null;
  const look = async () => {
    const words = search.value.trim();
    if (words === "" || !all.hasMore) return;
    const found = await namedLoras(api, words).catch(() => []); // what is here can be chosen
    const here = new Set(all.map(({ path }) => path));
    const others = found.filter(({ path }) => !here.has(path));
    all.push(...others);
    if (others.length && dialog.open) show(all);
  };
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, SEARCH_MS);
  });
  show(all);
}

const NONE =
  "None yet. Enter an id of the hub or a URL in the row, or choose a file: it is uploaded, and is here from then on.";

function contentOf(lora) {
  const facts = [lora.base, lora.size ? bytes(lora.size) : lora.path].filter(Boolean).join(" · ");
  const words = [facts, lora.words.slice(0, 5).join(", ")].filter(Boolean);
  const lines = words.map((line) => h.span({ class: "facts" }, line));
  return [h.b(lora.name), ...lines];
}

/** Registered and uploaded LoRAs, and others that were used in this browser: `{path, name, base, size,
 * words}`. `hasMore` of the list: the server may have others, which a search finds. */
async function knownLoras(api) {
  const uploaded = await namedLoras(api, "");
  const paths = new Set(uploaded.map(({ path }) => path));
  const used = usedTexts(LORAS).filter((path) => !paths.has(path) && !/\/files\//.test(path));
  const others = used.map((path) => ({ path, name: nameOf(path), base: "", size: 0, words: [] }));
  return Object.assign([...uploaded, ...others], { hasMore: uploaded.length >= MOST });
}

/** The latest LoRAs of the server whose names have these words. */
async function namedLoras(api, words) {
  const query = words === "" ? "" : `&q=${encodeURIComponent(words)}`;
  const answer = await api.call("GET", `v1/loras?limit=${MOST}${query}`);
  const found = answer.loras.map(({ path, name, size, ...lora }) => ({
    ...{ path, name, size, base: lora.base_model ?? "", words: lora.trigger_words },
  }));
  if (known?.key !== api.key) known = { key: api.key, loras: new Map() };
  for (const each of found) known.loras.set(each.path, each);
  return found;
}

function nameOf(path) {
  const [name] = path.split(/[?#@]/);
  const last = name.replace(/^weights:/, "").split("/").filter(Boolean).pop() ?? path;
  return last.replace(/\.safetensors$/, "");
}

/** Shows the trigger words of the LoRA in `control`; a click on one adds it to the prompt. */
export async function describe(control, rows, api) {
  const given = control.given();
  if (/^([\w.-]+\/[\w./@-]+|https?:\/\/\S+)$/.test(given)) keepUsed(LORAS, given);
  const words = await storedWords(given, api).catch(() => []); // without its words, a LoRA works too
  if (control.given() !== given) return; // another one was chosen meanwhile
  control.words.replaceChildren(...words.map((word) => chip(word, rows)));
}

/** Trigger words of a registered or an uploaded LoRA; none of others. */
async function storedWords(given, api) {
  if (!/\/files\/|^weights:./.test(given)) return [];
  const path = given.split("?")[0]; // without a signature
  const find = () => (known?.key === api.key ? known.loras.get(path)?.words : undefined);
  if (find() === undefined) await namedLoras(api, nameOf(path));
  return find() ?? [];
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
  return button(word, click, { class: "example", title: label });
}
