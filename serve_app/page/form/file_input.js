// Controls for input files: a local file or a URL.

import { button, h, problemLine, tell } from "../interface/element.js";
import { SHOWN_IMAGES } from "../interface/image_types.js";
import { bytes } from "../interface/words.js";
import { acceptOf, addressOf, check, checkKind, isInline } from "./file_check.js";
import { acceptDrops, hasResult, resultIn } from "../results/drag.js";
import { isExpired } from "../results/media.js";
import { Unreadable } from "./unreadable.js";

const NAMES = { image: "image", video: "video", audio: "audio file", weights: "file", file: "file" };

const GONE = "This file is not there any more. Remove it, and choose another.";
const EXPIRED = "Its link has expired, so it cannot be shown. As an input it still works.";

const loads = new Map(); // promise of a file that is being loaded → its node

const chosenFiles = new Set(); // those of the form, and maybe of one before

/** Bytes of all files that travel inside the request. */
function inlineBytes() {
  for (const each of chosenFiles) if (!each.node.isConnected) chosenFiles.delete(each);
  return [...chosenFiles].reduce((sum, { inline }) => sum + inline, 0);
}

/** Resolves when no file of `form` is being loaded, whether that worked or not. */
export async function allLoaded(form) {
  const own = [...loads].filter(([, node]) => form.contains(node)).map(([load]) => load);
  if (own.length === 0) return;
  await Promise.all(own);
  await allLoaded(form);
}

/** File that was chosen: its name, its thumbnail, its upload, and a button that removes it. */
class ChosenFile {
  #state = h.span({ class: "media-state", role: "status" });
  #bar = h.progress({ max: 1, value: 0, hidden: true, "aria-label": "Upload" });
  #stop = new AbortController();
  #remove;
  #sign;
  #again = null; // button, while the upload has failed
  #image = null;
  #renewing = null; // promise of a new URL
  url = null; // in the request; null until it is known
  problem = null; // why it has none
  shown = null; // URL of its image
  local = null; // the local file
  inline = 0; // bytes of it inside the request

  /** `picture` says that `url` is an image. `remove` is called by the button; `actions` are others.
   * `sign(url)` returns a new URL of a private file. */
  constructor({ name, url = null, detail = "", picture = false }, { remove, sign, actions = [] }) {
    this.name = name;
    this.#sign = sign;
    this.url = url;
    this.#state.textContent = detail;
    if (url?.startsWith("data:")) this.inline = (url.length * 3) / 4; // base64
    chosenFiles.add(this);
    this.#remove = button("Remove", remove, { "aria-label": `Remove ${name}` });
    const words = h.span({ class: "media-name" }, h.b(name), this.#state);
    this.node = h.div({ class: "media-preview" }, words, actions, this.#remove, this.#bar);
    if (picture || url?.startsWith("data:image/")) this.#picture(url);
  }

  /** Loads `file` for `field`: into the request, or to the server if it is large. */
  async load(...given) {
    const load = this.#load(...given);
    loads.set(load, this.node);
    await load.finally(() => loads.delete(load));
  }

  async #load(file, field, context) {
    this.local = file;
    this.problem = null;
    this.#state.classList.remove("bad");
    const inline = isInline(file, field, inlineBytes());
    if (inline) this.inline = file.size;
    const size = bytes(file.size);
    const progress = (part) => {
      this.#bar.hidden = false;
      this.#bar.value = part;
      this.#state.textContent = `${size} · uploading, ${Math.floor(part * 100)} %`;
    };
    if (this.shown === null && SHOWN_IMAGES.test(file.type))
      this.#picture(URL.createObjectURL(file));
    try {
      this.url = await addressOf(file, inline, context, progress, this.#stop.signal);
      this.#state.textContent = size;
    } catch (error) {
      this.problem = error.message;
      this.#state.textContent = error.message;
      this.#state.classList.add("bad");
      if (error.status !== 413) this.#offerAgain(() => this.load(file, field, context));
    }
    this.#bar.hidden = true;
    this.node.dispatchEvent(new Event("change", { bubbles: true }));
  }

  /** Gives a private image whose URL has expired a new one. */
  async renew() {
    if (this.url === null || this.#image === null || !isExpired(this.url)) return;
    this.#renewing ??= this.#renew().finally(() => (this.#renewing = null));
    await this.#renewing;
  }

  async #renew() {
    const { url } = this;
    try {
      this.url = await this.#sign(url);
    } catch (error) {
      if (error.status === undefined) return; // Darkroom does not answer, as the page says
      this.#state.textContent = error.status === 404 ? GONE : EXPIRED;
      this.#state.classList.add("bad");
      return;
    }
    this.shown = this.url;
    this.#image.src = this.url;
    this.node.dispatchEvent(new Event("change", { bubbles: true })); // the new URL is kept
  }

  #offerAgain(load) {
    const click = () => {
      this.#again.remove();
      this.#remove.focus(); // the button that had it is gone
      load();
    };
    this.#again = button("Try again", click, { "aria-label": `Try again: ${this.name}` });
    this.#remove.before(this.#again);
  }

  /** URL for the request. Throws `Unreadable` while there is none. */
  read() {
    if (this.url !== null) return this.url;
    throw new Unreadable(this.problem ?? `${this.name} is still being uploaded.`);
  }

  focus() {
    this.#remove.focus();
  }

  /** Ends the upload and releases the content: the file is not shown any more. */
  stop() {
    this.#stop.abort();
    chosenFiles.delete(this);
    if (this.local !== null && this.shown !== null) URL.revokeObjectURL(this.shown);
  }

  #picture(address) {
    this.shown = address;
    this.#image = h.img({ src: address, alt: "", error: () => this.renew() });
    this.node.prepend(this.#image);
  }
}

/** Control for one file or, of the kind `media-list`, for several. Its value is a URL, or a list of them;
 * for a small local file, a data URI. It also has `put(result)` and `take(files)`, which checks them. That
 * of one file has `load(file)`, and `shown()`, the URL of its image or null; for weights `given()`, the
 * URL or the text that was entered, and `words`, a place for their trigger words. */
export function mediaControl(field, id, context) {
  const many = field.kind === "media-list";
  const isMask = !many && isMaskField(field);
  const isWeights = !many && field.media === "weights";
  let files = [];
  const target = many ? linesInput(id) : lineInput(id, isWeights);
  const typed = () => target.value.split(/\s+/).filter(Boolean);
  const chosen = h.div({ class: "media-chosen", hidden: true });
  const show = (next) => {
    for (const each of files) if (!next.includes(each)) each.stop();
    files = next;
    chosen.hidden = files.length === 0;
    chosen.replaceChildren(...files.map(({ node }) => node));
    ways.hidden = !many && files.length > 0;
    source.say("");
  };
  const changed = () => target.dispatchEvent(new Event("change", { bubbles: true }));
  const remove = (file) => {
    const at = files.indexOf(file);
    show(files.filter((other) => other !== file));
    (files[at] ?? files.at(-1) ?? target).focus(); // the button that had it is gone
    changed();
  };
  const opens = (words, tool, about, attributes) =>
    button(words, () => context.edit(tool, field, about()), attributes);
  const made = (given) => {
    // One image of a list, as the dialog knows the control of an image.
    const one = { shown: () => file.shown, load: (local) => load(local, file) };
    const about = () => (many ? { ...one, node: file.node } : control);
    const [verb, tool] = isMask ? ["Edit", "mask"] : ["Crop", "frame"];
    const label = many ? `${verb} ${given.name}` : null;
    const edit = opens(verb, tool, about, { "aria-label": label });
    const actions = field.media === "image" ? [edit] : [];
    const file = new ChosenFile(given, { remove: () => remove(file), actions, sign: context.sign });
    return file;
  };
  /** Adds a file; in a list, it may take the place of `old`. */
  const add = (given, old) => {
    const file = made(given);
    const longer = many ? [...files, file] : [file];
    show(old ? files.map((each) => (each === old ? file : each)) : longer);
    return file;
  };
  const load = (local, old) => add({ name: local.name }, old).load(local, field, context);
  const room = () =>
    many ? Math.max(0, (field.mostItems ?? Infinity) - files.length - typed().length) : 1;
  const source = fileSource(field, many, (given) => {
    const free = room();
    for (const each of given.slice(0, free)) load(each);
    const names = given.slice(free).map(({ name }) => name);
    if (names.length === 0) return;
    const left = `${names.join(", ")} ${names.length > 1 ? "were" : "was"} left out`;
    source.say(`At most ${field.mostItems} are possible, so ${left}.`);
  });
  const put = ({ name, url }) => {
    if (room() === 0)
      return source.say(`At most ${field.mostItems} are possible. Remove one first.`);
    add({ name, url, picture: field.media === "image" });
    changed();
  };
  const ways = h.div(
    { class: "media-ways" },
    isWeights && opens("Choose a LoRA", "loras", () => control),
    source.node,
    isMask && opens("Paint a mask", "mask", () => control),
    target,
  );
  const words = h.div({ class: "trigger-words", role: "group", "aria-label": "Trigger words" });
  const node = h.div({ class: "media" }, chosen, ways, source.problem);
  if (isWeights) {
    node.append(words);
    node.addEventListener("change", () => context.describe(field, control));
  }
  takeDrops(node, source, put);
  const control = {
    node,
    target,
    put,
    take: source.take,
    load,
    words,
    renew: () => Promise.all(files.map((each) => each.renew())),
    given: () => files[0]?.url ?? target.value.trim(),
    shown: () => (files.length === 0 ? target.value.trim() || null : files[0].shown),
    read: () => {
      const urls = files.map((file) => file.read());
      if (!many) return urls[0] ?? (target.value.trim() || undefined);
      urls.unshift(...typed());
      return urls.length ? urls : undefined;
    },
    parts: () => ({ typed: target.value, held: files.map(({ url, local }) => url ?? local) }),
    join: ({ typed: text, held }) => {
      target.value = text;
      for (const each of held) {
        if (typeof each === "string") add(described(each, field));
        else load(each);
      }
    },
    write: (value) => {
      const urls = many ? (Array.isArray(value) ? value : []) : [value ?? ""];
      target.value = urls.filter((url) => !isHere(url)).join("\n");
      show([]);
      for (const url of urls.filter(isHere)) add(described(url, field));
      words.replaceChildren();
      if (isWeights && value) context.describe(field, control);
    },
  };
  return control;
}

/** Input of one URL. */
function lineInput(id, isWeights) {
  const placeholder = isWeights ? "owner/name or https://…" : "https://…";
  return h.input({ id, type: "text", inputmode: "url", placeholder, autocomplete: "off" });
}

/** Input of several URLs. */
function linesInput(id) {
  return h.textarea({ id, rows: 1, class: "code", placeholder: "https://… (one per line)" });
}

/** True for the input that says which part of an image is redrawn. */
export function isMaskField({ name, media }) {
  return media === "image" && /(^|_)mask(_|$)/.test(name);
}

/** True if `url` is the content itself or a file of this Darkroom, which is shown as a chosen file. */
function isHere(url) {
  return typeof url === "string" && (url.startsWith("data:") || /\/files\//.test(url));
}

function described(url, field) {
  if (url.startsWith("data:")) return { name: "The same file as before", url };
  return { name: nameIn(url), url, picture: field.media === "image" };
}

function nameIn(url) {
  const last = url.split(/[?#]/)[0].split("/").pop();
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

/** Button that opens the browser's dialog for files. `take(files)` gets those that fit the field. */
function fileSource(field, multiple, accepted) {
  const problem = problemLine();
  const say = (words) => tell(problem, words);
  /** Says why files do not fit. True if they do. */
  const fits = (files, rule) => {
    say("");
    try {
      for (const file of files) rule(file, field);
      return true;
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      say(error.message);
      return false;
    }
  };
  const take = (files) => {
    const given = multiple ? files : files.slice(0, 1);
    if (!fits(given, check)) return;
    if (given.length) accepted(given);
    if (given.length < files.length) say(`One file fits here: ${given[0].name} was taken.`);
  };
  const name = NAMES[field.media] ?? "file";
  const input = h.input({
    type: "file",
    accept: acceptOf(field),
    multiple,
    class: "unseen",
    "aria-label": `${field.title}: choose ${multiple ? "files" : "a file"}`,
    change: () => {
      take([...input.files]);
      input.value = "";
    },
  });
  const words = multiple ? `Choose or drop ${name}s` : `Choose or drop ${/^[ai]/.test(name) ? "an" : "a"} ${name}`;
  const node = h.label({ class: "picker" }, input, h.span(words));
  const takeResult = (file, put) => fits([file], checkKind) && put(file);
  return { node, problem, say, take, takeResult };
}

/** Accepts files that are dropped or pasted, and results of the page, which `put` gets. */
function takeDrops(node, { take, takeResult }, put) {
  const isWanted = (data) => data?.types.includes("Files") || hasResult(data?.types ?? []);
  acceptDrops(node, isWanted, (data) => {
    const result = resultIn(data); // its image is among the files too
    if (result !== null) takeResult(result, put);
    else if (data?.files.length) take([...data.files]);
  });
  node.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) take([...event.clipboardData.files]);
  });
}
