// Page of one model.

import { button, factRows, freshId, h } from "../interface/element.js";
import { money } from "../interface/words.js";
import { imageIn, inputSchema } from "../client/models.js";
import { filesIn, shown as shownFile } from "../results/media.js";
import { demoMark, picture, statePill } from "./card.js";
import { categoryWords, STATES } from "./catalogue.js";
import { markdown } from "./markdown.js";
import { outputSchema, rowsOf, schemaTable } from "./schema_table.js";

const ORIGINS = {
  "built-in": "Built in",
  file: "Catalogue file",
  database: "Added by an operator",
};
const MOST_EXAMPLES = 6;

/**
 * Page of a model: `{nodes, renew(model, standing), answer(preflight)}`, of which `renew` shows the newest
 * state, and `answer` what the real model needs. `act` has
 * `attempt(id, input)` (fills the form; with null, keeps what is entered) and `code(call)`;
 * `standing` is the status of the installation, or
 * null for keys that may not see it; `form` is what makes requests, or null.
 */
export function modelPage(model, act, standing, form) {
  const state = h.div();
  const places = h.div();
  const needs = h.dl({ class: "model-facts" });
  const renew = (newest, seen) => {
    state.replaceChildren(...stateOf(newest));
    places.replaceChildren(...(seen === null ? [] : replicas(newest, seen)));
  };
  renew(model, standing);
  const nodes = [
    h.a({ href: "#view=models", class: "back" }, "‹ All models"),
    head(model, act, state),
    ...section("Try it here", form === null ? [] : [form]),
    ...section("About", about(model)),
    ...section("What the real model needs", [needs, ...recipes(model)]),
    ...section("Examples", examples(model, act)),
    ...section("Input", schema(inputSchema, model, { label: "Input", withDefaults: true })),
    ...section("Output", schema(outputSchema, model, { label: "Output", withDefaults: false })),
    ...section("On the replicas", standing === null ? [] : [places]),
  ];
  const answer = (found) => needs.replaceChildren(...sentenceRows(found));
  return { nodes, renew, answer };
}

const SUBJECTS = {
  served: "Served",
  fits: "Fits here",
  download: "Download",
  licence: "Licence",
  access: "Access",
  time: "Time",
  next: "What to do",
};

/** Rows with the sentences of a pre-flight answer. Commands are between backticks. */
function sentenceRows({ sentences }) {
  return Object.entries(sentences).map(([subject, words]) =>
    h.div(
      h.dt(SUBJECTS[subject] ?? subject),
      h.dd(...words.split("`").map((part, at) => (at % 2 ? h.code(part) : part))),
    ),
  );
}

function stateOf(model) {
  const served = model.state !== "not_served";
  const words = model.away || STATES[model.state].words;
  return [
    h.p({ class: "standing" }, statePill(model.state), model.demo ? demoMark() : null),
    h.p({ class: served ? "help" : "notice" }, words),
  ];
}

function section(name, content) {
  if (content.length === 0) return [];
  const id = freshId("part");
  return [h.section({ "aria-labelledby": id }, h.h3({ id }, name), ...content)];
}

function head(model, act, state) {
  const served = model.away === "";
  const input = model.examples[0]?.input ?? null;
  return h.div(
    { class: "model-head" },
    h.div({ class: "cover" }, picture(model)),
    h.div(
      h.h2({ tabindex: -1 }, model.name),
      h.p({ class: "id" }, h.code(model.id)),
      state,
      served &&
        h.div(
          { class: "buttons" },
          button("Try it", () => act.attempt(model.id, input), { class: "main" }),
          button("Code", () => act.code({ endpoint: model.id, input: input ?? {} })),
        ),
      facts(model),
    ),
  );
}

function facts(model) {
  const { weights } = model;
  const revision = weights.revision ? ` @ ${weights.revision.slice(0, 12)}` : "";
  const file = weights.checkpoint ? ` with ${weights.checkpoint}` : "";
  const rows = factRows({
    Makes: categoryWords(model.category),
    Price: priceWords(model.price),
    Weights: model.demo ? "Demo weights of Darkroom" : `${weights.source ?? ""}${revision}${file}`,
    Entry: ORIGINS[model.origin],
  });
  return h.dl({ class: "model-facts" }, rows);
}

function priceWords(price) {
  if (price === null) return "";
  const { unit, unit_price: amount, currency } = price;
  if (amount === 0) return `Free; usage is counted in ${unit.replace("gpu_", "GPU ")}`;
  return `${money(amount, currency)} per ${unit.replace("gpu_", "GPU ").replace(/s$/, "")}`;
}

function about(model) {
  const words = [model.description, model.demo ? model.aboutDemo : ""].filter(Boolean);
  const text = model.readme.replace(/^\s*#\s+(.*)\n/, (line, title) =>
    title === model.name ? "" : line,
  );
  const readme = text.trim() === "" ? [] : markdown(text, 4);
  return [
    ...words.map((each) => h.p(each)),
    ...(readme.length > 0 ? [h.div({ class: "readme" }, readme)] : []),
  ];
}

function examples(model, act) {
  const shown = model.examples.slice(0, MOST_EXAMPLES);
  if (shown.length === 0) return [];
  const served = model.state !== "not_served";
  return [
    h.ul(
      { class: "samples" },
      shown.map(({ input, output }) => sample(model, input, output, served ? act : null)),
    ),
  ];
}

function sample(model, input, output, act) {
  const { prompt, ...rest } = input;
  const [file] = filesIn(output);
  const words = prompt ?? JSON.stringify(input);
  const settings = Object.entries(rest).map(([name, value]) => `${name} ${JSON.stringify(value)}`);
  const use = () => act.attempt(model.id, input);
  return h.li(
    file !== undefined && made(file, imageIn(output), words),
    h.p({ class: "words" }, words),
    prompt && settings.length ? h.p({ class: "facts" }, settings.join(" · ")) : null,
    act !== null && button("Try it", use, { "aria-label": `Try it: ${words}` }),
  );
}

/** Output of an example: an image, or the player of a video or an audio file. */
function made(file, picture, words) {
  if (["video", "audio"].includes(file.kind)) return shownFile(file, words);
  const src = picture ?? file.url; // the URL of an image may have no extension
  return h.img({ src, alt: words, loading: "lazy" });
}

function schema(find, { document, id }, options) {
  const found = find(document, id);
  const rows = found === null ? [] : rowsOf(found, document);
  if (rows.length > 0) return [schemaTable(rows, options)];
  return [h.p({ class: "help" }, "Any JSON object.")];
}

/** Which replicas hold the weights, and the warm targets of the model. */
function replicas({ id }, { replicas: all, warm }) {
  const places = [
    ["hot", "hot"],
    ["warm", "warm"],
    ["on_disk", "on disk"],
  ];
  const held = all.flatMap((replica) => {
    const place = places.find(([name]) => replica[name].includes(id));
    return place === undefined ? [] : [{ replica, words: place[1] }];
  });
  const targets = warm.filter((each) => each.endpoint_id === id);
  return [
    h.p(
      held.length === 0 ? "No replica holds its weights." : null,
      ...held.flatMap(({ replica, words }) => [
        h.code(replica.replica_id),
        ` in ${replica.pool}${replica.node ? ` on ${replica.node}` : ""}: ${words}. `,
      ]),
    ),
    ...targets.map(({ level, replicas: count, ready_replicas: ready }) =>
      h.p(`Kept ${level} on ${count}; ready: ${ready}.`),
    ),
    h.p(h.a({ href: "#view=operator&part=pools" }, "Replicas and warm targets")),
  ];
}

function recipes({ recipes: all }) {
  if (all.length === 0) return [];
  const rows = all.map(({ memory_gb: memory, precision, offload, largest }) => {
    const limit = largest === null ? "—" : largestWords(largest);
    return [`${memory} GB`, precision, offload === "none" ? "—" : offload, limit];
  });
  const heads = ["GPU memory", "Weights", "Moved to host memory", "Largest work"];
  return [
    h.table(
      { class: "table", "aria-label": "Memory" },
      h.thead(h.tr(heads.map((head) => h.th({ scope: "col" }, head)))),
      h.tbody(
        rows.map(([first, ...cells]) =>
          h.tr(
            h.th({ scope: "row" }, first),
            cells.map((cell, at) => h.td({ "data-label": heads[at + 1] }, cell)),
          ),
        ),
      ),
    ),
  ];
}

function largestWords({ megapixels, frames }) {
  const size = `${Math.round(megapixels * 100) / 100} megapixels`;
  return frames > 1 ? `${size}, ${frames} frames` : size;
}
