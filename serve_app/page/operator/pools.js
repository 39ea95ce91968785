// Pools, replicas with the weights that they hold, and warm targets.

import { button, factRows, h } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { bytesOf } from "../interface/words.js";
import { Part, pill, section, span } from "./desk.js";
import { History } from "./history.js";
import { ResourceTable } from "./resource_table.js";

const LEVELS = [
  ["hot", "Hot: on a device"],
  ["host", "In host memory"],
  ["disk", "On disk"],
];

/** Part of the pools. */
export class PoolsPart extends Part {
  everyMs = 1000;
  #figures = h.dl({ class: "tiles" });
  #pools = new LiveTable(POOL_TABLE);
  #replicas = new LiveTable(REPLICA_TABLE);
  #history = new History(this.desk, ["queued", "running", "replicas"]);
  #warm = new ResourceTable(this.desk, "warm target", {
    key: ({ endpoint_id: id, pool, source }) => `${id || pool} ${source}`,
    deletable: ({ source }) => source === "operator",
  });
  node = h.div(
    this.#figures,
    section("Pools", "", this.#pools.node),
    section("Replicas", "", this.#replicas.node),
    this.#history.node,
    section(
      "Warm targets",
      "Models that replicas hold before a request needs them.",
      this.#warm.node,
      button("Keep a model warm …", () => this.#keep()),
    ),
  );

  async look() {
    const status = await this.desk.call("GET", "v1/status");
    const pools = Object.entries(status.pools).map(([name, pool]) => ({
      name,
      ...pool,
      problem: status.unplaceable[name] ?? "",
      stages: stageWords(status.replicas.filter((each) => each.pool === name)),
    }));
    const sum = (name) => pools.reduce((total, pool) => total + pool[name], 0);
    const ready = status.replicas.filter(({ stage }) => stage === "ready").length;
    const oldest = Math.max(0, ...pools.map((pool) => pool.oldest_wait_s));
    this.#figures.replaceChildren(
      ...factRows({
        "Ready replicas": `${ready} of ${status.replicas.length}`,
        Queued: String(sum("queued")),
        Running: String(sum("running")),
        "Oldest wait": span(oldest),
      }),
    );
    this.#pools.show(pools);
    this.#replicas.show(status.replicas);
    this.#history.showEvents(status.events);
    await Promise.all([this.#warm.show(status.warm), this.#history.look()]);
  }

  async #keep() {
    const models = await this.desk.page.models.list().catch(() => []);
    const served = models.filter(({ away }) => away === "");
    await this.desk.ask({
      title: "Keep a model warm",
      words:
        "Replicas load its weights now, and keep them. An earlier target of the model is replaced.",
      action: "Keep it warm",
      fields: [
        { name: "endpoint_id", label: "Model", choices: served.map(({ id, name }) => [id, name]) },
        { name: "level", label: "Level", choices: LEVELS },
        { name: "replicas", label: "Replicas", type: "number", value: "1", required: true },
        { name: "hours", label: "Hours", type: "number", help: "Empty: until it is removed." },
      ],
      submit: ({ endpoint_id: id, level, replicas, hours }) =>
        this.desk.call("POST", "v1/warm", {
          endpoint_id: id,
          level,
          replicas: Number(replicas),
          for_s: hours === "" ? null : Number(hours) * 3600,
        }),
      done: ({ endpoint_id: id, replicas, pool }) => `${id} is kept warm on ${replicas} in ${pool}.`,
    });
  }
}

const POOL_TABLE = {
  label: "Pools",
  empty: "No pool is configured, and no replica has started.",
  key: ({ name }) => name,
  columns: [
    { name: "Pool", cell: poolName },
    { name: "Replicas", cell: ({ stages }) => stages },
    { name: "Target", number: true, cell: ({ target_replicas: wanted }) => String(wanted ?? "—") },
    { name: "Bounds", number: true, cell: boundWords },
    { name: "Slots", number: true, cell: ({ slots }) => String(slots) },
    { name: "Queued", number: true, cell: queuedWords },
    { name: "Running", number: true, cell: ({ running }) => String(running) },
    { name: "Oldest wait", number: true, cell: (pool) => span(pool.oldest_wait_s) },
    {
      name: "Cleared in",
      number: true,
      cell: (pool) => span(pool.queued_s + pool.overflow_queued_s),
    },
  ],
};

function poolName(pool) {
  const { name, accelerator, overflow_of: before, canary_of: beside, canary, returned } = pool;
  const facts = [
    accelerator ?? "",
    before === null ? "" : `takes the overflow of ${before}`,
    beside === null ? "" : `canary of ${beside}`,
    returned ? "" : canary,
    pool.warm_replicas > 0 ? `${pool.warm_replicas} kept by warm targets` : "",
  ];
  const words = facts.filter(Boolean).join(" · ");
  const problems = [pool.problem, returned ? `It ${canary}.` : ""].filter(Boolean);
  return [
    name,
    words === "" ? null : h.span({ class: "facts" }, words),
    ...problems.map((problem) => h.span({ class: "problem" }, problem)),
  ];
}

function stageWords(replicas) {
  const stages = [...Map.groupBy(replicas, ({ stage }) => stage)];
  return stages.map(([stage, { length }]) => `${length} ${stage}`).join(", ") || "none";
}

function boundWords({ min_replicas: least, max_replicas: most }) {
  return most === null ? "—" : `${least} to ${most}`;
}

function queuedWords({ queued, overflow_of, canary_of, overflow_queued: over }) {
  const before = overflow_of ?? canary_of;
  return before === null ? String(queued) : `${over} of ${before}`;
}

const REPLICA_TABLE = {
  label: "Replicas",
  empty: "No replica runs. A request starts one.",
  key: ({ replica_id: id }) => id,
  columns: [
    { name: "Replica", cell: replicaName },
    { name: "Pool", cell: ({ pool }) => pool },
    { name: "Stage", cell: ({ stage }) => pill(stage) },
    { name: "Weights", wide: true, cell: weightsWords },
    { name: "On disk", number: true, cell: ({ on_disk: ids }) => counted(ids) },
    { name: "Memory", cell: memoryCell },
    { name: "Slots", number: true, cell: ({ slots }) => String(slots) },
    { name: "Seen", number: true, cell: (replica) => `${span(replica.seen_s)} ago` },
  ],
};

function replicaName({ replica_id: id, node, device }) {
  const place = [device, node].filter(Boolean).join(" · ");
  return [h.code(id), place === "" ? null : h.span({ class: "facts" }, place)];
}

/** Memory of the replica's device, or of its process where it has none. */
function memoryCell({ memory_used: used, memory_total: total, device }) {
  if (used === null || !total) return "—";
  const words = bytesOf(used, total);
  return h.span(
    { class: "share", title: device ? "Of its GPU" : "Of its process and its machine" },
    h.progress({ "aria-label": `Memory: ${words}`, max: total, value: used }),
    h.span({ class: "facts" }, words),
  );
}

function counted(ids) {
  return ids.length === 0 ? "0" : h.span({ title: ids.join("\n") }, String(ids.length));
}

/** What a replica holds, and what it loads: each with its stage and its share. */
function weightsWords({ hot, warm, loading, detail, not_kept: refused }) {
  const held = [
    ...hot.map((id) => h.span({ class: "pill hot", title: "On a device" }, id)),
    ...warm.map((id) => h.span({ class: "pill warm", title: "In host memory" }, id)),
  ];
  const coming = loading.map(loadingRow);
  const words = coming.length === 0 && detail ? [h.span({ class: "facts" }, detail)] : [];
  const problems = refused.map(([id, why]) => h.span({ class: "problem" }, `${id}: ${why}`));
  if (held.length + coming.length + words.length === 0) held.push("none");
  return [h.div({ class: "pills" }, held), ...coming, ...words, ...problems];
}

function loadingRow({ endpoints, stage, done, total }) {
  const name = `${stage.replaceAll("_", " ")} ${endpoints[0] ?? ""}`;
  const share = total > 0 ? Math.min(1, done / total) : null;
  const words =
    share === null
      ? name
      : `${name}, ${Math.round(share * 100)} % of ${(total / 1e9).toFixed(1)} GB`;
  return h.span(
    { class: "loading" },
    h.span({ class: "facts" }, words),
    h.progress({ "aria-label": words, max: 1, value: share }),
  );
}
