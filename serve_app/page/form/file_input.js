// Controls for input files: a local file or a URL.

import { element } from "../interface/element.js";
import { bytes } from "../interface/words.js";
import { acceptOf, addressOf, check } from "./file_check.js";
import { Unreadable } from "./unreadable.js";

const NAMES = { image: "image", video: "video", audio: "audio file", weights: "file", file: "file" };

/** File that was chosen: its name, its thumbnail, its upload, and a button that removes it. */
class ChosenFile {
  #state = element("span", { class: "media-state", role: "status" });
  #bar = element("progress", { max: 1, value: 0, hidden: true, "aria-label": "Upload" });
  #stop = new AbortController();
  url = null; // in the request; null until it is known
  problem = null; // why it has none

  /** `remove` is called by the button. */
  constructor({ name, url = null, detail = "" }, remove) {
    this.name = name;
    this.url = url;
    this.#state.textContent = detail;
    const button = element(
      "button",
      { type: "button", class: "quiet", click: remove, "aria-label": `Remove ${name}` },
      "Remove",
    );
    const words = element("span", { class: "media-name" }, element("b", {}, name), this.#state);
    this.node = element("div", { class: "media-preview" }, words, button, this.#bar);
    if (url?.startsWith("data:image/")) this.#picture(url);
  }

  /** Loads `file`: into the request, or to the server if it is large. */
  async load(file, context) {
    const size = bytes(file.size);
    const progress = (part) => {
      this.#bar.hidden = false;
      this.#bar.value = part;
      this.#state.textContent = `${size} · uploading, ${Math.floor(part * 100)} %`;
    };
    if (/^image\/(png|jpeg|webp|gif|avif)$/.test(file.type))
      this.#picture(URL.createObjectURL(file));
    try {
      this.url = await addressOf(file, context, progress, this.#stop.signal);
      this.#state.textContent = size;
    } catch (error) {
      this.problem = error.message;
      this.#state.textContent = error.message;
      this.#state.classList.add("bad");
    }
    this.#bar.hidden = true;
    this.node.dispatchEvent(new Event("change", { bubbles: true }));
  }

  /** URL for the request. Throws `Unreadable` while there is none. */
  read() {
    if (this.url !== null) return this.url;
    throw new Unreadable(this.problem ?? `${this.name} is still being uploaded.`);
  }

  stop() {
    this.#stop.abort();
  }

  #picture(address) {
    this.node.prepend(element("img", { src: address, alt: "" }));
  }
}

/** Control for one file. Its value is a URL; for a small local file, a data URI. */
export function mediaControl(field, id, context) {
  const target = element("input", {
    id,
    type: "text",
    inputmode: "url",
    placeholder: field.media === "weights" ? "owner/name or https://…" : "https://…",
    autocomplete: "off",
  });
  const chosen = element("div", { class: "media-chosen", hidden: true });
  let file = null;
  const show = (next) => {
    file?.stop();
    file = next;
    chosen.hidden = next === null;
    chosen.replaceChildren(...(next ? [next.node] : []));
    ways.hidden = next !== null;
    if (next !== null) source.say("");
  };
  const remove = () => {
    show(null);
    target.focus();
    target.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const source = fileSource(field, false, ([given]) => {
    const next = new ChosenFile({ name: given.name }, remove);
    show(next);
    next.load(given, context);
  });
  const ways = element("div", { class: "media-ways" }, source.node, target);
  const node = element("div", { class: "media" }, ways, chosen, source.problem);
  takeDrops(node, source.take);
  return {
    node,
    target,
    read: () => {
      if (file !== null) return file.read();
      return target.value.trim() === "" ? undefined : target.value.trim();
    },
    write: (value) => {
      const inline = typeof value === "string" && value.startsWith("data:");
      const uploaded = !inline && /\/files\//.test(value ?? "");
      target.value = inline || uploaded ? "" : (value ?? "");
      const name = uploaded ? decodeURIComponent(value.split("/").pop()) : "The same file as before";
      show(inline || uploaded ? new ChosenFile({ name, url: value }, remove) : null);
    },
  };
}

/** Control for several files. Its value is a list of URLs. */
export function mediaListControl(field, id, context) {
  let files = [];
  const target = element("textarea", {
    id,
    rows: 1,
    class: "code",
    placeholder: "https://… (one per line)",
  });
  const list = element("div", { class: "media-list" });
  const show = (next) => {
    files = next;
    list.replaceChildren(...files.map(({ node }) => node));
  };
  const add = (given) => {
    const file = new ChosenFile(given, () => {
      file.stop();
      show(files.filter((other) => other !== file));
    });
    show([...files, file]);
    return file;
  };
  const source = fileSource(field, true, (given) => {
    for (const each of given) add({ name: each.name }).load(each, context);
  });
  const node = element("div", { class: "media" }, list, source.node, target, source.problem);
  takeDrops(node, source.take);
  return {
    node,
    target,
    read: () => {
      const urls = [...target.value.split(/\s+/).filter(Boolean), ...files.map((f) => f.read())];
      return urls.length ? urls : undefined;
    },
    write: (value) => {
      const urls = value ?? [];
      target.value = urls.filter((url) => !url.startsWith("data:")).join("\n");
      show([]);
      urls
        .filter((url) => url.startsWith("data:"))
        .forEach((url, at) => add({ name: `File ${at + 1}`, url }));
    },
  };
}

/** Button that opens the browser's dialog for files. `take(files)` gets those that fit the field. */
function fileSource(field, multiple, accepted) {
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const say = (words) => {
    problem.textContent = words;
    problem.hidden = words === "";
  };
  const take = (files) => {
    const given = multiple ? files : files.slice(0, 1);
    try {
      for (const file of given) check(file, field);
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      say(error.message);
      return;
    }
    say("");
    if (given.length) accepted(given);
  };
  const name = NAMES[field.media] ?? "file";
  const input = element("input", {
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
  const node = element("label", { class: "picker" }, input, element("span", {}, words));
  return { node, problem, say, take };
}

function takeDrops(node, take) {
  const over = (on) => (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    node.classList.toggle("dropping", on);
  };
  node.addEventListener("dragover", over(true));
  node.addEventListener("dragleave", over(false));
  node.addEventListener("drop", (event) => {
    over(false)(event);
    if (event.dataTransfer?.files.length) take([...event.dataTransfer.files]);
  });
  node.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) take([...event.clipboardData.files]);
  });
}
