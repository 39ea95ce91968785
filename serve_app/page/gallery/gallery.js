// Gallery: the tenant's results by day, with search, filters, a selection and large views.

import { button, byId, h } from "../interface/element.js";
import { say } from "../interface/toast.js";
import { Actions, requestsOf } from "./actions.js";
import { Archive } from "./archive.js";
import { Bar } from "./bar.js";
import { Collection } from "./collection.js";
import { Comparison, MOST_COMPARED } from "./large/compare.js";
import { Days } from "./days.js";
import { Facts } from "./large/facts.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { Lightbox } from "./large/lightbox.js";
import { filtersIn, isFiltered, NONE } from "./query.js";
import { counted } from "./question.js";
import { Selection } from "./selection.js";
import { share } from "./share.js";
import { Sizes } from "./sizes.js";

const MOST_TO_LOAD = 3000; // requests that a jump loads; a longer one changes the filter

/** Fills `host` with the gallery. */
export function open(host, page) {
  return new Gallery(host, page);
}

class Gallery {
  #page;
  #collection;
  #selection = new Selection();
  #grid;
  #filters;
  #bar;
  #days;
  #actions;
  #lightbox;
  #comparison;
  #facts;
  #closed = null; // key of the item that was shown large
  #shown = null; // filters, as text
  #scroll = 0; // where the window was when the view was left
  #here = false;
  #skeleton = h.div({ class: "skeleton", "aria-hidden": "true" });
  #status = h.p({ class: "end help", role: "status" });
  #empty = h.div({ class: "nothing", hidden: true });
  #keys = (event) => this.#key(event);

  constructor(host, page) {
    this.#page = page;
    this.#collection = new Collection(page.api, page.store.changes);
    const parts = { page, api: page.api, collection: this.#collection, say };
    this.#actions = new Actions(parts);
    this.#days = new Days({ ...parts, go: (date, newer) => this.#jump(date, newer) });
    const sizes = new Sizes((height) => this.#grid.resize(height));
    this.#filters = new Filters((filters, typing) => this.#use(filters, typing), sizes.node);
    const act = {
      open: (item) => this.#open(item),
      favourite: (item) => this.#actions.favourite(this.#meant(item)),
      remove: (item) => this.#remove(this.#meant(item)),
      moved: (date) => this.#days.mark(date),
    };
    this.#collection.addEventListener("change", () => this.#changed()); // before the grid looks
    this.#grid = new Grid(this.#collection, this.#selection, act, sizes.height);
    const archive = new Archive(page.api, say);
    this.#bar = new Bar(this.#selection, () => this.#chosen(), {
      compare: (items) => this.#compare(items),
      favourite: (items) => this.#actions.favourite(items),
      zip: (items) => archive.download(requestsOf(items)),
      remove: (items) => this.#remove(items),
    });
    this.#facts = new Facts(page.api);
    const large = { facts: this.#facts, renewed: (item) => this.#renewed(item) };
    const leave = () => page.address.leave("compare");
    this.#comparison = new Comparison({ ...large, closed: leave });
    this.#lightbox = new Lightbox({
      ...parts,
      ...large,
      actions: this.#actions,
      share: ({ id }) => share(page.api, id),
      remove: (items) => this.#remove(items),
      closed: (key) => this.#returnTo(key),
    });
    this.#skeleton.append(...Array.from({ length: 12 }, () => h.span()));
    const results = h.div(
      { class: "results" },
      this.#skeleton,
      this.#empty,
      this.#grid.node,
      this.#status,
    );
    host.append(
      h.h2({ class: "unseen" }, "Gallery"),
      this.#filters.node,
      h.div({ class: "columns" }, this.#days.node, results),
      archive.node,
      this.#bar.node,
    );
    page.models.list().then(
      (models) => this.#filters.offer(models),
      () => {},
    );
  }

  /** Shows what the address names. */
  follow(address) {
    const filters = filtersIn(address);
    const fresh = JSON.stringify(filters);
    this.#enter();
    this.#filters.show(filters);
    if (fresh !== this.#shown) {
      this.#shown = fresh;
      this.#selection.clear();
      scrollTo({ top: 0, behavior: "instant" });
      this.#collection.start(filters);
      this.#days.load(filters);
      this.#show();
    }
    this.#lightbox.follow(address.item ?? null);
    this.#showCompared(address.compare ?? "");
    if (this.#closed !== null) this.#returnTo(this.#closed);
  }

  /** Focuses the item that was shown large: now, and when the browser has gone back. */
  #returnTo(key) {
    if (!this.#here) return;
    this.#closed = this.#closed === null && history.state?.opened === true ? key : null;
    this.#grid.focus(key);
  }

  #enter() {
    if (this.#here) return;
    this.#here = true;
    addEventListener("keydown", this.#keys);
    history.scrollRestoration = "manual"; // the window stays where the grid is
    this.#grid.start();
    scrollTo({ top: this.#scroll, behavior: "instant" });
    if (this.#shown !== null) this.#collection.follow();
  }

  leave() {
    this.#here = false;
    this.#scroll = scrollY;
    history.scrollRestoration = "auto";
    this.#lightbox.follow(null);
    this.#comparison.show([]);
    removeEventListener("keydown", this.#keys);
    this.#collection.stop();
    this.#grid.stop();
  }

  /** Puts other filters into the address. */
  #use(filters, typing) {
    const { address } = this.#page;
    if (typing)
      address.correct(filters); // not an entry of the history for each letter
    else address.go(filters);
    this.follow(address.now);
  }

  #changed() {
    this.#days.draw();
    this.#selection.keep(this.#collection.items);
    this.#bar.show();
    this.#show();
  }

  /** Shows whether there is anything, and whether there may be more. */
  #show() {
    const { items, loading, more, problem } = this.#collection;
    const none = items.length === 0;
    this.#skeleton.hidden = !(none && loading);
    this.#empty.hidden = !none || loading || problem !== "";
    if (!this.#empty.hidden) this.#showNothing();
    // It has its place before it is loaded: results that move are not where one presses.
    this.#days.node.hidden = none && !loading;
    if (problem !== "") {
      const again = () => {
        this.#collection.load();
        this.#show();
      };
      this.#status.replaceChildren(problem, " ", button("Try again", again));
    } else if (more || loading) this.#status.textContent = "Loading …";
    else this.#status.textContent = none ? "" : this.#counts();
  }

  /** Numbers of requests, as the days have them, and of those that made drafts. */
  #counts() {
    const { requests } = this.#collection;
    const drafts = requests.filter((each) => each.drafts).length;
    const ofDrafts = drafts === 0 ? "" : `, ${drafts} with drafts`;
    return `${counted(requests.length, "request")}${ofDrafts}.`;
  }

  #showNothing() {
    const filtered = isFiltered(filtersIn(this.#page.address.now));
    const all = () => this.#use(NONE, false);
    const create = h.a({ href: "#", class: "button main" }, "Create something");
    const words = filtered
      ? [
          h.p({ class: "lead" }, "Nothing matches."),
          h.p("Try other words, or fewer filters."),
          button("Show everything", all),
        ]
      : [
          h.p({ class: "lead" }, "Your results appear here."),
          h.p("Images, videos and audio, from this page and from your programs."),
          create,
        ];
    this.#empty.replaceChildren(...words);
  }

  #chosen() {
    return this.#selection.keys
      .map((key) => this.#collection.items[this.#collection.placeOf(key)])
      .filter((item) => item !== undefined);
  }

  /** The selected items, if `item` is one of them; otherwise it alone. */
  #meant(item) {
    return this.#selection.has(item.key) ? this.#chosen() : [item];
  }

  async #remove(items) {
    const first = Math.min(...items.map(({ key }) => this.#collection.placeOf(key)));
    const gone = await this.#actions.remove(items);
    if (gone.size === 0) return gone;
    const next = this.#collection.items[Math.min(first, this.#collection.items.length - 1)];
    if (next !== undefined && this.#here) this.#grid.focus(next.key);
    return gone;
  }

  /** Shows an item large; of a request without a file, its details. */
  #open({ id, key, file }) {
    if (file === null) return this.#page.act.details({ id });
    this.#page.address.go({ item: key });
    this.#lightbox.follow(key);
  }

  /** Puts the keys of items into the address, and compares them. */
  #compare(items) {
    const compare = items.map(({ key }) => key).join(",");
    this.#page.address.go({ compare });
    this.#showCompared(compare);
  }

  /** Compares the items with these keys, which need not be loaded. */
  async #showCompared(keys) {
    const found = keys.split(",", MOST_COMPARED).map((key) => this.#find(key));
    const items = await Promise.all(found);
    if ((this.#page.address.now.compare ?? "") !== keys) return; // the user has gone on
    this.#comparison.show(items.filter((each) => each?.file));
  }

  async #find(key) {
    const place = this.#collection.placeOf(key);
    if (place >= 0 || key === "") return this.#collection.items[place];
    return this.#facts.itemOf(key);
  }

  /** The item, read again: the URLs of private files end after a time. */
  async #renewed({ key, id }) {
    if (this.#collection.placeOf(key) >= 0) await this.#collection.renew(key);
    else this.#facts.forget(id);
    return this.#find(key);
  }

  /** Goes to a day: loads what is between, if that is not much. The list of days knows few of the
   * filters, so there may be nothing. */
  async #jump(date, newer) {
    const collection = this.#collection;
    if (this.#grid.goTo(date)) return;
    if (newer - collection.requests.length >= MOST_TO_LOAD) {
      this.#use({ ...filtersIn(this.#page.address.now), until: date }, false);
      say("Newer results are hidden. Clear the date after “To” to see them.");
      return;
    }
    const asked = this.#shown;
    const isPast = () => collection.items.length > 0 && collection.items.at(-1).date < date;
    while (collection.more && !isPast()) {
      if (collection.problem !== "") return;
      await collection.load();
      if (this.#shown !== asked || this.#grid.goTo(date)) return;
    }
    say("Nothing of this day matches. Try other words, or fewer filters.");
  }

  #key(event) {
    if (document.querySelector("dialog[open]") || !byId("views").checkVisibility()) return;
    const { key, target } = event;
    if (target.matches("input:not([type=checkbox]), textarea, select")) return;
    if (key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      this.#filters.focus();
      return;
    }
    if (event.defaultPrevented) return;
    const command = event.ctrlKey || event.metaKey;
    const actions = {
      Escape: () => this.#selection.clear(),
      f: () => this.#actions.favourite(this.#chosen()),
      Delete: () => this.#remove(this.#chosen()),
    };
    if (command && key === "a") {
      event.preventDefault();
      this.#selection.all(this.#collection.items);
    } else if (!command && this.#selection.size > 0) actions[key]?.();
  }
}
