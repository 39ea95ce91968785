// Uploads of files that are too large for the body of a request.

import { BASE, Unreachable } from "./api.js";

/** Files of a request up to this size, all together, travel inside it: that has no progress. */
export const INLINE_BYTES = 2_000_000;

/** Server error of an upload, in words for people. */
const REFUSALS = {
  413: "This file is larger than this Darkroom accepts.",
  429: "Your uploads take up all the space that this key has. Delete some, or try later.",
  507: "This Darkroom has no free disk space.",
};

/** Client of the upload calls. `call` is `Api.call`. */
export class Uploads {
  #api;

  constructor(api) {
    this.#api = api;
  }

  /**
   * Uploads `file` and returns its URL. `progress` is called with the part that was sent, from 0 to
   * 1; `signal` stops it. Throws an `Error` whose message is for the user.
   */
  async send(file, progress, signal) {
    const place = await this.#api.call("POST", "rest/storage/upload/initiate", {
      file_name: file.name,
      content_type: file.type || "application/octet-stream",
    });
    await put(here(place.upload_url), file, progress, signal);
    return place.file_url;
  }
}

/** The same path at the page's own origin, because the page may only call that one. */
function here(address) {
  const { pathname, search } = new URL(address);
  return new URL(pathname.slice(pathname.indexOf("/files/") + 1) + search, BASE);
}

/** `fetch` does not report how much of a body was sent, so this uses an XMLHttpRequest. */
function put(address, file, progress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", address);
    request.setRequestHeader("content-type", file.type || "application/octet-stream");
    request.upload.addEventListener("progress", ({ loaded, total }) => progress(loaded / total));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve();
      else reject(new Error(REFUSALS[request.status] ?? `The upload failed (${request.status}).`));
    });
    request.addEventListener("error", () =>
      reject(new Unreachable("The upload was interrupted. Try again.")),
    );
    request.addEventListener("abort", () => reject(new DOMException("Stopped", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    if (signal?.aborted) reject(signal.reason); // stopped before there was a place for it
    else request.send(file);
  });
}
