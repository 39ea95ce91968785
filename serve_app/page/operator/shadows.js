// Requests beside their copies at other endpoints.

import { h } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { clock, money, STATES } from "../interface/words.js";
import { Pages, Part, section } from "./desk.js";

const COPY_STATES = {
  waiting: "Waits until nothing else waits.",
  sending: "Is being sent.",
  sent: "Was deleted.",
};

/** Part of the shadows. */
export class ShadowsPart extends Part {
  #sums = new LiveTable({
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
  #table = new LiveTable({
    label: "Side by side",
    empty: "No request was copied. The entry of a model names its shadow.",
    key: ({ original }) => original?.request_id ?? "",
    columns: [
      {
        name: "Prompt",
        cell: ({ prompt, original }) => [
          prompt ?? "—",
          h.span({ class: "facts" }, original ? clock(original.created_at) : ""),
        ],
      },
      { name: "Request", wide: true, cell: ({ original, endpoint_id: id }) => side(original, id) },
      { name: "Copy", wide: true, cell: copy },
    ],
  });
  #pairs = new Pages(this.desk, "Show older pairs", {
    path: () => "v1/shadows?limit=20",
    items: "pairs",
    show: (pairs, { comparisons }) => {
      this.#sums.show(comparisons);
      this.#table.show(pairs);
    },
  });
  node = h.div(
    section(
      "Last day",
      "Medians of the seconds on a replica, failures and costs: of the requests, and of their copies.",
      this.#sums.node,
    ),
    section("Side by side", "The newest request first.", this.#table.node, this.#pairs.more),
  );

  look() {
    return this.#pairs.look();
  }
}

function totals({ median_s: median, failed, cost, currency }) {
  const time = median === null ? "no success" : `median ${seconds(median)}`;
  return [time, `${failed.toLocaleString("en")} failed`, costOf(cost, currency)]
    .filter(Boolean)
    .join(" · ");
}

function copy({ copy: made, shadow, state, reason }) {
  if (made !== null) return side(made, shadow);
  return h.div({ class: "beside" }, shadow, facts(reason || COPY_STATES[state]));
}

/** One of the two requests. */
function side(request, endpoint) {
  if (request === null) return h.div({ class: "beside" }, endpoint, facts("Was deleted."));
  const { state, run_s: took, cost, currency, error, files, endpoint_id: ran } = request;
  const told = [STATES[state], took === null ? "" : seconds(took), costOf(cost, currency)];
  return h.div(
    { class: "beside" },
    ran,
    facts(told.filter(Boolean).join(" · ")),
    error !== null && h.span({ class: "problem" }, error.message),
    files.length > 0 ? h.div({ class: "outputs" }, files.map(output)) : written(request),
  );
}

function output({ url, content_type: type, file_name: name, thumbnail }) {
  const small = thumbnail?.url ?? (type.startsWith("image/") ? url : null);
  const shown =
    small === null ? name : h.img({ src: small, alt: name, decoding: "async", loading: "lazy" });
  return h.a({ href: url, target: "_blank", rel: "noopener" }, shown);
}

/** Output without files, as JSON. */
function written({ output: made }) {
  return made === null ? null : h.code(JSON.stringify(made).slice(0, 400));
}

function facts(words) {
  return h.span({ class: "facts" }, words);
}

/** A time whose hundredths tell two short ones apart. */
function seconds(value) {
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

function costOf(cost, currency) {
  return cost === null || currency === null ? "" : money(cost, currency);
}
