// Models of the catalogue: where their weights are, and adding and removing them.

import { endpointPath } from "../client/watch.js";
import { button, h } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { statePill } from "../models/card.js";
import { Part, section } from "./desk.js";
import { ResourceTable } from "./resource_table.js";

const ORIGINS = { "built-in": "built in", file: "catalogue file", database: "added here" };
const NOT_COPIED = [
  "demo",
  "cpu",
  "weights",
  "display_name",
  "description",
  "licence",
  "readme",
  "examples",
];
const HUB = /^([\w.-]+\/[\w.-]+)@([0-9a-f]{40})$/;

/** Part of the models. */
export class EntriesPart extends Part {
  everyMs = 5000;
  #table = new LiveTable({
    label: "Models",
    empty: "The catalogue is empty.",
    key: ({ id }) => id,
    columns: [
      { name: "Model", cell: modelName },
      { name: "State", cell: ({ state }) => statePill(state) },
      { name: "Weights", wide: true, cell: weightWords },
      { name: "Replicas with it on disk", number: true, cell: ({ onDisk }) => String(onDisk) },
      { name: "From", cell: ({ origin }) => ORIGINS[origin] },
    ],
    actions: (row) => [
      ...(canDownload(row) ? [{ name: "Download", call: () => this.#download(row) }] : []),
      ...(row.origin === "database"
        ? [{ name: "Remove", danger: true, call: () => this.#remove(row.id) }]
        : []),
    ],
  });
  #models = [];
  #invalid = new ResourceTable(this.desk, "entry", {
    actions: ({ endpoint_id: id }) => [
      { name: "Remove", danger: true, call: () => this.#remove(id) },
    ],
  });
  #broken = section("Entries with a mistake", "They are not in force.", this.#invalid.node);
  node = h.div(
    section(
      "Models",
      "Weights are downloaded at the first request, or beforehand.",
      button("Add a model …", () => this.#add(), { class: "main" }),
      this.#table.node,
    ),
    this.#broken,
  );

  async look() {
    const [models, { entries }, { replicas, warm }] = await Promise.all([
      this.desk.page.models.list(),
      this.desk.call("GET", "v1/models/entries"),
      this.desk.call("GET", "v1/status"),
    ]);
    this.#models = models;
    const invalid = entries.filter(({ problem }) => problem !== null);
    await this.#invalid.show(invalid);
    this.#broken.hidden = invalid.length === 0;
    this.#table.show(
      models.map((model) => ({
        ...model,
        onDisk: replicas.filter(({ on_disk: ids }) => ids.includes(model.id)).length,
        loading: replicas
          .flatMap((each) => each.loading)
          .find(({ endpoints }) => endpoints.includes(model.id)),
        kept: warm.some(({ endpoint_id: id }) => id === model.id),
      })),
    );
  }

  async #download({ id }) {
    await this.desk.ask({
      title: "Download the weights now?",
      words: `A replica of its pool downloads the weights of ${id} and keeps them on disk, as a warm target. The table shows the progress.`,
      action: "Download",
      submit: () => this.desk.call("POST", "v1/warm", { endpoint_id: id, level: "disk" }),
      done: `The weights of ${id} are kept on disk.`,
    });
  }

  async #add() {
    const choices = this.#models.map(({ id }) => [id, id]);
    await this.desk.ask({
      title: "Add a model",
      words: "It is served by every part of this Darkroom within about a second.",
      action: "Add it",
      fields: [
        { name: "id", label: "Id", required: true, help: "Such as house/portraits." },
        {
          name: "weights",
          label: "Weights",
          required: true,
          help: "A diffusers pipeline: owner/name@commit of the hub, or the path of a folder that every node has.",
        },
        {
          name: "like",
          label: "Like",
          choices,
          help: "A model of the same pipeline: schema, defaults and recipes are copied from it.",
        },
        { name: "name", label: "Name" },
        { name: "licence", label: "Licence" },
        { name: "check", label: "Only check it", type: "checkbox" },
      ],
      submit: (values) => this.#put(values),
      done: resultWords,
    });
  }

  async #put({ id, weights, like, name, licence, check }) {
    const { entry: source } = await this.desk.call(
      "GET",
      `v1/models/entries/${endpointPath(like)}`,
    );
    const copied = Object.entries(source).filter(([key]) => !NOT_COPIED.includes(key));
    const entry = {
      ...Object.fromEntries(copied),
      weights: weightsOf(weights),
      ...(name === "" ? {} : { display_name: name }),
      ...(licence === "" ? {} : { licence }),
    };
    const query = check ? "?dry_run=true" : "";
    const path = `v1/models/entries/${endpointPath(id)}${query}`;
    const onlyNew = { "if-none-match": "*" };
    return { ...(await this.desk.call("PUT", path, entry, onlyNew)), check };
  }

  async #remove(id) {
    await this.desk.ask({
      title: "Remove this model?",
      words: `${id} is no longer served, unless a file or the built-in catalogue has it too. Weights and finished requests stay.`,
      action: "Remove it",
      danger: true,
      fields: [
        {
          name: "force",
          label: "Also while requests wait or run",
          type: "checkbox",
          help: "Requests that wait then fail.",
        },
      ],
      submit: ({ force }) => {
        const query = force ? "?force=true" : "";
        return this.desk.call("DELETE", `v1/models/entries/${endpointPath(id)}${query}`);
      },
      done: ({ now }) => (now === null ? `${id} is removed.` : `${id} is now that of: ${ORIGINS[now]}.`),
    });
  }
}

function canDownload({ state, demo, kept, weights }) {
  return state !== "not_served" && !demo && !kept && weights.source !== null;
}

function weightsOf(given) {
  if (given.startsWith("/")) return { directory: given };
  const found = HUB.exec(given);
  if (found !== null) return { hub: found[1], revision: found[2] };
  throw new Error(
    "Weights are owner/name@commit, with the 40 digits of the commit, or the path of a folder.",
  );
}

function resultWords({ endpoint_id: id, served, reason, pool, check }) {
  const subject = check ? `${id} has no mistake and would be` : `${id} is`;
  return served
    ? `${subject} served by the pool ${pool}.`
    : `${subject} listed, but not served. ${reason}`;
}

function modelName({ id, name }) {
  const href = `#view=models&id=${encodeURIComponent(id)}`;
  return [h.a({ href }, name), h.span({ class: "facts" }, id)];
}

function weightWords({ weights, demo, away, loading }) {
  const source = demo ? "Demo weights" : (weights.source ?? "none");
  const [reason] = away.split(/(?<=\.) /); // the rest says what to do, in each row the same
  const words = away === "" ? source : h.span({ title: away }, `${source}. ${reason}`);
  if (loading === undefined) return words;
  const share = loading.total > 0 ? Math.min(1, loading.done / loading.total) : null;
  const stage = loading.stage.replaceAll("_", " ");
  const label = share === null ? stage : `${stage}, ${Math.round(share * 100)} %`;
  return [
    words,
    h.span({ class: "loading" }, label, h.progress({ "aria-label": label, max: 1, value: share })),
  ];
}
