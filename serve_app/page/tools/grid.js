// Grids: a request for each combination of the values of two fields, and the table of their results.

import { randomKey, Refused, Unreachable } from "../client/api.js";
import { openNew } from "../interface/dialog.js";
import { button, byId, h } from "../interface/element.js";
import { GridAxis, variables, withValue, wordsOf } from "./grid_axis.js";
import { Unreadable } from "../form/unreadable.js";

const REST =
  "Darkroom did not answer. Submit the rest when it does: what it has accepted is not made twice.";
const MOST = 64; // requests of a grid
const LIKELY = ["num_inference_steps", "guidance_scale"];
const CHANGED = "changed"; // event of a table: its submission goes on, waits, or has ended
const FINAL = ["succeeded", "failed", "cancelled", "expired", "lost"];

const submissions = new Map(); // id of a grid → its `Submission`

/** Submission of the requests of one grid, until `end()`. */
class Submission {
  #id;
  #stop = new AbortController();
  /** True if the user cancels all requests of the grid, also one that is on its way. */
  isCancelled = false;
  /** Why it waits; empty if it does not. */
  note = "";

  constructor(id) {
    this.#id = id;
    submissions.set(id, this);
    this.#tell();
  }

  /** Signal of its end by the user. */
  get signal() {
    return this.#stop.signal;
  }

  stop() {
    this.#stop.abort();
    this.#tell();
  }

  say(note) {
    this.note = note;
    this.#tell();
  }

  end() {
    submissions.delete(this.#id);
    this.#tell();
  }

  #tell() {
    shownTable(this.#id)?.dispatchEvent(new Event(CHANGED));
  }
}

/** Idempotency key of a cell: it is submitted once, however often that is tried. `cut`: its input is
 * not the one that the page had, but as the server has it, which may have defaults. */
function keyOf({ id, at }, cut) {
  return [id, ...at, ...(cut ? ["again"] : [])].join(".");
}

/** Submits the cells of a grid, which `read` returns, one after the other, and waits while there is
 * no room for them. `known` has what they share: `{endpoint, input, origin, cut}`, and the `model` if
 * it is here. `page` is that of the `Submitter`, with its functions `submit`, `modelOf`, `cell`. */
export async function submitCells(grid, known, read, page) {
  if (submissions.has(grid.id)) return;
  const submission = new Submission(grid.id);
  let [done, cells] = [0, []];
  page.complain("");
  page.cell({ ...known, grid: { ...grid, at: [0, 0] } }); // its table
  byId("empty").hidden = true;
  try {
    const model = known.model ?? (await page.modelOf(known.endpoint));
    cells = await read();
    for (const { input, grid: cell } of cells) {
      if (submission.signal.aborted) break;
      const waits = ({ message }, ms) =>
        submission.say(`${message} Trying again in ${Math.ceil(ms / 1000)} s.`);
      const key = keyOf(cell, known.cut);
      const tries = { key, patient: true, waits, signal: submission.signal };
      const id = await page.submit(model, input, { grid: cell, origin: known.origin, tries });
      submission.say("");
      done += 1;
      if (submission.isCancelled) await page.cancel({ id }); // it was on its way
    }
  } catch (error) {
    const words = error instanceof Unreachable ? REST : error.message;
    const count = cells.length ? `${done} of ${cells.length} requests were submitted. ` : "";
    if (submission.signal.aborted) page.announce("Stopped.");
    else page.complain(count + words);
    if (error instanceof Refused && !error.passing) drop(grid);
  }
  submission.end();
}

/** Removes the table of a grid if it has no requests. */
function drop({ id }) {
  const table = shownTable(id);
  if (table?.querySelector(".sheet") === null) table.remove();
  byId("empty").hidden = byId("sheets").childElementCount > 0;
}

/** Opens the dialog. `fields` are those of the model; `start(cells)` is called with the requests:
 * `{input, grid}`, where `grid` says where the result belongs. */
export function chooseGrid(fields, input, start) {
  const all = variables(fields, input);
  const first = all.find(({ key }) => key === "seed") ?? all[0];
  const second = all.find(({ key }) => LIKELY.includes(key) && key !== first?.key);
  const words = h.p({ class: "help", role: "status" });
  const go = button("Start", null, { type: "submit", class: "main" });
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
    const cells = cellsOf(tableOf(planOf(axes)), withSeed(fields, input, axes));
    dialog.close();
    start(cells);
  };
  const foot = h.div({ class: "foot" }, words, go);
  const help = h.p({ class: "help" }, "One request for each combination of the values.");
  const form = h.form({ novalidate: true, submit }, help, ...axes.map(({ node }) => node), foot);
  const dialog = openNew("Grid", form, { kind: "narrow" });
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

function tableOf({ columns, rows, across, down }) {
  const axis = (variable, values) => {
    if (variable === null) return null;
    const { key, title } = variable;
    return { key, title, values: values.map(wordsOf), put: values };
  };
  return { id: randomKey(), columns: axis(columns, across), rows: axis(rows, down) };
}

/** Requests of all cells of a grid; `input` is that of any of them. */
export function cellsOf({ id, columns, rows }, input) {
  const each = (axis) => axis?.put ?? [undefined];
  const put = (axis, given, value) => (axis === null ? given : withValue(given, axis.key, value));
  return each(rows).flatMap((down, row) =>
    each(columns).map((across, column) => ({
      input: put(rows, put(columns, input, across), down),
      grid: { id, columns, rows, at: [row, column] },
    })),
  );
}

/** Place of a request's card in the table of its grid, which is created if it is not there. `act`
 * has `cancel(id)`, which is called for each request that is not over, and `rest(request, isThere)`,
 * which submits the cells that are missing: `isThere(at)` is false for them. */
export function cellOf(request, act) {
  const table = shownTable(request.grid.id) ?? newTable(request, act);
  return cellAt(table, request.grid.at);
}

function cellAt(table, [row, column]) {
  return table.querySelectorAll("tbody tr")[row].querySelectorAll("td.cell")[column];
}

function shownTable(id) {
  return document.querySelector(`[data-grid="${CSS.escape(id)}"]`);
}

function newTable(request, { cancel, rest }) {
  const { id, columns, rows } = request.grid;
  const across = columns?.values ?? [""];
  const down = rows?.values ?? [""];
  const titles = across.map((value) => h.th({ scope: "col" }, value));
  const corner = h.td({ class: "corner" });
  const head = columns === null ? [] : [h.tr(rows === null ? null : corner, titles)];
  const body = down.map((value) =>
    h.tr(
      rows !== null && h.th({ scope: "row" }, value),
      across.map(() => h.td({ class: "cell" })),
    ),
  );
  const names = [columns && `Columns: ${columns.title}`, rows && `Rows: ${rows.title}`];
  const caption = names.filter(Boolean).join(" · ");
  const standing = h.p({ class: "standing", role: "status" });
  const cards = () => [...node.querySelectorAll(".sheet")];
  const isOver = ({ dataset }) => FINAL.includes(dataset.phase);
  const isThere = (at) => cellAt(node, at).querySelector(".sheet") !== null;
  const more = button("Submit the rest", () => rest(request, isThere));
  const stop = button("Stop waiting", () => submissions.get(id)?.stop());
  const end = button("Cancel all", () => {
    const submission = submissions.get(id);
    if (submission) submission.isCancelled = true;
    submission?.stop();
    for (const card of cards().filter((each) => !isOver(each))) cancel(card.dataset.request);
  });
  const title = request.input.prompt || "Grid";
  const region = { class: "scrolled", tabindex: 0, role: "region", "aria-label": `Grid: ${title}` };
  const node = h.article(
    { class: "grid", "data-grid": id, "aria-label": title },
    h.h3({ class: "prompt-words" }, title),
    h.p({ class: "origin" }, caption),
    h.div({ class: "foot" }, standing, more, stop, end),
    h.div(region, h.table(h.thead(head), h.tbody(body))),
  );
  node.querySelector("table").style.setProperty("--columns", across.length);
  const most = across.length * down.length;
  const count = () => {
    const all = cards();
    const over = all.filter(isOver).length;
    const submission = submissions.get(id);
    const missing = submission === undefined ? most - all.length : 0;
    const ended = (of) => `${over} of ${of} requests have ended`;
    standing.textContent =
      missing > 0
        ? `${ended(all.length)}; ${missing} more were not submitted.`
        : `${ended(most)}. ${submission?.note ?? ""}`.trim();
    end.hidden = over === all.length && submission === undefined;
    stop.hidden = !submission?.note || submission.signal.aborted;
    more.hidden = missing === 0 || !(columns ?? rows).put; // a tab of an older page has no values
  };
  const changes = { attributes: true, attributeFilter: ["data-phase"], childList: true, subtree: true };
  node.addEventListener(CHANGED, count);
  new MutationObserver(count).observe(node.querySelector("tbody"), changes);
  count();
  byId("sheets").prepend(node);
  return node;
}
