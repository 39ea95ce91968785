// What the pools had in the last hour or day, as charts.

import { h, labelled, select } from "../interface/element.js";
import { shortClock } from "../interface/words.js";
import { barChart } from "./bar_chart.js";
import { section, span } from "./desk.js";

const PERIODS = [
  ["1", "Last hour"],
  ["24", "Last day"],
];
const RENEW_MS = 60_000; // the server's step
const MOST_EVENTS = 8;

/** Figures: name → heading, words for a value, and how those of several pools are put together. */
const FIGURES = {
  queued: { name: "Queued", words: String, both: (one, other) => one + other },
  running: { name: "Running", words: String, both: (one, other) => one + other },
  replicas: { name: "Ready replicas", words: String, both: (one, other) => one + other },
  wait_s: { name: "Oldest wait", words: span, both: Math.max },
};

/** Charts of `figures`, names of `FIGURES`. `node` is the section. */
export class History {
  #desk;
  #figures;
  #period = select(PERIODS, { change: () => this.look(true) });
  #charts = h.div({ class: "history" });
  #events = h.ul({ class: "lines facts" });
  #askedAt = -Infinity;

  constructor(desk, figures) {
    this.#desk = desk;
    this.#figures = figures;
    this.node = section(
      "History",
      "",
      h.div({ class: "tools" }, h.div(labelled("Time", this.#period))),
      this.#charts,
      this.#events,
    );
  }

  /** Draws the newest figures, at most once a minute unless `now`. */
  async look(now = false) {
    if (!now && performance.now() - this.#askedAt < RENEW_MS) return;
    this.#askedAt = performance.now();
    const hours = this.#period.value;
    const found = await this.#desk.call("GET", `v1/status/history?hours=${hours}`);
    if (hours !== this.#period.value) return;
    const times = timesOf(found.step_s, Number(hours));
    this.#charts.replaceChildren(
      ...this.#figures.map((figure) => chart(figure, found.pools, times)),
    );
  }

  /** Lists what started and ended in that time, from the events of the status. */
  showEvents(events) {
    const since = Date.now() - 3_600_000 * Number(this.#period.value);
    const recent = events.filter(({ at }) => Date.parse(at) >= since).slice(0, MOST_EVENTS);
    this.#events.replaceChildren(...recent.map((each) => h.li(eventWords(each))));
  }
}

function eventWords({ at, kind, name, pool, event, reason }) {
  const where = pool ? ` of ${pool}` : "";
  return `${shortClock(at)} · ${kind} ${name}${where} ${event}${reason ? `: ${reason}` : ""}`;
}

/** Begins of the steps, in seconds since 1970. */
function timesOf(step, hours) {
  const last = Math.floor(Date.now() / 1000 / step) * step;
  const count = (hours * 3600) / step;
  return Array.from({ length: count }, (_, at) => last - (count - 1 - at) * step);
}

function chart(figure, pools, times) {
  const { name, words, both } = FIGURES[figure];
  const values = new Map();
  for (const point of Object.values(pools).flat()) {
    const at = Date.parse(point.at) / 1000;
    values.set(at, values.has(at) ? both(values.get(at), point[figure]) : point[figure]);
  }
  const bars = times.map((at) => {
    const value = values.get(at) ?? 0;
    const time = shortClock(new Date(at * 1000).toISOString());
    return { name: time, short: time, value, words: words(value) };
  });
  return h.div({ class: "chart" }, h.h4(name), barChart(name, bars));
}
