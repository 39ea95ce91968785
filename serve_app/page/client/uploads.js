// Uploads of files that are too large for the body of a request.

import { BASE, pause, Unreachable } from "./api.js";

/** Larger files are sent in parts of this size. S3 takes none under 5 MiB. */
const PART_BYTES = 8 * 2 ** 20;

const STALLED_MS = 30_000; // without a byte that was sent
const ANSWER_MS = 180_000; // of the server, which may be storing what was sent
const AGAIN_MS = [1000, 3000]; // before an interrupted part is sent again

/** Server error of an upload, in words for people. */
const REFUSALS = {
  413: "This file is larger than this Darkroom accepts.",
  429: "Your uploads take up all the space that this key has. Delete some, or try later.",
  507: "This Darkroom has no free disk space.",
};

/** Error response to bytes that were sent. */
class Rejected extends Error {
  constructor(status) {
    super(REFUSALS[status] ?? `The upload failed (${status}).`);
    this.status = status;
  }
}

/** Client of the upload calls. */
export class Uploads {
  #api;
  #begun = new WeakMap(); // file → {place, etags}: an upload that has not ended

  constructor(api) {
    this.#api = api;
  }

  /**
   * Uploads `file` and returns its URL. `progress` is called with the part that was sent, from 0 to
   * 1; `signal` stops it. Throws an `Error` whose message is for the user; the next call with the same
   * file then sends only the parts that are missing.
   */
  async send(file, progress, signal) {
    const begun = this.#begun.get(file) ?? (await this.#begin(file));
    this.#begun.set(file, begun);
    try {
      const url = await this.#sendAll(file, begun, progress, signal);
      this.#begun.delete(file);
      return url;
    } catch (error) {
      // The upload is not there any more, or was ended with its parts: the next one begins from zero.
      if (error.status >= 400 && error.status < 500) this.#begun.delete(file);
      throw error;
    }
  }

  async #begin(file) {
    const call = file.size > PART_BYTES ? "initiate-multipart" : "initiate";
    const place = await this.#api.call("POST", `rest/storage/upload/${call}`, {
      file_name: file.name,
      content_type: file.type || "application/octet-stream",
    });
    return { place, etags: [] };
  }

  async #sendAll(file, { place, etags }, progress, signal) {
    if (file.size <= PART_BYTES) {
      await put(here(place.upload_url), file, (sent) => progress(sent / file.size), signal);
      return place.file_url;
    }
    for (let from = etags.length * PART_BYTES; from < file.size; from += PART_BYTES) {
      const part = file.slice(from, from + PART_BYTES, file.type);
      const sent = (now) => progress((from + now) / file.size);
      const address = here(`${place.upload_url}/${etags.length + 1}`);
      const { etag } = await repeated(() => put(address, part, sent, signal), signal);
      etags.push(etag);
    }
    const parts = etags.map((etag, at) => ({ partNumber: at + 1, etag }));
    const address = here(`${place.upload_url}/complete`);
    return (await this.#api.call("POST", address, { parts })).file_url;
  }
}

/** Result of `send()`, which is called again after an interruption. What has stalled is not: the user has
 * waited enough. */
async function repeated(send, signal) {
  for (const ms of AGAIN_MS) {
    try {
      return await send();
    } catch (error) {
      const passes = (error instanceof Unreachable && !error.stalled) || error.status >= 500;
      if (!passes || error.status === 507 || signal?.aborted) throw error;
      await pause(ms);
    }
  }
  return await send();
}

/** The same path at the page's own origin, because the page may only call that one. */
function here(address) {
  const { pathname, search } = new URL(address);
  return new URL(pathname.slice(pathname.indexOf("/files/") + 1) + search, BASE);
}

/** Sends `content`, and returns the JSON of the response. `progress` is called with the bytes that were
 * sent. `fetch` does not report them, so this uses an XMLHttpRequest. */
function put(address, content, progress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let timer = null;
    const fail = (words, more = {}) => reject(Object.assign(new Unreachable(words), more));
    const limit = (ms, words) => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        fail(words, { stalled: true });
        request.abort();
      }, ms);
    };
    const stalled = `The upload has stalled: nothing was sent for ${STALLED_MS / 1000} seconds.`;
    const limitSending = () => limit(STALLED_MS, stalled);
    request.open("PUT", address);
    request.setRequestHeader("content-type", content.type || "application/octet-stream");
    request.upload.addEventListener("progress", ({ loaded }) => {
      limitSending();
      progress(loaded);
    });
    request.upload.addEventListener("load", () => limit(ANSWER_MS, "Darkroom does not answer."));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(answerOf(request));
      else reject(new Rejected(request.status));
    });
    request.addEventListener("error", () => fail("The upload was interrupted."));
    request.addEventListener("abort", () => reject(new DOMException("Stopped", "AbortError")));
    request.addEventListener("loadend", () => clearTimeout(timer));
    signal?.addEventListener("abort", () => request.abort());
    if (signal?.aborted) {
      reject(signal.reason); // stopped before there was a place for it
      return;
    }
    limitSending();
    request.send(content);
  });
}

/** What the response says. A body that is no JSON, as of a proxy, says nothing. */
function answerOf({ responseText }) {
  try {
    return JSON.parse(responseText);
  } catch {
    return {};
  }
}
