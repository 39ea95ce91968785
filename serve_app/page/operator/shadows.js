// Requests beside their copies at other endpoints.

import { element } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { STATES, clock } from "../interface/words.js";
import { section } from "./desk.js";

const PAGE = 20;
const COPY_STATES = {
  waiting: "Waits until nothing else waits.",
  sending: "Is being sent.",
  sent: "Was deleted.",
};

/** Part of the shadows. */
export class ShadowsPart {
  everyMs = null;
  changed = () => {};
  #desk;
  #pairs = [];
  #next = null;
  #sums = sumsTable();
  #table = pairTable();
  #more;

  constructor(desk) {
    this.#desk = desk;
    const older = () => desk.run(() => this.#load(this.#next));
    this.#more = element(
      "button",
      { type: "button", class: "quiet", click: older },
      "Show older pairs",
    );
    this.node = element(
      "div",
      {},
      section(
        "Last day",
        "Medians of the seconds on a replica, failures and costs: of the requests, and of their copies.",
        this.#sums.node,
      ),
      section("Side by side", "The newest request first.", this.#table.node, this.#more),
    );
  }

  async look() {
    this.#pairs = [];
    await this.#load(null);
  }

  async #load(before) {
    const from = before === null ? "" : `&before=${before}`;
    const page = await this.#desk.call("GET", `v1/shadows?limit=${PAGE}${from}`);
    this.#pairs.push(...page.pairs);
    this.#next = page.next_before;
    this.#more.hidden = this.#next === null;
    this.#sums.show(page.comparisons);
    this.#table.show(this.#pairs);
  }
}

function sumsTable() {
  return new LiveTable({
    label: "Last day",
    empty: "No pair of requests has ended in the last day.",
    key: ({ endpoint_id: endpoint, shadow }) => `${endpoint} ${shadow}`,
    columns: [
      { name: "Model", cell: ({ endpoint_id: endpoint }) => endpoint },
      { name: "Shadow", cell: ({ shadow }) => shadow },
      { name: "Pairs", number: true, cell: ({ pairs }) => pairs.toLocaleString("en") },
      { name: "Requests", wide: true, cell: ({ originals }) => totals(originals) },
      { name: "Copies", wide: true, cell: ({ copies }) => totals(copies) },
    ],
  });
}

function totals({ median_s: median, failed, cost, currency }) {
  const time = median === null ? "no success" : `median ${seconds(median)}`;
  return [time, `${failed.toLocaleString("en")} failed`, money(cost, currency)]
    .filter(Boolean)
    .join(" · ");
}

function pairTable() {
  return new LiveTable({
    label: "Side by side",
    empty: "No request was copied. The entry of a model names its shadow.",
    key: ({ original }) => original?.request_id ?? "",
    columns: [
      {
        name: "Prompt",
        cell: ({ prompt, original }) => [
          prompt ?? "—",
          element("span", { class: "facts" }, original ? clock(original.created_at) : ""),
        ],
      },
      { name: "Request", wide: true, cell: ({ original, endpoint_id: id }) => side(original, id) },
      { name: "Copy", wide: true, cell: copy },
    ],
  });
}

function copy({ copy: made, shadow, state, reason }) {
  if (made !== null) return side(made, shadow);
  return element("div", { class: "beside" }, shadow, facts(reason || COPY_STATES[state]));
}

/** One of the two requests. */
function side(request, endpoint) {
  if (request === null) return element("div", { class: "beside" }, endpoint, facts("Was deleted."));
  const { state, run_s: took, cost, currency, error, files, endpoint_id: ran } = request;
  const told = [STATES[state], took === null ? "" : seconds(took), money(cost, currency)];
  return element(
    "div",
    { class: "beside" },
    ran,
    facts(told.filter(Boolean).join(" · ")),
    error === null ? null : element("span", { class: "problem" }, error.message),
    files.length > 0 ? element("div", { class: "outputs" }, files.map(output)) : written(request),
  );
}

function output({ url, content_type: type, file_name: name, thumbnail }) {
  const small = thumbnail?.url ?? (type.startsWith("image/") ? url : null);
  const shown =
    small === null ? name : element("img", { src: small, alt: name, decoding: "async", loading: "lazy" });
  return element("a", { href: url, target: "_blank", rel: "noopener" }, shown);
}

/** Output without files, as JSON. */
function written({ output: made }) {
  return made === null ? null : element("code", {}, JSON.stringify(made).slice(0, 400));
}

function facts(words) {
  return element("span", { class: "facts" }, words);
}

function seconds(value) {
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

function money(cost, currency) {
  return cost === null || currency === null ? "" : `${cost.toLocaleString("en")} ${currency}`;
}
