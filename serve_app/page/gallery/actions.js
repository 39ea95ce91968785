// What can be done with results of the gallery: mark, delete.

import { isActive } from "../interface/words.js";
import { resultsOf } from "./collection.js";
import { ask, counted } from "./question.js";

const MOST_MARKED = 500;
const MOST_DELETED = 100;

/** Actions on items of a gallery: `{api, collection, say}`, where `say(words)` announces, and shows, what
 * came of them. */
export class Actions {
  #gallery;
  #collection;

  constructor(gallery) {
    this.#gallery = gallery;
    this.#collection = gallery.collection;
  }

  /** Marks the requests of items as favourites; removes the marks if all have one. Resolves to the mark
   * that they have then; of several, a part may have the other one. */
  favourite(items) {
    return this.#collection.change(() => this.#favourite(items));
  }

  async #favourite(items) {
    const requests = requestsOf(items);
    const favourite = !requests.every((each) => each.favourite);
    const ids = idsOf(requests);
    const before = new Map(requests.map((each) => [each.request_id, each.favourite]));
    this.#collection.mark(new Map(ids.map((id) => [id, favourite]))); // at once; undone if it fails
    try {
      for (const some of parts(ids, MOST_MARKED)) {
        await this.#gallery.api.call("POST", "v1/requests/favourites", {
          request_ids: some,
          favourite,
        });
        for (const id of some) before.delete(id);
      }
      this.#gallery.say(favourite ? "Marked as favourite." : "No longer a favourite.");
    } catch (error) {
      this.#collection.mark(before);
      this.#gallery.say(`This could not be marked: ${error.message}`);
    }
    this.#collection.sift(new Set(ids));
    return before.size === 0 ? favourite : !favourite;
  }

  /** Deletes the requests of items, after a question. Resolves to the ids that are gone. */
  async remove(items) {
    const requests = requestsOf(items);
    const over = requests.filter((each) => !isActive(each));
    if (over.length === 0) {
      this.#gallery.say("What has not ended cannot be deleted. Cancel it first.");
      return new Set();
    }
    const title = `Delete ${counted(over.length, "request")}?`;
    if (!(await ask(title, sentences(items, requests, over), "Delete"))) return new Set();
    return this.#collection.change(() => this.#delete(over));
  }

  async #delete(over) {
    const gone = new Set();
    try {
      for (const some of parts(idsOf(over), MOST_DELETED)) {
        const { results } = await this.#gallery.api.call("POST", "v1/requests/delete", {
          request_ids: some,
        });
        for (const { request_id: id, status } of results) if (status !== "active") gone.add(id);
      }
      this.#gallery.say(`Deleted: ${counted(gone.size, "request")}.`);
    } catch (error) {
      this.#gallery.say(`Deleted: ${gone.size} of ${over.length}. ${error.message}`);
    }
    this.#collection.remove(gone);
    return gone;
  }
}

/** Requests of items, each once. */
export function requestsOf(items) {
  return [...new Map(items.map(({ id, request }) => [id, request])).values()];
}

function idsOf(requests) {
  return requests.map(({ request_id: id }) => id);
}

function* parts(all, size) {
  for (let from = 0; from < all.length; from += size) yield all.slice(from, from + size);
}

/** What a deletion takes with it, and what it leaves. */
function sentences(items, requests, over) {
  const files = over.reduce((sum, request) => sum + resultsOf(request).length, 0);
  const ended = new Set(idsOf(over));
  const chosen = items.filter(({ id, file }) => file !== null && ended.has(id)).length;
  const favourites = over.filter(({ favourite }) => favourite).length;
  const left = requests.length - over.length;
  const inputs = over.length === 1 ? "the input and the log" : "the inputs and the logs";
  return [
    `This deletes ${counted(files, "file")}, ${inputs}. It cannot be undone.`,
    files > chosen
      ? `Files of the same requests that are not selected, and are deleted too: ${files - chosen}.`
      : "",
    favourites > 0 ? `Favourites among them: ${favourites}.` : "",
    left > 0 ? `Requests that have not ended, and stay: ${left}.` : "",
  ].filter(Boolean);
}
