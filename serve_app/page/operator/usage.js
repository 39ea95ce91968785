// Usage by tenant, endpoint and time, as a chart, a table, and a file for spreadsheets.

import { chips, press } from "../interface/chips.js";
import { button, h, labelled, select } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { save } from "../interface/save.js";
import { dateOf, money, shortClock } from "../interface/words.js";
import { barChart } from "./bar_chart.js";
import { offer, Part, section, span } from "./desk.js";

/** How many of which unit. */
const PERIODS = [
  ["60", "Last hour", "minute"],
  ["24", "Last day", "hour"],
  ["7", "7 days", "day"],
  ["30", "30 days", "day"],
  ["90", "90 days", "day"],
];
const LENGTHS_MS = { minute: 60_000, hour: 3_600_000 };
const MEASURES = {
  requests: { name: "Requests", words: String },
  run_s: { name: "Compute time", words: span },
  steps: { name: "Steps", words: String },
};
const GROUPS = [
  ["tenant,endpoint", "Tenant and endpoint"],
  ["tenant", "Tenant"],
  ["key", "Key"],
  ["endpoint", "Endpoint"],
  ["day", "Day"],
];
const HEADS = { tenant: "Tenant", endpoint: "Endpoint", key: "Key", day: "Day" };

/** Part of the usage. `own`: only that of the key's
 * tenant, for keys that are no operator's. */
export class UsagePart extends Part {
  #look = { change: () => this.desk.look() };
  #tenant = select([], this.#look);
  #period = select(PERIODS, { ...this.#look, value: "30" });
  #group;
  #measures = h.div(
    { class: "chips", role: "group", "aria-label": "Measure" },
    chips(
      Object.entries(MEASURES).map(([value, { name }]) => [value, name]),
      (value) => this.#show(value),
    ),
  );
  #measure = "requests";
  #chart = h.div({ class: "chart" });
  #place = h.div();
  #table = null;
  #report = h.ul({ class: "lines" });
  #costs = h.output({ "aria-label": "Costs" });
  #own;
  #rows = []; // {day, tenant, key, endpoint, requests, run_s, steps, quantity, unit, cost, currency}

  constructor(desk, { own = false } = {}) {
    super(desk);
    this.#own = own;
    const groups = own ? GROUPS.filter(([value]) => !value.startsWith("tenant")) : GROUPS;
    this.#group = select(groups, {
      change: () => this.#regroup(),
      value: own ? "endpoint" : undefined,
    });
    this.node = h.div(
      h.div(
        { class: "tools" },
        !own && h.div(labelled("Tenant", this.#tenant)),
        h.div(labelled("Time", this.#period)),
        this.#measures,
      ),
      section("Over time", "", this.#chart),
      section(
        "Totals",
        "",
        h.div({ class: "tools" }, h.div(labelled("By", this.#group)), this.#costs),
        this.#place,
        button("Download as CSV", () => desk.run(() => this.#download())),
      ),
      !own && section("What the machines cost", "In the same time, for all tenants.", this.#report),
    );
    this.#regroup();
  }

  async look() {
    if (!this.#own) {
      const { tenants } = await this.desk.call("GET", "v1/tenants");
      offer(this.#tenant, [["", "All"], ...tenants.map(({ tenant }) => [tenant, tenant])]);
    }
    const page = await this.desk.call("GET", `v1/usage?${this.#query()}`);
    this.#rows = page.results.map((result) => ({
      quantity: 0,
      ...result,
      endpoint: result.endpoint_id,
      key: result.key_id,
    }));
    this.#costs.textContent = page.costs.map(({ currency, cost }) => money(cost, currency)).join(", ");
    this.#show(this.#measure);
    if (this.#own) return;
    const start = this.#times()[0].toISOString();
    const query = new URLSearchParams({ start });
    const report = await this.desk.call("GET", `v1/usage/report?${query}`);
    this.#report.replaceChildren(...reportLines(report).map((line) => h.li(line)));
  }

  /** What is asked for, by time, tenant, key and endpoint: all views of it are made here. */
  #query() {
    const query = new URLSearchParams({
      by: [...new Set(["day", this.#unit()]), "tenant", "key", "endpoint"],
      start: this.#times()[0].toISOString(),
      timezone: Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC",
    });
    if (this.#own) return query; // the key's tenant
    if (this.#tenant.value === "") query.set("tenants", "*");
    else query.set("tenant", this.#tenant.value);
    return query;
  }

  #unit() {
    return PERIODS.find(([value]) => value === this.#period.value)[2];
  }

  /** Beginnings of the chosen minutes, hours or days, as the browser's clock has them. */
  #times() {
    const now = new Date();
    const unit = this.#unit();
    const count = Number(this.#period.value);
    return Array.from({ length: count }, (_, place) => {
      const ago = count - 1 - place;
      if (unit === "day") return new Date(now.getFullYear(), now.getMonth(), now.getDate() - ago);
      const at = new Date(now);
      at.setMinutes(unit === "hour" ? 0 : now.getMinutes(), 0, 0);
      return new Date(at - ago * LENGTHS_MS[unit]);
    });
  }

  #show(measure) {
    this.#measure = measure;
    press(this.#measures, measure);
    const { name, words } = MEASURES[measure];
    const unit = this.#unit();
    const bars = this.#times().map((at) => {
      const day = dateOf(at);
      const rows = this.#rows.filter((row) =>
        unit === "day" ? row.day === day : Date.parse(row[unit]) === at.getTime(),
      );
      const value = total(rows, measure);
      const clock = shortClock(at.toISOString());
      return {
        name: unit === "day" ? day : clock,
        short: unit === "day" ? day.slice(5) : clock,
        value,
        words: words(value),
      };
    });
    this.#chart.replaceChildren(barChart(`${name} by ${unit}`, bars));
    this.#table.show(grouped(this.#rows, this.#names()));
  }

  #names() {
    return this.#group.value.split(",");
  }

  /** Shows the sums of other groups. */
  #regroup() {
    this.#table = usageTable(this.#names());
    this.#place.replaceChildren(this.#table.node);
    this.#table.show(grouped(this.#rows, this.#names()));
  }

  async #download() {
    const file = await this.desk.page.api.file("GET", `v1/usage.csv?${this.#query()}`);
    save(file, "darkroom-usage.csv");
  }
}

function total(rows, measure) {
  return rows.reduce((sum, row) => sum + row[measure], 0);
}

/** Sums by these fields, and by unit and currency, the longest compute time first. */
function grouped(rows, names) {
  const whole = names.includes("endpoint");
  const groups = Map.groupBy(rows, (row) =>
    [...names.map((name) => row[name]), whole ? row.unit : "", row.currency].join(" "),
  );
  return [...groups]
    .map(([key, all]) => {
      const figures = ["requests", "run_s", "steps", "quantity", "cost"];
      return {
        ...all[0],
        id: key,
        ...Object.fromEntries(figures.map((name) => [name, total(all, name)])),
      };
    })
    .sort((one, other) => other.run_s - one.run_s);
}

function usageTable(names) {
  const whole = names.includes("endpoint");
  return new LiveTable({
    label: `By ${names.join(" and ")}`,
    empty: "Nothing was made in this time.",
    key: ({ id }) => id,
    columns: [
      ...names.map((name) => ({ name: HEADS[name], cell: (row) => row[name] || "–" })),
      { name: "Requests", number: true, cell: ({ requests }) => String(requests) },
      { name: "Compute time", number: true, cell: ({ run_s: time }) => span(time) },
      { name: "Steps", number: true, cell: ({ steps }) => String(steps) },
      ...(whole ? [{ name: "Billed", number: true, cell: billed }] : []),
      { name: "Cost", number: true, cell: cost },
    ],
  });
}

function billed({ quantity, unit }) {
  return unit === undefined ? "–" : `${Math.round(quantity * 100) / 100} ${unit.replace("_", " ")}`;
}

function cost({ cost: amount, currency }) {
  return currency === null ? "–" : money(amount, currency);
}

/** Sentences of the report of costs. */
function reportLines({ pools, currency, cost: all, fal_cost: atFal, endpoints, ...sums }) {
  const hours = (each, of = "GPU hours") =>
    `${round(each.paid_hours)} ${of} paid, ${round(each.busy_hours)} busy, ` +
    `${round(each.idle_hours)} idle`;
  const unpriced = endpoints.filter(({ cost: known }) => known === null).length;
  const none = pools.every((each) => each.cost === null);
  return [
    ...pools.map((each) => {
      const paid = each.cost === null ? "no cost is set" : money(each.cost, currency);
      return `Pool ${each.pool}, ${each.gpu || "no GPU"}: ${hours(each, each.gpu ? "GPU hours" : "hours")}; ${paid}`;
    }),
    `Together: ${hours(sums, pools.some(({ gpu }) => gpu) ? "GPU hours" : "hours")}` +
      (none ? "" : `; ${money(all, currency)}`),
    `The same work at fal's list prices: ${money(atFal, currency)}` +
      (unpriced === 0 ? "" : `, without ${unpriced} endpoint${unpriced > 1 ? "s" : ""} that ${unpriced > 1 ? "have" : "has"} no price`),
  ];
}

function round(number) {
  return Math.round(number * 100) / 100;
}
