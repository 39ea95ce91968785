// Light table: the previews of a request's drafts, and what is done with each.

import { Refused } from "../client/api.js";
import { button, byId, h } from "../interface/element.js";
import { day, shortClock } from "../interface/words.js";
import { filesIn, playInSight, silentVideo } from "../results/media.js";
import { shortSeed } from "../results/seed.js";

const COLUMNS = { 1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 9: 3 }; // 4 for other numbers
const LONGEST_MS = 2 ** 31 - 1; // of a timer
const OPEN_PHASES = ["sending", "queued", "running"];

/** Previews of the drafts in the output of `request`. `act` has `finish(request, draft, origin)`,
 * which throws `Refused` or `Unreachable`, `fork(request, draft, origin)` and `vary(request)`. */
export class LightTable {
  #page; // {request, api, act}
  #cells; // of the drafts, in their order
  #list;
  #facts = h.p({ class: "origin", role: "status" });
  #finish;
  #all;

  constructor({ output, ...page }) {
    const { request, act } = page;
    this.#page = page;
    const files = filesIn(output);
    const acts = {
      selected: () => this.#update(),
      finish: (cell) => this.#finishOne(cell),
      fork: (cell) => this.#fork(cell),
      drop: (cell) => this.#drop(cell),
    };
    this.#cells = output.drafts.map((draft, at) => new Cell(draft, at + 1, files[at], acts));
    const count = this.#cells.length;
    this.#list = h.ul(
      {
        role: "list",
        "aria-label": count === 1 ? "1 draft" : `${count} drafts`,
        focusin: ({ target }) => this.#reach(this.#cellOf(target)),
        keydown: (event) => this.#press(event),
      },
      this.#cells.map(({ node }) => node),
    );
    this.#finish = button("Finish selected", () => this.#finishSelected(), { class: "main" });
    this.#all = button("Select all", () => this.#selectAll());
    const more = button("More drafts", () => act.vary(request));
    this.node = h.div(
      { class: "light-table" },
      this.#facts,
      this.#list,
      h.div({ class: "buttons" }, this.#finish, count > 1 ? this.#all : null, more),
    );
    this.node.style.setProperty("--columns", COLUMNS[count] ?? 4);
    this.#reach(this.#cells[0]);
    this.#update();
    this.#watchExpiry(output.drafts[0].expires_at);
    this.#watchResults();
    if (request.restored) this.#lookUp();
  }

  #originOf({ draft, number, picture }) {
    return {
      request: this.#page.request.id,
      id: draft.id,
      number,
      count: this.#cells.length,
      picture,
    };
  }

  async #finishOne(cell) {
    if (cell.gone || cell.busy) return;
    await cell.work(() =>
      this.#page.act.finish(this.#page.request, cell.draft, this.#originOf(cell)),
    );
  }

  async #finishSelected() {
    for (const cell of this.#cells.filter(({ selected }) => selected)) {
      cell.select(false);
      await this.#finishOne(cell);
    }
  }

  #fork(cell) {
    if (cell.gone) return;
    cell.work(() => this.#page.act.fork(this.#page.request, cell.draft, this.#originOf(cell)));
  }

  async #drop(cell) {
    if (cell.gone || cell.busy) return;
    await cell.work(async () => {
      try {
        await this.#page.api.call("DELETE", `v1/drafts/${encodeURIComponent(cell.draft.id)}`);
      } catch (error) {
        if (!(error instanceof Refused && error.status === 404)) throw error;
      }
      cell.lose("Dropped");
    });
    this.#update();
  }

  #selectAll() {
    const left = this.#cells.filter(({ gone }) => !gone);
    const every = left.every(({ selected }) => selected);
    for (const cell of left) cell.select(!every);
  }

  #update() {
    const left = this.#cells.filter(({ gone }) => !gone);
    const selected = left.filter((cell) => cell.selected).length;
    this.#finish.textContent = selected ? `Finish selected (${selected})` : "Finish selected";
    this.#finish.disabled = selected === 0;
    this.#all.disabled = left.length === 0;
    this.#all.textContent =
      left.length > 0 && selected === left.length ? "Select none" : "Select all";
    const { step, steps, expires_at: end } = this.#cells[0].draft;
    const place = steps > 0 ? `${step} of ${steps} steps` : `${step} steps`;
    const count = left.length === 1 ? "1 draft" : `${left.length} drafts`;
    const kept = `${count} · ${place} · ${keptUntil(end)}`;
    this.#facts.textContent = left.length ? kept : "None of these drafts is kept any more.";
  }

  #watchExpiry(end) {
    const left = Date.parse(end) - Date.now();
    if (Number.isNaN(left)) return;
    if (left > 0) {
      setTimeout(() => this.#watchExpiry(end), Math.min(left, LONGEST_MS));
      return;
    }
    for (const cell of this.#cells) cell.lose("Expired");
    this.#update();
  }

  /** Asks which drafts are there still, after a reload. */
  async #lookUp() {
    try {
      const own = `v1/drafts?request_id=${encodeURIComponent(this.#page.request.id)}`;
      const { drafts } = await this.#page.api.call("GET", own);
      const known = new Set(drafts.map(({ id }) => id));
      for (const cell of this.#cells) if (!known.has(cell.draft.id)) cell.lose("Dropped");
      this.#update();
    } catch {
      // The connection status reports it. A draft that is gone is refused when it is used.
    }
  }

  /** Says at each draft what has become of the requests that go on from it. */
  #watchResults() {
    const look = () => this.#cells.forEach((cell) => cell.showResults());
    const watcher = new MutationObserver(() => {
      if (byId("sheets").contains(this.node)) look();
    });
    const phases = { attributes: true, attributeFilter: ["data-phase"] };
    watcher.observe(byId("sheets"), { ...phases, childList: true, subtree: true });
    look();
  }

  #cellOf(node) {
    return this.#cells.find((cell) => cell.node.contains(node));
  }

  /** Makes the controls of one draft tab stops, so that the table has few. */
  #reach(reached) {
    for (const cell of this.#cells) cell.reach(cell === reached);
  }

  #press(event) {
    const cell = this.#cellOf(event.target);
    const { key, target } = event;
    if (target !== cell?.preview || event.ctrlKey || event.metaKey || event.altKey) return;
    const across = getComputedStyle(this.#list).gridTemplateColumns.split(" ").length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[key];
    const at = this.#cells.indexOf(cell);
    const act = {
      Enter: () => this.#finishOne(cell),
      f: () => this.#fork(cell),
      F: () => this.#fork(cell),
      Delete: () => this.#drop(cell),
      Home: () => this.#cells[0].preview.focus(),
      End: () => this.#cells.at(-1).preview.focus(),
    }[key];
    if (step === undefined && act === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (act) act();
    else this.#cells[at + step]?.preview.focus();
  }
}

/** One draft: its preview, which is a button that selects it, and its actions. */
class Cell {
  #standing = h.p({ class: "standing", role: "status" });
  #results = h.p({ class: "results" });
  #actions;
  #act;
  #kind;

  constructor(draft, number, file, act) {
    this.draft = draft;
    this.number = number;
    this.#kind = file?.kind;
    this.gone = false;
    this.busy = false;
    this.#act = act;
    const { seed, step, steps } = draft;
    this.name = `Draft ${number}, seed ${seed}, ${steps > 0 ? `${step} of ${steps}` : step} steps`;
    this.preview = button(
      [still(file, this.name), h.span({ class: "number" }, String(number))],
      () => this.gone || this.select(!this.selected),
      {
        class: "preview",
        "data-draft": draft.id,
        "aria-pressed": "false",
        "aria-label": this.name,
        "aria-keyshortcuts": "Enter F Delete",
      },
    );
    this.#actions = h.div(
      { class: "actions" },
      this.#action("Finish", "Enter", () => act.finish(this)),
      this.#action("Change", "F", () => act.fork(this)),
      this.#action("Drop", "Delete", () => act.drop(this)),
    );
    const sound = file?.kind === "audio" ? player(file, this.name) : null;
    this.node = h.li(
      this.preview,
      file ? opener(file, number) : null,
      sound,
      h.p({ class: "facts" }, "Seed ", shortSeed(seed)),
      this.#actions,
      this.#standing,
      this.#results,
    );
  }

  /** URL of the preview; null if there is none. The one of a private file is renewed where it is shown. */
  get picture() {
    const shown = this.preview.querySelector("img, video");
    if (this.#kind === "image") return shown.src;
    return (this.#kind === "video" && shown.poster) || null;
  }

  get selected() {
    return this.preview.getAttribute("aria-pressed") === "true";
  }

  select(on) {
    this.preview.setAttribute("aria-pressed", String(on));
    this.#act.selected();
  }

  reach(on) {
    for (const each of this.node.querySelectorAll("button, a")) each.tabIndex = on ? 0 : -1;
  }

  /** Runs `what`, and tells its error here. */
  async work(what) {
    this.busy = true;
    this.node.setAttribute("aria-busy", "true");
    this.#say("");
    try {
      await what();
    } catch (error) {
      this.#say(error.problems?.[0]?.msg ?? error.message, { bad: true });
    } finally {
      this.busy = false;
      this.node.removeAttribute("aria-busy");
    }
  }

  /** Shows that the draft cannot be used any more, with the reason. */
  lose(why) {
    if (this.gone) return;
    const focused = this.#actions.contains(document.activeElement);
    this.gone = true;
    this.preview.setAttribute("aria-pressed", "false");
    this.preview.setAttribute("aria-disabled", "true");
    this.preview.setAttribute("aria-label", `${this.name}, ${why.toLowerCase()}`);
    this.preview.removeAttribute("aria-keyshortcuts");
    this.node.classList.add("gone");
    this.#actions.hidden = true;
    this.#say(why);
    if (focused) this.preview.focus();
  }

  showResults() {
    const sheets = document.querySelectorAll(`.sheet[data-from="${CSS.escape(this.draft.id)}"]`);
    const words = resultWords([...sheets]);
    if (words === this.#results.textContent) return; // the focus stays where it is
    const label = `Draft ${this.number}: ${words}. Go to the result`;
    const go = () => {
      const first = document.querySelector(`.sheet[data-from="${CSS.escape(this.draft.id)}"]`);
      first?.scrollIntoView({ block: "center" });
      first?.querySelector("a, button")?.focus({ preventScroll: true });
    };
    const link = button(words, go, { class: "action", "aria-label": label });
    link.tabIndex = this.preview.tabIndex;
    this.#results.replaceChildren(...(words ? [link] : []));
  }

  #say(words, { bad = false } = {}) {
    this.#standing.textContent = words;
    this.#standing.classList.toggle("bad", bad);
  }

  #action(name, key, click) {
    const label = `${name} draft ${this.number}`;
    const title = `${label} (${key})`;
    return button(name, click, { class: "action", "aria-label": label, title });
  }
}

function resultWords(sheets) {
  if (sheets.length === 0) return "";
  if (sheets.some(({ dataset }) => OPEN_PHASES.includes(dataset.phase))) return "Finishing …";
  if (sheets.length > 1) return `${sheets.length} results`;
  return sheets[0].dataset.phase === "succeeded" ? "Finished" : "Not finished";
}

function still(file, name) {
  if (file?.kind === "image" || file?.waveform) {
    const { width, height } = file;
    const size = file.kind === "image" ? { width, height } : { class: "wave" };
    return h.img({ src: file.waveform ?? file.url, alt: "", ...size });
  }
  if (file?.kind !== "video") return h.span({ class: "blank" });
  const { url, poster, width, height } = file;
  const given = { src: url, poster, width, height, preload: "metadata" };
  const video = silentVideo({ ...given, tabindex: -1, "aria-label": name });
  playInSight(video);
  return video;
}

function player({ url }, name) {
  return h.audio({ src: url, controls: true, preload: "metadata", "aria-label": name });
}

function opener({ url }, number) {
  const label = `Open the preview of draft ${number}`;
  const link = { href: url, target: "_blank", rel: "noopener", class: "open", "aria-label": label };
  return h.a({ ...link, title: label }, "⤢");
}

/** Until when a draft is kept, such as "kept until 14:05 tomorrow". */
function keptUntil(iso) {
  if (!iso) return "kept with its request";
  const name = day(iso);
  const when = { Today: "", Tomorrow: " tomorrow" }[name] ?? ` on ${name}`;
  return `kept until ${shortClock(iso)}${when}`;
}
