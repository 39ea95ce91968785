// Usage by tenant, endpoint and day, as a chart, a table, and a file for spreadsheets.

import { element, freshId } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { barChart } from "./bar_chart.js";
import { labelled, section, span } from "./desk.js";

const DAY_MS = 86_400_000;
const MOST_TENANTS = 20; // one call each
const PERIODS = [
  ["7", "7 days"],
  ["30", "30 days"],
  ["90", "90 days"],
];
const MEASURES = {
  requests: { name: "Requests", of: ({ darkroom }) => darkroom.requests, words: String },
  run_s: { name: "Compute time", of: ({ darkroom }) => darkroom.run_s, words: span },
  steps: { name: "Steps", of: ({ darkroom }) => darkroom.steps, words: String },
};

/** Part of the usage. `changed()` is set by the view: it looks again. */
export class UsagePart {
  everyMs = null;
  changed = () => {};
  #desk;
  #tenant = element("select", { id: freshId("tenant"), change: () => this.changed() });
  #period = element("select", { id: freshId("period"), change: () => this.changed() });
  #measures = element("div", { class: "chips", role: "group", "aria-label": "Measure" });
  #measure = "requests";
  #chart = element("div", { class: "chart" });
  #table = usageTable();
  #about = element("p", { class: "help" });
  #rows = []; // {day, tenant, endpoint, requests, run_s, steps, quantity, unit}

  constructor(desk) {
    this.#desk = desk;
    this.#period.append(...PERIODS.map(([value, words]) => element("option", { value }, words)));
    this.#period.value = "30";
    this.#measures.append(
      ...Object.entries(MEASURES).map(([value, { name }]) =>
        element(
          "button",
          { type: "button", "data-value": value, click: () => this.#show(value) },
          name,
        ),
      ),
    );
    this.node = element(
      "div",
      {},
      element(
        "div",
        { class: "tools" },
        labelled("Tenant", this.#tenant),
        labelled("Time", this.#period),
        this.#measures,
      ),
      section("By day", "", this.#chart),
      section("By tenant and endpoint", "", this.#about, this.#table.node, this.#download()),
    );
  }

  async look() {
    const { tenants } = await this.#desk.call("GET", "v1/tenants");
    this.#offer(tenants.map(({ tenant }) => tenant));
    const wanted =
      this.#tenant.value === "" ? tenants.map(({ tenant }) => tenant) : [this.#tenant.value];
    const asked = wanted.slice(0, MOST_TENANTS);
    this.#about.textContent =
      asked.length < wanted.length
        ? `The first ${MOST_TENANTS} tenants. Choose another one above.`
        : "";
    const found = await Promise.all(asked.map((tenant) => this.#of(tenant)));
    this.#rows = found.flat();
    this.#show(this.#measure);
  }

  #offer(names) {
    const chosen = this.#tenant.value;
    const option = ([value, words]) => element("option", { value }, words);
    this.#tenant.replaceChildren(
      ...[["", "All"], ...names.map((name) => [name, name])].map(option),
    );
    this.#tenant.value = names.includes(chosen) ? chosen : "";
  }

  /** Usage of a tenant by day and endpoint. */
  async #of(tenant) {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC";
    const query = new URLSearchParams({
      tenant,
      start: new Date(this.#days()[0]).toISOString(),
      timeframe: "day",
      timezone: zone,
      limit: "1000",
    });
    const page = await this.#desk.call("GET", `v1/models/usage?${query}`);
    return page.time_series.flatMap(({ bucket, results }) =>
      results.map((result) => ({
        day: dayOf(new Date(bucket)),
        tenant,
        endpoint: result.endpoint_id,
        quantity: result.quantity,
        unit: result.unit,
        ...Object.fromEntries(Object.entries(MEASURES).map(([name, { of }]) => [name, of(result)])),
      })),
    );
  }

  /** Midnights of the chosen days, as the browser's clock has them. */
  #days() {
    const now = new Date();
    const count = Number(this.#period.value);
    return Array.from({ length: count }, (_, place) =>
      new Date(now.getFullYear(), now.getMonth(), now.getDate() - count + 1 + place).getTime(),
    );
  }

  #show(measure) {
    this.#measure = measure;
    for (const each of this.#measures.children)
      each.setAttribute("aria-pressed", String(each.dataset.value === measure));
    const { name, words } = MEASURES[measure];
    const bars = this.#days().map((at) => {
      const day = dayOf(new Date(at));
      const value = total(
        this.#rows.filter((row) => row.day === day),
        measure,
      );
      return { name: day, value, words: words(value) };
    });
    this.#chart.replaceChildren(barChart(`${name} by day`, bars));
    this.#table.show(grouped(this.#rows));
  }

  #download() {
    const save = () => {
      const names = ["day", "tenant", "endpoint", "requests", "run_s", "steps", "quantity", "unit"];
      const lines = [names, ...this.#rows.map((row) => names.map((name) => row[name]))];
      const text = lines.map((line) => line.map(csvCell).join(",")).join("\r\n");
      const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
      element("a", { href: url, download: "darkroom-usage.csv" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser reads it after the click
    };
    return element("button", { type: "button", class: "quiet", click: save }, "Download as CSV");
  }
}

/** Cell of a CSV file. A spreadsheet would compute what begins like a formula. */
function csvCell(value) {
  const text = String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function dayOf(date) {
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

function total(rows, measure) {
  return rows.reduce((sum, row) => sum + row[measure], 0);
}

/** Sums by tenant and endpoint, the longest compute time first. */
function grouped(rows) {
  const groups = new Map();
  for (const row of rows) {
    const key = `${row.tenant} ${row.endpoint}`;
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  return [...groups]
    .map(([key, [first, ...rest]]) => {
      const all = [first, ...rest];
      const names = ["requests", "run_s", "steps", "quantity"];
      return {
        ...first,
        key,
        ...Object.fromEntries(names.map((name) => [name, total(all, name)])),
      };
    })
    .sort((one, other) => other.run_s - one.run_s);
}

function usageTable() {
  return new LiveTable({
    label: "By tenant and endpoint",
    empty: "Nothing was made in this time.",
    key: ({ key }) => key,
    columns: [
      { name: "Tenant", cell: ({ tenant }) => tenant },
      { name: "Endpoint", cell: ({ endpoint }) => endpoint },
      { name: "Requests", number: true, cell: ({ requests }) => String(requests) },
      { name: "Compute time", number: true, cell: ({ run_s: time }) => span(time) },
      { name: "Steps", number: true, cell: ({ steps }) => String(steps) },
      { name: "Quantity", number: true, cell: (row) => `${round(row.quantity)} ${row.unit}` },
    ],
  });
}

function round(number) {
  return Math.round(number * 100) / 100;
}
