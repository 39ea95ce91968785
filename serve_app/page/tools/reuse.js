// Choice of what takes a result as its input: the models, and their inputs of its kind.

import { fieldsOf } from "../form/schema.js";
import { openNew } from "../interface/dialog.js";
import { button, h } from "../interface/element.js";
import { roving } from "../interface/roving.js";

const GROUPS = {
  "image-to-image": "Change it",
  "image-to-video": "Make a video of it",
  "video-to-video": "Change it",
};
const HERE = "The model in the form";
const OTHERS = "Other models";
const NO_ORIGIN = "The file does not say what made it, so it has no settings to use.";
const NOUNS = { image: "image", video: "video", audio: "audio file", text: "text" };

/** Opens the choice for `file`, whose `kind` may be a text. `current` is the id of the chosen model; `put(model, field)` is called
 * with what was chosen. `models` is a promise of the models with their schemas. */
export async function chooseInput(file, { current, models, put }) {
  const list = h.div({ class: "targets" }, h.p({ class: "help" }, "Loading …"));
  const { kind } = file;
  const url = file.local ? URL.createObjectURL(file.local) : file.url;
  const title = kind === "text" ? "Use this text as a prompt" : `Use this ${NOUNS[kind] ?? "file"} as input`;
  const dialog = openNew(title, [preview({ kind, url }), list], { kind: "narrow" });
  if (file.local) dialog.addEventListener("close", () => URL.revokeObjectURL(url));
  let found;
  try {
    found = (await models).map((model) => ({ model, fields: inputsOf(model, kind) }));
  } catch (error) {
    list.replaceChildren(h.p({ class: "problem" }, error.message));
    return;
  }
  const takers = found.filter(({ fields }) => fields.length > 0);
  const chosen = (model, field) => {
    dialog.close();
    put(model, field);
  };
  list.replaceChildren(
    ...(takers.length ? groups(takers, current, chosen, kind === "text" ? {} : GROUPS) : [nobody(file)]),
    file.local ? h.p({ class: "help" }, NO_ORIGIN) : "",
  );
  roving(list, "button");
  list.querySelector("button")?.focus();
}

/** Fields of `model` that take a file of this kind, or a text; masks and negative prompts are last. */
function inputsOf({ input }, kind) {
  if (input === null) return [];
  const taken = kind === "text" ? "prompt" : kind;
  const fields = fieldsOf(input).filter((field) => (field.media ?? field.kind) === taken);
  const isLast = ({ name }) => /mask|negative/.test(name);
  return fields.sort((one, other) => isLast(one) - isLast(other));
}

/** Sections with the models; `named` has the names of those of some categories. */
function groups(takers, current, chosen, named) {
  const nameOf = ({ model }) => (model.id === current ? HERE : (named[model.category] ?? OTHERS));
  const names = [...new Set([HERE, ...Object.values(named), OTHERS])];
  const all = names.map((name) => [name, takers.filter((each) => nameOf(each) === name)]);
  const filled = all.filter(([, members]) => members.length > 0);
  return filled.map(([name, members]) =>
    h.section(
      h.h3(name),
      members.flatMap(({ model, fields }) =>
        (model.id === current ? fields : fields.slice(0, 1)).map((field) =>
          target(model, field, chosen),
        ),
      ),
    ),
  );
}

function target(model, field, chosen) {
  const facts = h.span({ class: "facts" }, `${field.title} · ${model.id}`);
  const words = [h.b(model.name), facts];
  return button(words, () => chosen(model, field), { class: "target" });
}

function preview({ kind, url }) {
  return kind === "image" ? h.img({ src: url, alt: "", class: "of" }) : null;
}

function nobody({ kind }) {
  const words = `No model of this Darkroom takes ${/^[ai]/.test(kind) ? "an" : "a"} ${NOUNS[kind] ?? "file"}.`;
  return h.p({ class: "help" }, words);
}
