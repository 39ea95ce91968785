// Results that the gallery has loaded: pages of requests, newest first, that are kept up to date.

import { Refresh, SOON_MS } from "../interface/refresh.js";
import { dateOf, isActive } from "../interface/words.js";
import { filesIn, RENEWED_MS } from "../results/media.js";
import { isFiltered, pathOf, STATES_OF } from "./query.js";

const FIRST_PAGE = 100;
const PAGE = 250;
const MOST_REFRESHED = 500;
const EVERY_MS = 5000;

/**
 * List of results that fit the filters. Dispatches `change` after each change; a refresh that finds
 * nothing new is none.
 *
 * `items` has one item for each of `resultsOf` a request, or one for a request without files: `{key, id,
 * request, file, index, of, date}`. `file` is null, or as `filesIn` describes it, with its
 * `thumbnail`.
 */
export class Collection extends EventTarget {
  items = [];
  /** Message, if the last page could not be loaded; empty if it could. */
  problem = "";
  #api;
  #filters = null;
  requests = [];
  #next = null;
  #loading = null; // promise of the page that is being loaded
  #version = 0; // changes when other filters are used
  #changing = 0; // changes of requests that are on their way
  #changes = 0; // counts their beginnings and ends
  #refresh;
  #places = new Map(); // key → place in `items`
  #made = new WeakMap(); // request → its items
  #stale = new Set(); // ids of requests of which a file could not be shown
  #renewed = new Map(); // id → when it was asked for
  #renewing = null; // promise of the end of what is stale

  /** `changes` are those of requests. */
  constructor(api, changes) {
    super();
    this.#api = api;
    const take = (changed) => this.#apply(changed);
    this.#refresh = new Refresh(() => this.#renewHead(this.#version), EVERY_MS, changes, { take });
  }

  /** False: `items` has all results. */
  get more() {
    return this.#next !== null;
  }

  get loading() {
    return this.#loading !== null;
  }

  /** Place of an item; -1 if it is not loaded. */
  placeOf(key) {
    return this.#places.get(key) ?? -1;
  }

  /** Loads the first page of what fits the filters. */
  async start(filters) {
    this.stop();
    this.#refresh.start({ later: true });
    this.#version += 1;
    this.#filters = filters;
    this.#loading = null;
    this.#next = null;
    this.#take([]);
    await this.load();
  }

  /** Loads the next page; the first one, if there is none. */
  load() {
    this.#loading ??= this.#load(this.#version);
    return this.#loading;
  }

  async #load(version) {
    const before = this.#next;
    try {
      const path = pathOf(this.#filters, before === null ? FIRST_PAGE : PAGE, { before });
      const page = await this.#api.call("GET", path);
      if (version !== this.#version) return;
      const here = new Set(this.requests.map(({ request_id: id }) => id));
      const fresh = page.requests.filter(({ request_id: id }) => !here.has(id));
      this.#next = page.next_before;
      this.problem = "";
      this.#loading = null;
      this.#take([...this.requests, ...fresh], true);
      // A page of a search may be empty before the end.
      if (fresh.length === 0 && this.more) await this.load();
    } catch (error) {
      if (version !== this.#version) return;
      this.#loading = null;
      this.problem = error.message;
      this.dispatchEvent(new Event("change"));
    }
  }

  /** Refreshes the newest requests now, and from then on when they change. */
  follow() {
    this.stop();
    this.#refresh.start();
  }

  stop() {
    this.#refresh.stop();
  }

  /** Applies changes of requests; false if they are to be loaded: only the server can search. */
  #apply(changed) {
    const isBusy = this.#filters === null || this.loading || this.#changing > 0;
    if (isBusy || isFiltered(this.#filters)) return false;
    const last = (this.more && this.requests.at(-1)?.request_id) || "";
    const requests = changed.of(this.requests);
    if (requests === null) return false;
    const fits = ({ request_id: id, state }) => STATES_OF.results.includes(state) && id >= last;
    this.#take(requests.filter(fits));
    return true;
  }

  /** Loads the newest page again, down to the oldest request that is not over. Returns
   * when it is to be loaded once more, if something came in between. */
  async #renewHead(version) {
    if (this.#filters === null || this.loading) return SOON_MS;
    const oldest = this.requests.findLastIndex(isActive);
    const limit = Math.min(MOST_REFRESHED, Math.max(FIRST_PAGE, oldest + 1));
    const changes = this.#changes;
    let head;
    try {
      head = await this.#api.call("GET", pathOf(this.#filters, limit));
    } catch {
      return EVERY_MS; // the page says that Darkroom does not answer
    }
    if (version !== this.#version || this.loading) return SOON_MS;
    if (this.#changing > 0 || changes !== this.#changes) return SOON_MS; // it may be older than a change
    const isNews = this.problem !== "";
    this.problem = "";
    const last = head.requests.at(-1);
    if (head.next_before === null || last === undefined) {
      if (head.next_before !== null) return null; // an empty page of a search
      const hadMore = this.more;
      this.#next = null;
      this.#take(head.requests, isNews || hadMore);
      return null;
    }
    const rest = this.requests.findIndex(({ request_id: id }) => id === last.request_id);
    if (rest >= 0) {
      this.#take([...head.requests, ...this.requests.slice(rest + 1)], isNews);
      return null;
    }
    // More new ones than a page, so the list begins again; or the last one of the page is new.
    const ids = new Set(head.requests.map(({ request_id: id }) => id));
    const meets = this.requests.some(({ request_id: id }) => ids.has(id));
    const older = meets
      ? this.requests.filter(({ created_at: at }) => Date.parse(at) < Date.parse(last.created_at))
      : [];
    if (!meets) this.#next = head.next_before;
    this.#take([...head.requests, ...older], true);
    return null;
  }

  /** Loads the request of an item again, of which a file could not be shown, with those that follow
   * it: the URLs of private files end after a time. Waits also for a load that another item began. */
  async renew(key) {
    const id = this.items[this.placeOf(key)]?.id;
    if (id === undefined) return;
    if (!this.#isRenewed(id)) {
      this.#stale.add(id);
      this.#renewing ??= this.#renewStale();
    }
    await this.#renewing;
  }

  #isRenewed(id) {
    return Date.now() - (this.#renewed.get(id) ?? 0) < RENEWED_MS;
  }

  async #renewStale() {
    for (const id of this.#stale) {
      this.#stale.delete(id);
      if (!this.#isRenewed(id)) await this.#renew(id);
    }
    this.#renewing = null;
  }

  async #renew(id) {
    const version = this.#version;
    const asked = Date.now(); // a device may sleep until the answer, which is old then
    this.#renewed.set(id, asked);
    const from = this.requests.find(({ request_id: each }) => each === id)?.created_at;
    if (from === undefined) return;
    try {
      const page = await this.#api.call("GET", pathOf(this.#filters, PAGE, { from }));
      if (version !== this.#version) return;
      const fresh = new Map(page.requests.map((request) => [request.request_id, request]));
      for (const each of fresh.keys()) this.#renewed.set(each, asked);
      // The marks stay: the answer may be older than the last one.
      const renewed = (each) => ({ ...fresh.get(each.request_id), favourite: each.favourite });
      this.#take(this.requests.map((each) => (fresh.has(each.request_id) ? renewed(each) : each)));
    } catch {
      // The page says that Darkroom does not answer; the tile says that the file is not there.
    }
  }

  /** Waits for `act()`, which changes requests here and on the server. A refresh that began before its
   * end is dropped: what it says may be older. */
  async change(act) {
    this.#changing += 1;
    this.#changes += 1;
    try {
      return await act();
    } finally {
      this.#changing -= 1;
      this.#changes += 1;
    }
  }

  /** Removes requests that were deleted. */
  remove(ids) {
    this.#take(this.requests.filter(({ request_id: id }) => !ids.has(id)));
  }

  /** Changes the marks of requests: `marks` has them by the ids. */
  mark(marks) {
    const changed = (each) => {
      const favourite = marks.get(each.request_id) ?? each.favourite;
      return favourite === each.favourite ? each : { ...each, favourite };
    };
    this.#take(this.requests.map(changed));
  }

  /** Removes those of the requests that have lost their mark, where only favourites are wanted. */
  sift(ids) {
    if (this.#filters.favourite === null) return;
    const kept = (each) => each.favourite || !ids.has(each.request_id);
    this.#take(this.requests.filter(kept));
  }

  /** `isNews`: what is known beside the items has changed. */
  #take(requests, isNews = false) {
    const [items, places] = [this.items, this.#places];
    const before = { get: (key) => items[places.get(key)] };
    const itemsAgain = (request) => {
      // Most of thousands are the same objects after a page and after a refresh.
      if (!this.#made.has(request)) this.#made.set(request, itemsOf(request, before));
      return this.#made.get(request);
    };
    this.requests = requests;
    this.items = requests.flatMap(itemsAgain);
    this.#places = new Map(this.items.map(({ key }, place) => [key, place]));
    const isSame =
      items.length === this.items.length && items.every((each, at) => each === this.items[at]);
    if (isNews || !isSame) this.dispatchEvent(new Event("change"));
  }
}

/** Items of a request. Those in `before` that have not changed are used again. */
export function itemsOf(request, before = new Map()) {
  const { request_id: id } = request;
  const files = resultsOf(request);
  const of = Math.max(1, files.length);
  const date = dateOf(request.created_at);
  return Array.from({ length: of }, (_, index) => {
    const key = `${id}.${index}`;
    const known = before.get(key);
    if (known !== undefined && isSame(known.request, request)) return known;
    const given = files[index];
    const file = given === undefined ? null : described(given);
    return { key, id, request, file, index, of, date };
  });
}

/** Files of a request, without the images of others, such as the poster of a video. */
export function resultsOf({ files }) {
  return files.filter(({ poster }) => !poster);
}

function described(given) {
  const [file] = filesIn(given);
  if (file === undefined) return null;
  const small = given.thumbnail === null ? null : (filesIn(given.thumbnail)[0] ?? null);
  return { ...file, thumbnail: small };
}

function isSame(before, now) {
  return (
    before.state === now.state &&
    before.favourite === now.favourite &&
    String(addressesIn(before)) === String(addressesIn(now))
  );
}

/** URLs of the files of a request: those of private files change, and end after a time. */
function addressesIn({ files }) {
  return files.flatMap(({ url, thumbnail }) => [url, thumbnail?.url]);
}
