// The requests of this tab and what became of them, newest first.

import { byId } from "./element.js";
import * as json from "./json.js";
import { promptOf, Sheet } from "./sheet.js";
import { Watch } from "./watch.js";

const PLACE = "darkroom.requests"; // in the tab's own storage: a reload shows them again
const MOST = 40;

/** `act` has what sheets do, and `ended(request, moment)`. */
export class Stage {
  #api;
  #act;
  #shown = []; // {request, sheet, watch}, newest first

  constructor(api, act) {
    this.#api = api;
    this.#act = act;
    setInterval(() => this.#shown.forEach(({ sheet }) => sheet.tick()), 1000);
  }

  /** Show and follow `request`: `{id, endpoint, input, name, demo, usualSize}`. */
  add(request) {
    const sheet = new Sheet(request, this.#act, (path) => this.#api.picture(path));
    const watch = new Watch(this.#api, request, (moment) => {
      sheet.show(moment);
      if (sheet.final) this.#act.ended(request, moment);
    });
    this.#shown.unshift({ request, sheet, watch });
    byId("sheets").prepend(sheet.node);
    byId("empty").hidden = true;
    this.#clearOld();
    this.#remember();
    watch.follow();
  }

  /** Cancel one that is shown here; false: it is not. `Refused` or `Unreachable` may come. */
  async cancel(id) {
    const found = this.#shown.find(({ request }) => request.id === id);
    await found?.watch.cancel();
    return found !== undefined;
  }

  /** What this tab showed before it was loaded again. */
  restore() {
    let kept = [];
    try {
      kept = json.parse(sessionStorage.getItem(PLACE) ?? "[]");
    } catch {
      // Nothing that could be read.
    }
    const here = new Set(this.#shown.map(({ request }) => request.id));
    for (const request of kept.reverse()) {
      if (!here.has(request.id)) this.add({ ...request, restored: true });
    }
  }

  clear() {
    for (const { watch } of this.#shown) watch.stop();
    this.#shown = [];
    byId("sheets").replaceChildren();
    byId("empty").hidden = false;
    this.#remember();
  }

  #clearOld() {
    const old = this.#shown.slice(MOST).filter(({ sheet }) => sheet.final);
    for (const each of old) each.sheet.node.remove();
    this.#shown = this.#shown.filter((each) => !old.includes(each));
  }

  #remember() {
    const kept = this.#shown.map(({ request }) => ({ ...request, input: light(request.input) }));
    try {
      sessionStorage.setItem(PLACE, json.write(kept));
    } catch {
      // Full or forbidden: a reload will show less.
    }
  }
}

/** The input without files, which are too large to keep. */
function light(input) {
  const kept = Object.entries(input ?? {}).filter(([, value]) => json.write(value).length < 4000);
  return { ...Object.fromEntries(kept), prompt: promptOf(input).slice(0, 4000) || undefined };
}
