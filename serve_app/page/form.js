// Form for the input of an endpoint.

import { controlFor, Unreadable } from "./control.js";
import { byId, element, freshId } from "./element.js";
import { fieldsOf, isOpen } from "./schema.js";

const PROMPT = {
  name: "prompt",
  title: "Prompt",
  description: "",
  kind: "prompt",
  required: true,
  choices: [],
  first: true,
};
const WHOLE = {
  name: "",
  title: "Input",
  description: "This endpoint accepts any JSON object.",
  kind: "json",
  required: false,
  choices: [],
  first: true,
};

export class InputForm {
  #rows = []; // {field, control, problem, row}
  #carried = {}; // entered values by field name, kept across endpoints

  /** Shows the fields of `model`, with the values entered before under the same names. */
  show(model) {
    this.#carry();
    const fields = this.#fields(model);
    this.#rows = fields.map(makeRow);
    const first = this.#rows.filter(({ field }) => field.first);
    const more = this.#rows.filter(({ field }) => !field.first);
    byId("fields").replaceChildren(...first.map(({ row }) => row));
    byId("more-fields").replaceChildren(...more.map(({ row }) => row));
    byId("more").hidden = more.length === 0;
    this.fill(this.#carried);
  }

  /** Fills in `input`. Fields without a value return to their defaults. */
  fill(input) {
    for (const { field, control } of this.#rows) {
      if (field.name === "") control.write(Object.keys(input).length ? input : undefined);
      else control.write(input[field.name] ?? undefined);
    }
    this.tell([]);
  }

  /** Input as it would be sent. If a value is missing or invalid, shows the problem at its field and
   * returns null. With `draft`, invalid values are omitted instead. */
  read({ draft = false } = {}) {
    const input = {};
    const problems = [];
    for (const { field, control } of this.#rows) {
      try {
        const value = control.read();
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
    return problems.length ? null : input;
  }

  /** Shows each problem at its field and, with `go`, moves the focus to the first one. Returns the
   * problems that name no field, as sentences. */
  tell(problems, { go = true } = {}) {
    for (const row of this.#rows) setProblem(row, null);
    const homeless = [];
    const met = [];
    for (const { loc = [], msg = "" } of problems) {
      const row = this.#rows.find(({ field }) => loc[1] === field.name);
      if (row === undefined) {
        homeless.push(loc.length > 1 ? `${loc.slice(1).join(".")}: ${msg}` : msg);
        continue;
      }
      const inner = loc.slice(2).join(".");
      setProblem(row, inner ? `${inner}: ${msg}` : msg);
      met.push(row);
    }
    if (met.some(({ field }) => !field.first)) byId("more").open = true;
    if (go && met.length) {
      met[0].control.target.focus({ preventScroll: true });
      met[0].row.scrollIntoView({ block: "center" });
    }
    return homeless;
  }

  #fields({ input }) {
    if (input === null) return [PROMPT];
    return isOpen(input) ? [WHOLE] : fieldsOf(input);
  }

  #carry() {
    for (const { field, control } of this.#rows) {
      try {
        const value = control.read();
        if (field.name !== "") this.#carried[field.name] = value;
      } catch {
        // Invalid values are not kept.
      }
    }
  }
}

function makeRow(field) {
  const id = freshId(`field-${field.name}`);
  const control = controlFor(field, id);
  const problem = element("p", { class: "problem", id: `${id}-problem`, hidden: true });
  const help = element(
    "p",
    { class: "help", id: `${id}-help`, hidden: !field.description },
    field.description,
  );
  const mark = field.required ? element("span", { class: "mark" }, "required") : null;
  const label = element("label", { for: id }, field.title, " ", mark);
  control.target.setAttribute("aria-describedby", `${id}-problem ${id}-help`);
  if (field.required) control.target.setAttribute("aria-required", "true");
  const kind = `field ${field.kind}`;
  const row =
    field.kind === "switch"
      ? element(
          "div",
          { class: kind },
          element("div", { class: "line" }, control.node, label),
          problem,
          help,
        )
      : element("div", { class: kind }, label, control.node, problem, help);
  return { field, control, problem, row };
}

function setProblem({ control, problem, row }, message) {
  problem.textContent = message ?? "";
  problem.hidden = message === null;
  row.classList.toggle("wrong", message !== null);
  if (message === null) control.target.removeAttribute("aria-invalid");
  else control.target.setAttribute("aria-invalid", "true");
}
