// List of the key's latest requests, from this page and from other clients.

import { effect } from "../vendored/signals.js";
import { button, byId, h } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";
import { roving } from "../interface/roving.js";
import { day, isActive, seconds, shortClock, STATES } from "../interface/words.js";

const PAGE = 15;
const EVERY_MS = 4000;
const DAY_MS = 10_000; // between two looks at the date: “Today” ends at midnight

/** List of requests. `page` has `api` and `store`, and in `act` the callbacks `details` and `cancel`, which
 * get `{id, endpoint}`. */
export class Recent {
  #page;
  #refresh;
  #limit = PAGE;
  #requests = null; // newest first; null before they are listed
  #more = false; // there are older ones
  #drawn = "";
  #version = 0; // changes with the key: an answer to the one before is not shown

  constructor(page) {
    const { changes, locked } = page.store;
    this.#page = page;
    const take = (changed) => this.#take(changed);
    this.#refresh = new Refresh(() => this.#look(), null, changes, { take });
    setInterval(() => this.show(), DAY_MS);
    effect(() => (locked.value ? this.#refresh.stop() : null));
    byId("older").addEventListener("click", () => {
      this.#limit = Math.min(500, this.#limit + PAGE);
      this.#refresh.now();
    });
  }

  /** Shows the list, and keeps it up to date until `clear()`, or until the form for the key is open. */
  follow() {
    this.#refresh.stop();
    this.#refresh.start();
  }

  async #look() {
    const version = this.#version;
    try {
      const page = await this.#page.api.call("GET", `v1/requests?limit=${this.#limit}`);
      if (version !== this.#version) return null;
      this.#requests = page.requests;
      this.#more = page.next_before !== null;
      this.show();
    } catch {
      return EVERY_MS; // the connection status reports the error; the list stays as it is
    }
    return this.#page.store.changes.live.peek() ? null : EVERY_MS; // it is told of changes
  }

  /** Applies changes of requests; false if the list is to be read anew. */
  #take(changed) {
    const requests = this.#requests && changed.of(this.#requests);
    if (requests === null || (this.#more && requests.length < this.#limit)) return false;
    this.#more ||= requests.length > this.#limit;
    this.#requests = requests.slice(0, this.#limit);
    this.show();
    return true;
  }

  /** Ends the refreshes and forgets what they showed, as when another key is used. */
  clear() {
    this.#refresh.stop();
    this.#version += 1;
    this.#limit = PAGE;
    this.#requests = null;
    this.#more = false;
    this.show();
  }

  /** Draws the list, if it has changed. */
  show() {
    const requests = this.#requests ?? [];
    byId("older").hidden = !this.#more || this.#limit >= 500;
    byId("no-requests").hidden = this.#requests?.length !== 0;
    const pictures = requests.map(({ request_id: id }) => shownIn(id));
    const now = JSON.stringify([requests, pictures, new Date().toDateString()]);
    if (now === this.#drawn) return; // without changes, the focus stays where it is
    this.#drawn = now;
    const focused = document.activeElement?.closest("#requests li button");
    byId("requests").replaceChildren(...this.#rows(requests));
    if (focused) this.#focusAgain(focused);
    roving(byId("requests"), ".request");
  }

  /** Gives the focus to what is in the place of the button `before`; to its row, if that has none. */
  #focusAgain(before) {
    const { request: id } = before.closest("li").dataset;
    const row = byId("requests").querySelector(`[data-request="${CSS.escape(id)}"]`);
    const cancel = before.matches(".request") ? null : row?.querySelector("button:not(.request)");
    (cancel ?? row?.querySelector(".request"))?.focus();
  }

  /** Rows of the requests, under the names of their days. */
  #rows(requests) {
    let last = null;
    return requests.flatMap((each) => {
      const name = day(each.created_at);
      const isNew = name !== last;
      last = name;
      const row = this.#row(each);
      return isNew ? [h.li({ class: "day" }, h.h3(name)), row] : [row];
    });
  }

  #row(request) {
    const { request_id: id, endpoint_id: endpoint, state } = request;
    const known = { id, endpoint };
    const words = request.prompt || endpoint;
    const time = request.state === "succeeded" && request.run_s > 0 ? seconds(request.run_s) : "";
    const drafts = request.drafts ? "Drafts" : "";
    const facts = [drafts, STATES[state] ?? state, time, shortClock(request.created_at)];
    const parts = [
      h.span({ class: "thumb", "aria-hidden": "true" }, picture(request)),
      h.span({ class: "words" }, words),
      h.span({ class: "facts" }, facts.filter(Boolean).join(" · ")),
    ];
    const shown = button(parts, () => this.#page.act.details(known), { class: "request" });
    const cancel = isActive(request)
      ? button("Cancel", () => this.#page.act.cancel(known), { "aria-label": `Cancel ${words}` })
      : null;
    return h.li({ "data-request": id, "data-state": state }, shown, cancel);
  }
}

/** Small image of the first file; a dot for the state if there is none. */
function picture({ request_id: id, state, files = [] }) {
  const [file] = files;
  const image = /^image\//.test(file?.content_type ?? "") ? file : null;
  const source = shownIn(id) ?? (file?.thumbnail ?? image)?.url;
  if (!source) return h.span({ class: `dot ${state}` });
  return h.img({ src: source, alt: "", loading: "lazy", decoding: "async" });
}

/** URL of the image on the card of a request, which the browser has loaded; empty as long as the card
 * shows no result. Undefined without a card, and if it shows no image. */
function shownIn(id) {
  const card = byId("sheets").querySelector(`[data-request="${CSS.escape(id)}"]`);
  if (card === null) return undefined;
  if (card.dataset.phase !== "succeeded") return "";
  return card.querySelector(".made .paper > img")?.getAttribute("src");
}
