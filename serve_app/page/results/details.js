// Dialog with all details of one request.

import { open, makeClosable } from "../interface/dialog.js";
import { button, byId, factRows, h } from "../interface/element.js";
import { Refresh, SOON_MS } from "../interface/refresh.js";
import * as json from "../client/json.js";
import { fileFigure, filesIn, keepFresh, releaseFiles } from "./media.js";
import { promptOf } from "./sheet.js";
import { requestPath, resultOf, submitted } from "../client/watch.js";
import {
  clock,
  isActive,
  runningWords,
  seconds,
  STATES,
  waitingWords,
} from "../interface/words.js";

/** Dialog of a request. `page` has `api`, `address` and `store`, and in `act` the callbacks `again` (use
 * this input), `cancel`, `drafts` (show them) and `useAsInput`. */
export class Details {
  #page;
  #dialog = byId("details");
  #refresh = null; // of the open request: an answer about another one is not waited for
  #leaving = false; // the user has closed it, which the address does not show yet
  #shown = null; // the open request, with its outcome; a new object for each opening

  constructor(page) {
    this.#page = page;
    makeClosable(this.#dialog);
    this.#dialog.addEventListener("cancel", () => (this.#leaving = true));
    this.#dialog.addEventListener("close", () => {
      this.#leaving = false;
      if (this.#dialog.open) return; // the event is late, and Forward has opened it again
      this.#leave();
      byId("details-body").replaceChildren(); // stops what plays
      this.#page.address.leave("request");
    });
  }

  /** Closes the dialog, or opens it for the request `id`. */
  follow(id) {
    if (id === null) this.#dialog.close();
    // Closed with its event still to come, it shows the request no more.
    else if (!this.#leaving && (this.#shown?.id !== id || !this.#dialog.open)) this.show(id);
  }

  show(id) {
    if (this.#page.address.now.request !== id) this.#page.address.go({ request: id, code: null });
    const shown = { id, outcome: null };
    this.#leave();
    this.#shown = shown;
    byId("details-body").replaceChildren(h.p({ class: "help" }, "Loading …"));
    open(this.#dialog);
    this.#refresh = new Refresh(() => this.#look(shown), SOON_MS, this.#page.store.changes);
    this.#refresh.start();
  }

  #leave() {
    this.#refresh?.stop();
    releaseFiles(this.#shown?.outcome?.output);
    this.#shown = null;
  }

  async #look(shown) {
    const { id } = shown;
    try {
      const request = await this.#page.api.call("GET", `v1/requests/${encodeURIComponent(id)}`);
      const final = !isActive(request);
      if (final && request.state === "succeeded")
        shown.outcome ??= await resultOf(this.#page.api, requestPath(request.endpoint_id, id));
      if (this.#shown !== shown) return null;
      this.#draw(request, final);
      if (final) this.#refresh.stop();
    } catch (error) {
      if (this.#shown !== shown) return null;
      byId("details-body").replaceChildren(h.p({ class: "bad" }, error.message));
      if (error.body !== undefined && !error.passing) this.#refresh.stop();
    }
    return SOON_MS; // also its progress is shown
  }

  #draw(request, final) {
    const output = this.#shown.outcome?.output;
    const known = submitted(request);
    const action = (name, what) => button(name, () => what(known), { "data-name": name });
    const closed = (what) => () => {
      this.#page.address.correct({ request: null }); // going back would undo a change of the model
      this.#dialog.close();
      what({ ...known, seed: output?.seed });
    };
    const body = byId("details-body");
    const focused = body.contains(document.activeElement)
      ? document.activeElement.dataset.name
      : undefined;
    body.replaceChildren(
      h.h2({ id: "details-title" }, promptOf(request.input) || request.endpoint_id),
      h.p({ class: `state ${request.state}` }, this.#standing(request)),
      this.#made(output, known),
      h.dl({ class: "rows" }, factRows(factsOf(request))),
      h.div(
        { class: "buttons" },
        final ? null : action("Cancel", this.#page.act.cancel),
        action("Use again", closed(this.#page.act.again)),
        output?.drafts?.length ? action("Drafts", closed(this.#page.act.drafts)) : null,
      ),
      section("Log", h.ol({ class: "log" }, ...(request.log ?? []).map(logLine))),
      section("Input", pre("Input", request.input)),
      output === undefined ? null : section("Output", pre("Output", output)),
    );
    if (focused === undefined) return;
    const same = body.querySelector(`[data-name="${CSS.escape(focused)}"]`);
    (same ?? body.querySelector("[data-name]")).focus({ preventScroll: true }); // Cancel goes at the end
  }

  #standing({ state, waiting, progress, error }) {
    if (state === "queued" && waiting) return waitingWords(waiting.position, waiting);
    if (state === "running") return runningWords(progress ?? {});
    return error && state !== "cancelled" ? `${STATES[state]}. ${error.message}` : (STATES[state] ?? state);
  }

  #made(output, known) {
    const use = (file) => {
      this.#page.address.correct({ request: null });
      this.#dialog.close();
      this.#page.act.useAsInput(file, known);
    };
    const files = filesIn(output);
    const figures = files.map((file) => fileFigure(file, promptOf(known.input), use));
    const made = h.div({ class: "made", "data-files": files.length }, ...figures);
    const path = requestPath(known.endpoint, known.id);
    keepFresh(made, files, async () => (await resultOf(this.#page.api, path)).output);
    return made;
  }
}

function factsOf(request) {
  return {
    Request: request.request_id,
    Model: request.endpoint_id,
    Submitted: clock(request.created_at),
    Started: clock(request.started_at),
    Ended: clock(request.finished_at),
    Compute: request.run_s > 0 ? seconds(request.run_s) : "",
    Attempts: request.attempt,
    Priority: request.priority === "normal" ? "" : request.priority,
  };
}

function section(title, ...content) {
  return h.section(h.h3(title), ...content);
}

function pre(name, value) {
  return h.pre({ tabindex: 0, "data-name": name }, short(value));
}

function logLine({ at, level, message }) {
  return h.li({ class: level?.toLowerCase() }, h.time(clock(at)), " ", message);
}

/** JSON for display, with data URIs shortened to their beginning. */
function short(value) {
  return json.write(value, 2).replace(/"(data:[^"]{60})[^"]{40,}"/g, '"$1…"');
}
