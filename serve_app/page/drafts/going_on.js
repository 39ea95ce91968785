// Draft that the form goes on from: a chip above the buttons, and the fields that it decides.

import { button, byId, freshId, h } from "../interface/element.js";

/** Fields that a request from a draft cannot change, as the server refuses them
 * (`UNCHANGEABLE` in `catalog/fields/drafts.py`), and the seed. */
export const DECIDED = [
  "image_size",
  "resolution",
  "aspect_ratio",
  "num_frames",
  "duration",
  "seconds_total",
  "num_inference_steps",
  "steps",
  "number_of_steps",
  "strength",
  "scheduler",
  "shift",
  "num_images",
  "seeds",
  "seed",
];
const MAKERS = ["draft-button", "draft-settings-button"];
const WHY = "The draft decides this.";
const GONE = "Its draft has expired, so Generate makes this from the first step: ";
const SAME = "the same result, unless its prompt or settings were changed after the draft.";
const OTHER = "another result, because it went on from the draft with new noise.";
const LISTS = ["list", "rows", "media-list"];

/** Going on from one draft. `id` is the draft's, `base` the input that made it, `noise` the share of
 * new noise to begin with, `noiseSeed` its seed, `origin` its place on a light table:
 * `{request, id, number, count, picture}`, or undefined. `left()` is called when the user goes on
 * from it no more, `complain(words)` if it has expired. */
export class GoingOn {
  #given;
  #held = []; // controls that are disabled
  #notes = []; // {target, note, described}
  #slider;
  #panel;

  constructor(given) {
    this.#given = given;
    for (const row of given.form.rows) if (DECIDED.includes(row.field.name)) this.#hold(row);
    this.#show();
    this.#look();
  }

  /** Leaves a draft that is not there any more: what goes on from it would be refused. */
  async #look() {
    const { id, api, complain, noise } = this.#given;
    try {
      await api.call("GET", `v1/drafts/${encodeURIComponent(id)}`);
    } catch (error) {
      if (error.status !== 404 || !this.#panel.isConnected) return;
      this.leave();
      complain(GONE + (noise > 0 ? OTHER : SAME));
    }
  }

  /** What another one is made with, to go on from the same draft with the same noise. */
  get given() {
    const noise = Number(this.#slider.value);
    const { noiseSeed, ...given } = this.#given;
    return noise === given.noise ? { ...given, noiseSeed } : { ...given, noise };
  }

  /** False for fields that the draft decides. */
  leaves({ name }) {
    return !DECIDED.includes(name);
  }

  /** Input that goes on from the draft with the fields of the form, `input`. */
  applied(input) {
    const { id, base, form, noiseSeed } = this.#given;
    const made = { ...base };
    for (const { field } of form.rows.filter((row) => this.leaves(row.field))) {
      if (input[field.name] !== undefined) made[field.name] = input[field.name];
      // What is left out would be the draft's, so that a field could not be emptied.
      else if (base[field.name] !== undefined) made[field.name] = emptyOf(field);
    }
    if (input.prompt !== undefined) made.prompt = input.prompt; // with its wildcards replaced
    const noise = Number(this.#slider.value);
    made.from_draft = id;
    if (noise > 0) made.new_noise = noise;
    const isSame = noise > 0 && noise === this.#given.noise;
    if (isSame && (noiseSeed ?? null) !== null) made.noise_seed = noiseSeed;
    return made;
  }

  /** Gives the fields back. */
  leave() {
    for (const each of this.#held) each.disabled = false;
    for (const { target, note, described } of this.#notes) {
      note.remove();
      target.setAttribute("aria-describedby", described);
    }
    this.#panel.remove();
    for (const id of MAKERS) byId(id).disabled = false;
    this.#given.left();
  }

  #hold({ control, row }) {
    for (const each of row.querySelectorAll("input, select, textarea, button")) {
      if (each.disabled) continue;
      each.disabled = true;
      this.#held.push(each);
    }
    const { target } = control;
    const note = h.p({ class: "help decided", id: freshId("decided") }, WHY);
    const described = target.getAttribute("aria-describedby") ?? "";
    target.setAttribute("aria-describedby", `${note.id} ${described}`);
    row.append(note);
    this.#notes.push({ target, note, described });
  }

  #show() {
    const { origin, noise } = this.#given;
    const name = origin ? `From draft ${origin.number}` : "From a draft";
    const id = freshId("new-noise");
    const words = h.output({ for: id });
    const range = { id, type: "range", min: 0, max: 1, step: 0.05, value: noise ?? 0 };
    const say = () => {
      const percent = Math.round(100 * this.#slider.value);
      words.textContent = percent === 0 ? "none" : `${percent} %`;
      this.#slider.setAttribute("aria-valuetext", words.textContent);
    };
    this.#slider = h.input({ ...range, input: say });
    const away = () => {
      this.leave();
      this.#given.form.focus();
    };
    const label = "Do not go on from the draft";
    const close = button("×", away, { class: "away", "aria-label": label });
    const picture = origin?.picture ? h.img({ src: origin.picture, alt: "" }) : null;
    this.#panel = h.div(
      { class: "going-on", role: "group", "aria-label": name },
      h.span({ class: "from" }, picture, name, close),
      h.label({ for: id }, "New noise"),
      h.div({ class: "share" }, this.#slider, words),
    );
    say();
    for (const id of MAKERS) byId(id).disabled = true; // a draft of a draft cannot be made
    byId("form").querySelector("#send .buttons").before(this.#panel);
  }
}

function emptyOf({ kind, fallback }) {
  if (fallback !== undefined) return fallback;
  if (LISTS.includes(kind)) return [];
  return kind === "text" || kind === "prompt" ? "" : null;
}
