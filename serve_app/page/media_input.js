// Controls for image, video and audio inputs: a local file or a URL.

import { element } from "./element.js";

/** Control for one file. Its value is a URL; for a local file, a data URI. */
export function mediaControl(field, id) {
  const target = element("input", {
    id,
    type: "text",
    inputmode: "url",
    placeholder: "https://…",
    autocomplete: "off",
    input: () => shown(null),
  });
  let file = null; // {name, url} of the file that was chosen
  const preview = element("div", { class: "media-preview", hidden: true });
  const shown = (given) => {
    file = given;
    preview.hidden = given === null;
    preview.replaceChildren(...(given ? parts(given) : []));
    target.hidden = given !== null;
  };
  const remove = () => {
    shown(null);
    target.focus();
  };
  const parts = ({ name, url }) => [
    ...(url.startsWith("data:image/") ? [element("img", { src: url, alt: "" })] : []),
    element("span", { class: "media-name" }, name),
    element(
      "button",
      { type: "button", class: "quiet", click: remove, "aria-label": `Remove ${name}` },
      "Remove",
    ),
  ];
  const picker = pickerFor(field, false, async ([given]) => {
    if (given) shown({ name: given.name, url: await dataUri(given) });
  });
  const node = element("div", { class: "media" }, target, preview, picker);
  takeDrops(node, async ([given]) => shown({ name: given.name, url: await dataUri(given) }));
  return {
    node,
    target,
    read: () => file?.url ?? (target.value.trim() === "" ? undefined : target.value.trim()),
    write: (value) => {
      const inline = typeof value === "string" && value.startsWith("data:");
      target.value = inline ? "" : (value ?? "");
      shown(inline ? { name: "the file of the input", url: value } : null);
    },
  };
}

/** Control for several files. Its value is a list of URLs. */
export function mediaListControl(field, id) {
  let files = [];
  const target = element("textarea", {
    id,
    rows: 2,
    class: "code",
    placeholder: "https://… (one per line)",
  });
  const list = element("ul", { class: "media-list" });
  const show = () =>
    list.replaceChildren(
      ...files.map((each) => {
        const remove = () => {
          files = files.filter((other) => other !== each);
          show();
        };
        const label = `Remove ${each.name}`;
        const button = element(
          "button",
          { type: "button", class: "quiet", click: remove, "aria-label": label },
          "Remove",
        );
        return element("li", {}, element("span", { class: "media-name" }, each.name), button);
      }),
    );
  const add = async (given) => {
    for (const file of given) files.push({ name: file.name, url: await dataUri(file) });
    show();
  };
  const node = element("div", { class: "media" }, target, list, pickerFor(field, true, add));
  takeDrops(node, add);
  return {
    node,
    target,
    read: () => {
      const urls = [...target.value.split(/\s+/).filter(Boolean), ...files.map((each) => each.url)];
      return urls.length ? urls : undefined;
    },
    write: (value) => {
      const urls = value ?? [];
      target.value = urls.filter((url) => !url.startsWith("data:")).join("\n");
      files = urls
        .filter((url) => url.startsWith("data:"))
        .map((url, at) => ({ name: `file ${at + 1}`, url }));
      show();
    },
  };
}

function pickerFor(field, multiple, take) {
  const accept = field.media === "file" ? null : `${field.media}/*`;
  const input = element("input", {
    type: "file",
    accept,
    multiple,
    class: "picker",
    "aria-label": `${field.title}: choose ${multiple ? "files" : "a file"}`,
    change: async () => {
      await take([...input.files]);
      input.value = "";
    },
  });
  return input;
}

function takeDrops(node, take) {
  const over = (on) => (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    node.classList.toggle("dropping", on);
  };
  node.addEventListener("dragover", over(true));
  node.addEventListener("dragleave", over(false));
  node.addEventListener("drop", async (event) => {
    over(false)(event);
    if (event.dataTransfer?.files.length) await take([...event.dataTransfer.files]);
  });
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
