// Form for the input of an endpoint.

import * as json from "../client/json.js";
import { controlFor } from "./control.js";
import { keepDraft, keptDraft } from "./draft.js";
import { isMaskField } from "./file_input.js";
import { helpOf, withCode } from "./help.js";
import { attribute, button, byId, freshId, h, tell } from "../interface/element.js";
import { DRAFT_FIELDS, fieldsOf, isOpen } from "./schema.js";
import { bringBack, hold, Unreadable } from "./unreadable.js";

const KEEP_MS = 400; // between the last change and its storage

const PROMPT = {
  name: "prompt",
  title: "Prompt",
  kind: "prompt",
  required: true,
  first: true,
};
const WHOLE = {
  name: "",
  title: "Input",
  description: "This endpoint accepts any JSON object.",
  kind: "json",
  required: false,
  first: true,
};

/** Form of the chosen model. `context` is that of the controls. `place` has the nodes that it fills:
 * `{form, fields, more, moreFields}`, by default those of the page. What is entered there is kept for
 * the next visit; in others it is not. */
export class InputForm {
  #context;
  #place;
  #kept; // what is entered is
  #model = null;
  /** The fields that are shown, with their controls: `{field, control}`. */
  rows = []; // {field, control, problem, row}
  #carried = keptDraft(); // entered values by field name, kept across endpoints and visits
  #timer = null;
  #known = new Map(); // field name → its value, as JSON, that was filled in or submitted last

  constructor(context, place = null) {
    this.#context = context;
    this.#kept = place === null;
    this.#place = place ?? ownPlace();
    if (!this.#kept) return;
    const soon = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.keep(), KEEP_MS);
    };
    for (const name of ["input", "change"]) this.#place.form.addEventListener(name, soon);
    addEventListener("pagehide", () => this.keep());
  }

  /** Shows the fields of `model`, with the values entered before under the same names. */
  show(model) {
    this.#carry();
    for (const { control } of this.rows) control.write(undefined); // ends their uploads
    this.#model = model;
    const early = takeEarly();
    if (early?.value) this.#carried.prompt = early.value;
    const hint = model.examples[0]?.input.prompt;
    const fields = this.#fields(model).map((each) =>
      each.name === "prompt" && hint ? { ...each, hint: `Such as: ${hint}` } : each,
    );
    this.rows = fields.map((field) => makeRow(field, this.#context));
    const first = this.rows.filter(({ field }) => field.first);
    const more = this.rows.filter(({ field }) => !field.first);
    this.#place.fields.replaceChildren(...first.map(({ row }) => row));
    this.#place.moreFields.replaceChildren(...more.map(({ row }) => row));
    this.#place.more.hidden = more.length === 0;
    this.#known.clear();
    this.#fill(takesAnything(model) ? {} : this.#carried);
    if (early?.focused) this.#place.fields.querySelector(".prompt textarea")?.focus();
  }

  /** Stores what was entered, for the next visit. */
  keep() {
    clearTimeout(this.#timer);
    if (this.rows.length === 0 || !this.#kept) return;
    this.#carry();
    keepDraft(this.#carried);
  }

  /** Forgets what was entered. */
  clear() {
    this.#carried = {};
    this.#known.clear();
    this.#fill({});
    clearTimeout(this.#timer); // the change that it told of would be kept
  }

  /** Function that brings back what is entered now, into the form of the same model; null if `input`,
   * filled in, replaces nothing but what was filled in or submitted before. With `partly`, fields that
   * `input` has not are left as they are. */
  holding(input, { partly = false } = {}) {
    const held = new Map(this.rows.map(({ field, control }) => [field.name, hold(control)]));
    const isLost = ([name, { value, text }]) => {
      if (partly && !(name in input)) return false;
      if (text !== undefined) return true;
      if (value === undefined) return false;
      const now = json.write(value);
      const next = name === "" ? input : input[name];
      return now !== this.#known.get(name) && now !== json.write(next ?? null);
    };
    if (![...held].some(isLost)) return null;
    return () => {
      for (const { field, control } of this.rows)
        if (held.has(field.name)) bringBack(control, held.get(field.name));
      this.tell([]);
      this.keep();
      this.#told();
    };
  }

  /** Remembers the fields' values as what need not be brought back: all, or those of `names`. */
  #know(names = null) {
    for (const { field, control } of this.rows) {
      if (names !== null && !(field.name in names)) continue;
      const { value } = hold(control);
      if (value === undefined) this.#known.delete(field.name);
      else this.#known.set(field.name, json.write(value));
    }
  }

  /** Writes `input` over what the form has, and leaves its other fields as they are. */
  change(input) {
    for (const { field, control } of this.rows)
      if (field.name in input) control.write(input[field.name]);
    this.#know(input);
    this.tell([]);
    this.keep();
    this.#told();
  }

  /** Gives private images whose URLs have expired new ones. */
  async renew() {
    await Promise.all(this.rows.map(({ control }) => control.renew?.()));
  }

  /** Focuses the first field. */
  focus() {
    this.#place.fields.querySelector("textarea, input")?.focus();
  }

  /** True if the form is that of `model`. */
  isOf({ id }) {
    return this.#model?.id === id;
  }

  /** Name of the input in sight that takes a file of this kind: an empty one, if there is one, but no
   * mask; null without one. */
  inputFor(kind) {
    const takers = this.rows.filter(
      ({ field, row }) => field.media === kind && !isMaskField(field) && row.checkVisibility(),
    );
    return (takers.find(isEmpty) ?? takers[0])?.field.name ?? null;
  }

  /** Uses a file `{url, name, local}` in the field `name`, in addition to others if it takes several.
   * `local` is the file itself, if it is one of this machine, and `others` are those that came with it. */
  put(name, file) {
    const found = this.rows.find(({ field }) => field.name === name);
    if (found === undefined) return;
    if (file.local) found.control.take([file.local, ...file.others]);
    else found.control.put(file);
    if (!found.field.first) this.#place.more.open = true;
    found.row.scrollIntoView({ block: "center" });
    this.keep();
    this.#told();
  }

  /** Fills in `input`. Fields without a value return to their defaults. */
  fill(input) {
    this.#fill(input);
    this.#know();
  }

  #fill(input) {
    for (const { field, control } of this.rows) {
      if (field.name === "") control.write(Object.keys(input).length ? input : undefined);
      else control.write(input[field.name] ?? undefined);
    }
    this.tell([]);
    if (this.rows.some(({ field }) => !field.first && input[field.name] !== undefined))
      this.#place.more.open = true;
    this.#told();
  }

  /** Input as it would be sent. If a value is missing or invalid, shows the problem at its field and
   * returns null. With `draft`, invalid values are omitted instead. */
  read({ draft = false } = {}) {
    const input = {};
    const problems = [];
    for (const { field, control } of this.rows) {
      try {
        const value = control.read() ?? field.always;
        if (value === undefined && field.required) throw new Unreadable("This field is required.");
        if (field.name === "") Object.assign(input, value);
        else if (value !== undefined) input[field.name] = value;
      } catch (error) {
        if (!(error instanceof Unreadable)) throw error;
        problems.push({ loc: ["body", field.name], msg: error.message });
      }
    }
    if (draft) return input;
    this.tell(problems);
    if (problems.length) return null;
    this.#know();
    return input;
  }

  /** Shows each problem at its field and, with `go`, moves the focus to the first one. Returns the
   * problems that name no field, as sentences. */
  tell(problems, { go = true } = {}) {
    for (const row of this.rows) setProblem(row, "");
    const homeless = [];
    const met = [];
    for (const { loc = [], msg = "" } of problems) {
      const name = String(loc[1] ?? "").split(".")[0];
      const row = this.rows.find(({ field }) => name === field.name);
      if (row === undefined) {
        const named = loc.length > 1 && !DRAFT_FIELDS.has(name);
        homeless.push(named ? `${loc.slice(1).join(".")}: ${msg}` : msg);
        continue;
      }
      const inner = placeIn(row.field, loc.slice(2));
      setProblem(row, inner ? `${inner}: ${msg}` : msg);
      met.push(row);
    }
    if (met.some(({ field }) => !field.first)) this.#place.more.open = true;
    if (go && met.length) {
      met[0].control.target.focus({ preventScroll: true });
      met[0].row.scrollIntoView({ block: "center" });
    }
    return homeless;
  }

  #fields(model) {
    if (model.input === null) return [PROMPT];
    return takesAnything(model) ? [WHOLE] : fieldsOf(model.input);
  }

  /** Tells those who follow the form of a change that was not typed. */
  #told() {
    this.#place.form.dispatchEvent(new Event("change"));
  }

  #carry() {
    for (const { field, control } of this.rows) {
      const { value } = hold(control); // none, if it is invalid, or not uploaded yet
      if (field.name !== "") this.#carried[field.name] = value;
    }
  }
}

function ownPlace() {
  const [form, fields, more, moreFields] = ["form", "fields", "more", "more-fields"].map(byId);
  return { form, fields, more, moreFields };
}

function isEmpty({ control }) {
  const { value, text } = hold(control);
  return value === undefined && text === undefined; // not a file that is being uploaded
}

function takesAnything({ input }) {
  return input !== null && isOpen(input);
}

/** Text of the prompt that was typed before the form was there, and whether it has the focus. The
 * page itself has that first field, so that nobody waits for the form. */
function takeEarly() {
  const field = byId("early-prompt");
  if (field === null) return null;
  const focused = document.activeElement === field;
  field.removeAttribute("id");
  return { value: field.value, focused };
}

/** Place of a problem inside a field, such as "LoRA 1, path". */
function placeIn(field, loc) {
  const [at, ...names] = loc;
  if (field.kind !== "rows" || !/^\d+$/.test(String(at))) return loc.join(".");
  return [`${field.title.replace(/s$/, "")} ${Number(at) + 1}`, ...names].join(", ");
}

function makeRow(field, context) {
  const id = freshId(`field-${field.name}`);
  const control = controlFor(field, id, context);
  const problem = h.p({ class: "problem", id: `${id}-problem`, hidden: true });
  const text = helpOf(field);
  const help = h.p({ class: "help", id: `${id}-help`, hidden: !text }, withCode(text));
  const mark = field.required ? h.span({ class: "mark" }, "required") : null;
  const label = h.label({ for: id }, field.title, " ", mark);
  control.target.setAttribute("aria-describedby", `${id}-problem ${id}-help`);
  if (field.required) control.target.setAttribute("aria-required", "true");
  const kind = `field ${field.kind}`;
  const recall = field.name === "prompt" ? recallButton(control.target, context) : null;
  const row =
    field.kind === "switch"
      ? h.div({ class: kind }, h.div({ class: "line" }, control.node, label), problem, help)
      : h.div({ class: kind }, label, control.node, recall, problem, help);
  return { field, control, problem, row };
}

/** Button for earlier prompts, which ArrowUp in an empty prompt opens too. */
function recallButton(target, context) {
  const recall = () => context.recall();
  target.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowUp" || target.value !== "") return;
    event.preventDefault();
    recall();
  });
  return button("Earlier prompts", recall, { class: "recall" });
}

function setProblem({ control, problem, row }, message) {
  tell(problem, message);
  row.classList.toggle("wrong", message !== "");
  attribute(control.target, "aria-invalid", message === "" ? null : "true");
}
