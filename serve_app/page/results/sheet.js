// Card of one request: its progress, then its results.

import { DRAFT_FIELDS } from "../form/schema.js";
import { ask, LONG_MS, mayAsk } from "../interface/attention.js";
import { attribute, button, factRows, h, tell } from "../interface/element.js";
import * as json from "../client/json.js";
import { fileFigure, filesIn, keepFresh, releaseFiles } from "./media.js";
import { shortSeed } from "./seed.js";
import { effect } from "../vendored/signals.js";
import { partOf, runningWords, seconds, shortSeconds, STATES, waitingWords } from "../interface/words.js";

/** Sides up to this are those of a ratio, such as 16:9. Larger ones are pixels. */
const RATIO = 32;

/**
 * Card of a request. `act` has the callbacks of its buttons, which get the request, and `useAsInput(file,
 * request)`, `lightTable(request, output)`, `unknownWords(request, words)`, `say(node, text)`, and `showDraft(origin)`. `read()`
 * reads the output of the request anew; `contact` is the page's signal.
 */
export class Sheet {
  #request;
  final = false;
  #standing = h.p({ class: "standing" }, "Sending …");
  #bar = h.div({ class: "bar", role: "progressbar", "aria-label": "Progress" }, h.span());
  #elapsed = h.span({ class: "elapsed" });
  #silence = h.p({ class: "silence", hidden: true });
  #developing;
  #body = h.div({ class: "made" });
  #cancel;
  #act;
  #read;
  #use;
  #notify;
  /** How far the request is, from 0 to 1. */
  part = 0;
  #output = null;
  #ignore; // ends the effect of the contact
  #preview; // URL of the newest one

  constructor(request, act, read, contact) {
    this.#request = request;
    this.#act = act;
    this.#read = read;
    this.#use = (file) => act.useAsInput(file, request);
    const prompt = promptOf(request.input);
    const action = (name, what) => button(name, () => what(request), { "data-name": name });
    this.#developing = h.div({ class: "developing", "aria-hidden": "true" });
    const [width, height] = request.aspect ?? [4, 3];
    this.#developing.style.aspectRatio = `${width} / ${height}`;
    this.#developing.style.setProperty("--aspect", width / height);
    if (width > RATIO) this.#developing.style.maxWidth = `${width}px`;
    this.#cancel = action("Cancel", act.cancel);
    this.#notify = action("Notify me", () => ask().then(() => (this.#notify.hidden = !mayAsk())));
    this.#notify.hidden = true;
    this.#body.append(this.#developing);
    const title = h.h3(
      { class: prompt ? "prompt-words" : "prompt-words none" },
      prompt || request.endpoint,
    );
    const demo = request.demo ? h.span({ class: "demo" }, "demo model") : null;
    const from = request.input?.from_draft ? fromDraft(request.origin, act.showDraft) : null;
    this.node = h.article(
      {
        class: "sheet",
        "data-phase": "sending",
        "data-request": request.id,
        "data-from": request.input?.from_draft,
        "aria-label": prompt || request.endpoint,
      },
      this.#body,
      h.div(
        { class: "caption" },
        title,
        h.p({ class: "origin" }, request.name ?? request.endpoint, " ", demo, from),
        h.div({ class: "progress" }, this.#standing, this.#elapsed, this.#bar, this.#silence),
        h.dl({ class: "facts" }),
        h.div(
          { class: "buttons" },
          this.#cancel,
          this.#notify,
          action("Use again", act.again),
          h.span({ class: "more-of-it", hidden: true }, action("Vary", act.vary), action("× 4", act.four)),
          action("Details", act.details),
          action("Code", act.code),
        ),
      ),
    );
    this.#ignore = effect(() => this.#contact(contact.value));
  }

  /** Says on the card itself that Darkroom does not answer, so that its state may be out of date. */
  #contact(there) {
    tell(this.#silence, there ? "" : "No contact with Darkroom. This is its last known state.");
    this.node.classList.toggle("silent", !there);
  }

  /** Shows an update from a `Watch`. */
  show({ phase, status = {}, output, error }) {
    this.node.dataset.phase = phase;
    if (phase === "queued")
      this.#stand(waitingWords(status.queue_position ?? 0, status.darkroom), null);
    else if (phase === "running") this.#run(status.darkroom ?? {}, status.images);
    else this.#end(phase, status, output, error);
  }

  /** Updates the elapsed time; called once a second. */
  tick() {
    if (this.final) return;
    const age = this.#age();
    this.#elapsed.textContent = shortSeconds(Math.floor(age));
    this.#notify.hidden = 1000 * age < LONG_MS || !mayAsk();
  }

  /** Seconds since the submission. */
  #age() {
    return Math.max(0, (Date.now() - this.#request.at) / 1000);
  }

  #run(progress, [preview] = []) {
    this.#stand(runningWords(progress), partOf(progress));
    this.#cancel.disabled = progress.cancel_requested === true;
    if (preview) this.#show(preview.url);
    if (progress.workflow)
      import("./steps.js").then(
        ({ standing }) => this.final || this.#stand(...standing(progress)),
        () => {}, // it only runs
      );
  }

  /** Shows a preview when it is decoded, unless a newer one or the result came meanwhile. */
  async #show(url) {
    this.#preview = url;
    const fresh = h.img({ alt: "", src: url });
    await fresh.decode().catch(() => (this.#preview = undefined)); // the next one may be readable
    if (this.final || this.#preview !== url) return;
    this.#developing.style.aspectRatio = `${fresh.naturalWidth} / ${fresh.naturalHeight}`;
    this.#developing.replaceChildren(fresh);
  }

  #stand(words, part) {
    this.#standing.textContent = words;
    this.part = part ?? 0;
    const done = part === null ? null : Math.round(part * 100);
    this.#bar.classList.toggle("unknown", done === null);
    attribute(this.#bar, "aria-valuenow", done);
    this.#bar.firstChild.style.width = `${done ?? 0}%`;
    this.#bar.setAttribute("aria-valuetext", words);
  }

  #end(phase, status, output, error) {
    this.final = true;
    for (const each of [this.#cancel, this.#notify, this.#bar, this.#elapsed, this.#developing, this.#silence])
      each.remove();
    this.#ignore();
    if (error) {
      const words = phase === "cancelled" ? "" : said(error);
      this.#standing.textContent = `${STATES[phase] ?? "Lost"}. ${words}`.trim();
      this.#standing.classList.toggle("bad", phase !== "cancelled");
      return;
    }
    this.#output = output;
    this.#request.seed = output?.seed;
    this.#standing.remove();
    const prompt = promptOf(this.#request.input);
    const files = filesIn(output);
    const figures = files.map((file, at) =>
      fileFigure(file, files.length > 1 ? `${prompt} (${at + 1})` : prompt, this.#use),
    );
    keepFresh(this.#body, files, this.#read);
    if (files.length === 0) figures.push(h.pre(json.write(output, 2)));
    if (output?.drafts?.length) this.#lay(output, figures);
    else this.#fill(figures);
    const text = files.length === 0 && (output?.text ?? output?.output); // a transcript or an answer
    if (typeof text === "string") this.#act.say(figures[0], text);
    this.#facts(status, output);
    const unknown = output?.darkroom_demo_unknown ?? [];
    if (unknown.length > 0)
      this.#act.unknownWords(this.#request, unknown).then(
        (notice) => this.node.querySelector(".progress").replaceWith(notice),
        () => {}, // the page's code could not be loaded
      );
  }

  /** Releases what it shows: the card is not shown any more. */
  release() {
    this.#ignore();
    releaseFiles(this.#output);
  }

  #fill(figures) {
    this.node.querySelector(".more-of-it").hidden = false;
    this.#body.replaceChildren(...figures);
    this.#body.dataset.files = figures.length;
  }

  /** Shows drafts on a light table; without it, their files. */
  #lay(output, figures) {
    this.node.classList.add("of-drafts");
    this.#act.lightTable(this.#request, output).then(
      (table) => this.#body.replaceChildren(table),
      () => this.#fill(figures),
    );
  }

  #facts(status, output) {
    const ran = status.metrics?.inference_time ?? output?.timings?.inference;
    const facts = {
      Seed: shortSeed(output?.seed),
      Compute: ran > 0 ? seconds(ran) : "",
      Total: seconds(status.darkroom?.total_s),
    };
    this.node.querySelector("dl.facts").replaceChildren(...factRows(facts));
    if (output?.darkroom_demo === true && !this.#request.demo)
      this.node.querySelector(".origin").append(h.span({ class: "demo" }, "demo model"));
  }
}

/** Words that lead to the draft that a request goes on from. */
function fromDraft(origin, show) {
  if (!origin) return h.span(" · from a draft");
  const words = `from draft ${origin.number} of ${origin.count}`;
  return h.span(" · ", button(words, () => show(origin), { class: "action" }));
}

function said({ message, problems }) {
  const named = problems.map(({ loc = [], msg }) =>
    [DRAFT_FIELDS.has(loc[1]) ? "" : loc.slice(1).join("."), msg].filter(Boolean).join(": "),
  );
  return named.join(" ") || message;
}

/** Text that identifies a request: its prompt. */
export function promptOf(input) {
  const words = input?.prompt ?? input?.text ?? "";
  return typeof words === "string" ? words : "";
}
