// Requests of this browser tab and their results, newest first.

import { byId } from "../interface/element.js";
import * as json from "../client/json.js";
import { keep, read, TAB } from "../client/storage.js";
import { moves } from "./media.js";
import { promptOf, Sheet } from "./sheet.js";
import { requestPath, resultOf, Watch } from "../client/watch.js";

const PLACE = "darkroom.requests"; // key in the session storage: a reload shows them again
const MOST = 40; // cards, of which those of a grid count as one eighth
const IN_GRID = 1 / 8;

/** List of cards. `page` has `api` and `store`, and in `act` the callbacks of the cards,
 * `ended(request, moment)`, and those for grids: `prepareGrids()` loads what `cell(request)` needs, which is
 * the place of a card or null. */
export class Stage {
  #page;
  #shown = []; // {request, sheet, watch}, newest first

  constructor(page) {
    this.#page = page;
    setInterval(() => this.#shown.forEach(({ sheet }) => sheet.tick()), 1000);
  }

  /** Shows and follows `request`: `{id, endpoint, input, name, demo, makes, aspect, at, cut}`. `at` is
   * the time of its submission, in milliseconds; `cut` says that `input` is a part of the whole.
   * With `grid` its card is a cell of that table. */
  add(request) {
    const { api, act, store } = this.#page;
    const path = requestPath(request.endpoint, request.id);
    const read = async () => (await resultOf(api, path)).output;
    const sheet = new Sheet(request, act, read, store.contact);
    const watch = new Watch(this.#page, request, (moment) => {
      sheet.show(moment);
      this.#moved();
      if (!sheet.final) return;
      this.#remember(); // with its seed
      act.ended(request, moment);
    });
    this.#shown.unshift({ request, sheet, watch });
    const cell = request.grid ? act.cell(request) : null;
    if (cell) cell.replaceChildren(sheet.node);
    else byId("sheets").prepend(sheet.node);
    byId("empty").hidden = true;
    this.#clearOld();
    this.#remember();
    this.#moved();
    watch.follow();
  }

  /** Goes to the card of an earlier request, which is made if it is not there. */
  bring(request) {
    const found = this.#shown.find((each) => each.request.id === request.id);
    if (found) return found.sheet.node.scrollIntoView({ block: "center" });
    this.add({ ...request, restored: true });
    this.reveal();
  }

  /** Scrolls to the card of a new request, unless it is in sight. */
  reveal() {
    const { top, bottom } = byId("sheets").firstElementChild.getBoundingClientRect();
    if (top >= 0 && Math.min(bottom, top + 240) <= innerHeight) return;
    byId("stage").scrollIntoView({ behavior: moves() ? "smooth" : "auto" });
  }

  get empty() {
    return this.#shown.length === 0;
  }

  /** Cancels a request; returns false if it is not shown here. Throws `Refused` or `Unreachable`. */
  async cancel(id) {
    const found = this.#shown.find(({ request }) => request.id === id);
    await found?.watch.cancel();
    return found !== undefined;
  }

  /** Shows the requests that this tab showed before it was reloaded. */
  async restore() {
    const kept = read(PLACE, TAB) ?? [];
    if (kept.some(({ grid }) => grid)) await this.#page.act.prepareGrids();
    const here = new Set(this.#shown.map(({ request }) => request.id));
    for (const request of kept.reverse()) {
      if (!here.has(request.id)) this.add({ ...request, restored: true });
    }
  }

  clear() {
    for (const { sheet, watch } of this.#shown) {
      watch.stop();
      sheet.release();
    }
    this.#shown = [];
    byId("sheets").replaceChildren();
    byId("empty").hidden = false;
    this.#moved();
    this.#remember();
  }

  #moved() {
    const open = this.#shown.filter(({ sheet, request }) => !sheet.final && !request.restored);
    this.#page.store.parts.value = open.map(({ sheet }) => sheet.part);
  }

  #clearOld() {
    let room = MOST;
    const old = this.#shown.filter(({ request, sheet }) => {
      room -= request.grid ? IN_GRID : 1;
      return room < 0 && sheet.final;
    });
    const kept = new Set(this.#shown.filter((each) => !old.includes(each)).map(gridOf));
    // A grid goes as a whole: what is missing in it was not submitted.
    const gone = old.filter((each) => !each.request.grid || !kept.has(gridOf(each)));
    for (const { sheet } of gone) {
      const grid = sheet.node.closest(".grid");
      sheet.node.remove();
      sheet.release();
      if (grid?.querySelector(".sheet") === null) grid.remove();
    }
    this.#shown = this.#shown.filter((each) => !gone.includes(each));
  }

  #remember() {
    const kept = this.#shown.map(({ request }) => ({ ...request, ...light(request) }));
    keep(PLACE, kept, TAB);
  }
}

function gridOf({ request }) {
  return request.grid?.id;
}

/** Input without large values, such as files, which are too large to store. `cut`: it had some. */
function light({ input, cut = false }) {
  const all = Object.entries(input ?? {});
  const kept = all.filter(([, value]) => json.write(value).length < 4000);
  if (!cut && kept.length === all.length) return { input, cut };
  const prompt = promptOf(input).slice(0, 4000) || undefined;
  return { input: { ...Object.fromEntries(kept), prompt }, cut: true };
}
