// Bar chart as SVG, with the same numbers as a table for screen readers.

import { h } from "../interface/element.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 160;
const STEP = 20; // from one bar to the next
const GAP = 5;
const MOST_LABELS = 8;

/** Chart named `label`. `bars`: `{name, value, words, short}`; `short` stands on the axis. */
export function barChart(label, bars) {
  const most = Math.max(...bars.map(({ value }) => value), 0);
  const width = bars.length * STEP;
  const chart = svg("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  bars.forEach(({ name, value, words }, place) => {
    const height = most > 0 ? Math.max(value > 0 ? 2 : 0, (value / most) * HEIGHT) : 0;
    const bar = svg("rect", {
      x: place * STEP + GAP / 2,
      y: HEIGHT - height,
      width: STEP - GAP,
      height,
    });
    const title = svg("title", {});
    title.textContent = `${name}: ${words}`;
    bar.append(title);
    chart.append(bar);
  });
  const top = bars.find(({ value }) => value === most);
  return h.figure(
    h.p({ class: "facts" }, most > 0 ? `Highest: ${top.words} (${top.name})` : "Nothing yet"),
    chart,
    axis(bars),
    table(label, bars),
  );
}

function axis(bars) {
  const every = Math.ceil(bars.length / MOST_LABELS);
  const shown = bars.filter((_, place) => (bars.length - 1 - place) % every === 0);
  return h.div(
    { class: "axis facts", "aria-hidden": "true" },
    shown.map(({ short }) => h.span(short)),
  );
}

function table(label, bars) {
  const rows = bars.filter(({ value }) => value > 0);
  return h.table(
    { class: "unseen", "aria-label": label },
    h.tbody(rows.map(({ name, words }) => h.tr(h.th({ scope: "row" }, name), h.td(words)))),
  );
}

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}
