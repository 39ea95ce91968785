// Download of many files as zip archives: one at a time, with its progress and a button that ends it.

import { BASE, Refused } from "../client/api.js";
import * as json from "../client/json.js";
import { button, h } from "../interface/element.js";
import { save } from "../interface/save.js";
import { announce } from "../interface/toast.js";
import { bytes, bytesOf, dateOf } from "../interface/words.js";
import { counted } from "./question.js";

const MOST_REQUESTS = 500; // of an archive
const MOST_BYTES = 4 * 2 ** 30; // of an archive; the server makes no larger ones than 8 GiB
const STALLED_MS = 60_000; // without a byte; there is no limit of the whole time

/** Archive of the gallery. `say(words)` announces, and shows, what came of it. */
export class Archive {
  #api;
  #say;
  #words = h.span();
  #stop = null; // AbortController of the download that goes on
  node = h.div(
    { class: "zipping", role: "group", "aria-label": "Download", hidden: true },
    this.#words,
    button("Cancel", () => this.#stop?.abort()),
  );

  constructor(api, say) {
    this.#api = api;
    this.#say = say;
  }

  /** Downloads the files of requests. More than one archive has room for come in several. */
  async download(requests) {
    const all = requests.filter(({ files }) => files.length > 0);
    if (all.length === 0) return this.#say("There are no files in the selection.");
    if (this.#stop !== null)
      return this.#say("A download goes on already. Wait for its end, or cancel it.");
    this.#stop = new AbortController();
    const parts = partsOf(all);
    const files = counted(filesOf(all), "file");
    let done = 0;
    try {
      for (const part of parts) {
        const of = parts.length > 1 ? ` (archive ${done + 1} of ${parts.length})` : "";
        const doing = `Downloading ${counted(filesOf(part), "file")}${of}`;
        const total = sizeOf(part);
        const share = (received) =>
          total === 0 ? bytes(received) : bytesOf(Math.min(received, total), total);
        this.#show(`${doing} …`);
        announce(`${doing} …`);
        const archive = await this.#archive(part, (received) =>
          this.#show(`${doing}: ${share(received)}`),
        );
        const suffix = parts.length > 1 ? `-${done + 1}` : "";
        save(archive, `darkroom-${dateOf(Date.now())}${suffix}.zip`);
        done += 1;
      }
      const archives = parts.length > 1 ? ` in ${parts.length} archives` : "";
      this.#say(`Downloaded: ${files}${archives}.`);
    } catch (error) {
      const saved = done > 0 ? ` Archives that were saved before: ${done}.` : "";
      const why = this.#stop.signal.aborted
        ? "The download was cancelled."
        : `The files could not be downloaded: ${error.message}`;
      this.#say(why + saved);
    }
    this.#stop = null;
    this.node.hidden = true;
  }

  #show(words) {
    this.#words.textContent = words;
    this.node.hidden = false;
  }

  /** Archive as a `Blob`. Throws an `Error` whose message is for the user. */
  async #archive(requests, progress) {
    const silence = new AbortController();
    let timer = null;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), STALLED_MS);
    };
    heard();
    try {
      const answer = await fetch(new URL("v1/requests/zip", BASE), {
        method: "POST",
        headers: {
          authorization: `Key ${this.#api.key ?? ""}`,
          "content-type": "application/json",
        },
        body: json.write({ request_ids: requests.map(({ request_id: id }) => id) }),
        signal: AbortSignal.any([silence.signal, this.#stop.signal]),
      });
      if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
      let received = 0;
      const counting = new TransformStream({
        transform(chunk, to) {
          heard();
          received += chunk.length;
          progress(received);
          to.enqueue(chunk);
        },
      });
      return await new Response(answer.body.pipeThrough(counting)).blob();
    } catch (error) {
      if (error instanceof Refused) throw error;
      const words = silence.signal.aborted
        ? `Nothing has come for ${STALLED_MS / 1000} seconds.`
        : "The connection was lost.";
      throw new Error(words, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Requests of each archive. */
function partsOf(requests) {
  const parts = [[]];
  let size = 0;
  for (const each of requests) {
    const own = sizeOf([each]);
    const { length } = parts.at(-1);
    if (length === MOST_REQUESTS || (length > 0 && size + own > MOST_BYTES)) {
      parts.push([]);
      size = 0;
    }
    parts.at(-1).push(each);
    size += own;
  }
  return parts;
}

function sizeOf(requests) {
  const files = requests.flatMap((each) => each.files);
  return files.reduce((sum, file) => sum + (file.file_size ?? 0), 0);
}

function filesOf(requests) {
  return requests.reduce((sum, { files }) => sum + files.length, 0);
}
