// Grids: a request for each combination of the values of two fields, and the table of their results.

import { openNew } from "../interface/dialog.js";
import { byId, element, freshId } from "../interface/element.js";
import { GridAxis, variables, wordsOf } from "./grid_axis.js";
import { Unreadable } from "../form/unreadable.js";

const MOST = 64; // requests of a grid
const LIKELY = ["num_inference_steps", "guidance_scale"];
const SUBMITTED = "submitted"; // event of a table: no more requests come
const FINAL = ["succeeded", "failed", "cancelled", "expired", "lost"];

const submitting = new Set(); // ids of the grids of which more requests are to be submitted

/** True if no more requests of the grid may be submitted: its user cancels them. */
export function isStopped({ id }) {
  return !submitting.has(id);
}

/** Notes that no more requests of the grid come. */
export function allSubmitted({ id }) {
  submitting.delete(id);
  shownTable(id)?.dispatchEvent(new Event(SUBMITTED));
}

/** Opens the dialog. `fields` are those of the model; `start(cells)` is called with the requests:
 * `{input, grid}`, where `grid` says where the result belongs. It calls `allSubmitted` at its end. */
export function chooseGrid(fields, input, start) {
  const all = variables(fields, input);
  const first = all.find(({ key }) => key === "seed") ?? all[0];
  const second = all.find(({ key }) => LIKELY.includes(key) && key !== first?.key);
  const words = element("p", { class: "help", role: "status" });
  const go = element("button", { type: "submit", class: "main" }, "Start");
  const axes = [];
  const changed = () => {
    try {
      const { count } = planOf(axes);
      words.textContent = count === 1 ? "1 request." : `${count} requests.`;
      words.classList.remove("bad");
      go.disabled = false;
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      words.textContent = error.message;
      words.classList.add("bad");
      go.disabled = true;
    }
  };
  axes.push(new GridAxis("Columns", all, first?.key, changed));
  axes.push(new GridAxis("Rows", all, second?.key, changed));
  const submit = (event) => {
    event.preventDefault();
    const cells = cellsOf(planOf(axes), withSeed(fields, input, axes));
    dialog.close();
    submitting.add(cells[0].grid.id);
    start(cells);
  };
  const foot = element("div", { class: "foot" }, words, go);
  const help = element("p", { class: "help" }, "One request for each combination of the values.");
  const form = element("form", { novalidate: true, submit }, help, ...axes.map(({ node }) => node), foot);
  const dialog = openNew("Grid", "narrow", form);
  changed();
}

/** Values of both axes, and the number of requests. Throws `Unreadable`. */
function planOf([columns, rows]) {
  if (columns.variable === null && rows.variable === null)
    throw new Unreadable("Choose a field for the columns or the rows.");
  if (columns.variable !== null && columns.variable === rows.variable)
    throw new Unreadable("Columns and rows need different fields.");
  const [across, down] = [columns, rows].map((axis) => axis.read());
  for (const [axis, values] of [[columns, across], [rows, down]])
    if (axis.variable !== null && values.length === 0)
      throw new Unreadable(`${axis.variable.title} needs at least one value.`);
  const count = Math.max(1, across.length) * Math.max(1, down.length);
  if (count > MOST) throw new Unreadable(`These are ${count} requests; at most ${MOST} are possible.`);
  return { columns: columns.variable, rows: rows.variable, across, down, count };
}

/** `input` with one seed for all cells, unless the seed varies: otherwise nothing can be compared. */
function withSeed(fields, input, axes) {
  const varies = axes.some(({ variable }) => variable?.key === "seed");
  const has = fields.some(({ name }) => name === "seed");
  return varies || !has || input.seed !== undefined
    ? input
    : { ...input, seed: Math.floor(Math.random() * 2 ** 31) };
}

function cellsOf({ columns, rows, across, down }, input) {
  const table = {
    id: `${Date.now()}-${freshId("grid")}`,
    columns: columns === null ? null : { title: columns.title, values: across.map(wordsOf) },
    rows: rows === null ? null : { title: rows.title, values: down.map(wordsOf) },
  };
  const each = (values) => (values.length ? values : [undefined]);
  return each(down).flatMap((downValue, row) =>
    each(across).map((acrossValue, column) => {
      const wide = columns === null ? input : columns.put(input, acrossValue);
      const whole = rows === null ? wide : rows.put(wide, downValue);
      return { input: whole, grid: { ...table, at: [row, column] } };
    }),
  );
}

/** Place of a request's card in the table of its grid, which is created if it is not there.
 * `cancel(id)` is called for each request that is not over. */
export function cellOf({ grid, input }, cancel) {
  const table = shownTable(grid.id) ?? newTable(grid, input.prompt ?? "", cancel);
  const [row, column] = grid.at;
  return table.querySelectorAll("tbody tr")[row].querySelectorAll("td")[column];
}

function shownTable(id) {
  return document.querySelector(`[data-grid="${CSS.escape(id)}"]`);
}

function newTable({ id, columns, rows }, prompt, cancel) {
  const across = columns?.values ?? [""];
  const down = rows?.values ?? [""];
  const titles = across.map((value) => element("th", { scope: "col" }, value));
  const corner = element("td", { class: "corner" });
  const head = columns === null ? [] : [element("tr", {}, rows === null ? null : corner, titles)];
  const body = down.map((value) =>
    element(
      "tr",
      {},
      rows === null ? null : element("th", { scope: "row" }, value),
      across.map(() => element("td", { class: "cell" })),
    ),
  );
  const names = [columns && `Columns: ${columns.title}`, rows && `Rows: ${rows.title}`];
  const caption = names.filter(Boolean).join(" · ");
  const standing = element("p", { class: "standing", role: "status" });
  const stop = element("button", { type: "button", class: "quiet" }, "Cancel all");
  const title = prompt || "Grid";
  const region = { class: "scrolled", tabindex: 0, role: "region", "aria-label": `Grid: ${title}` };
  const node = element(
    "article",
    { class: "grid", "data-grid": id, "aria-label": title },
    element("h3", { class: "prompt-words" }, title),
    element("p", { class: "origin" }, caption),
    element("div", { class: "foot" }, standing, stop),
    element(
      "div",
      region,
      element("table", {}, element("thead", {}, head), element("tbody", {}, body)),
    ),
  );
  node.querySelector("table").style.setProperty("--columns", across.length);
  const cards = () => [...node.querySelectorAll(".sheet")];
  const isOver = ({ dataset }) => FINAL.includes(dataset.phase);
  let isCancelled = false;
  stop.addEventListener("click", () => {
    isCancelled = submitting.delete(id);
    for (const card of cards().filter((each) => !isOver(each))) cancel(card.dataset.request);
  });
  const count = () => {
    const all = cards();
    const over = all.filter(isOver).length;
    const most = across.length * down.length;
    standing.textContent = isCancelled
      ? `${over} of ${all.length} requests have ended; ${most - all.length} more were not submitted.`
      : `${over} of ${most} requests have ended.`;
    stop.hidden = over === all.length && !submitting.has(id);
  };
  const changes = { attributes: true, attributeFilter: ["data-phase"], childList: true, subtree: true };
  node.addEventListener(SUBMITTED, count);
  new MutationObserver(count).observe(node.querySelector("tbody"), changes);
  count();
  byId("sheets").prepend(node);
  return node;
}
