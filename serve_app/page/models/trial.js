// Form on the page of a model, with its calls as JSON and as programs.

import { Program } from "../code/program.js";
import { estimable, EstimateLine } from "../form/estimate.js";
import { button, h, problemLine, tell } from "../interface/element.js";

/**
 * Node with the form of `model`, which has its schema and an example if there is one; what it will take
 * and cost, and the same call as JSON and as programs. `act` has `formIn(place, complain)` and
 * `generate(model, page)`, which shows the result. `entered` has the input of each model, by its id, and
 * brings it back when the page is opened again.
 */
export function trial(model, { api, act }, entered) {
  const fields = h.div({ class: "fields" });
  const moreFields = h.div({ class: "fields" });
  const more = h.details(h.summary("More settings"), moreFields);
  const problem = problemLine();
  const line = h.p({ class: "help" });
  const submit = button("Generate", null, { type: "submit", class: "main" });
  const node = h.form(
    { "aria-label": `Form of ${model.name}`, novalidate: true },
    fields,
    more,
    problem,
    line,
    h.div({ class: "buttons" }, submit),
  );
  const complain = (...words) => tell(problem, ...words);
  const form = act.formIn({ form: node, fields, more, moreFields }, complain);
  const read = () => ({
    endpoint: model.id,
    input: form.read({ draft: true }),
    category: model.category,
  });
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    act.generate(model, { form, complain, button: submit, goingOn: () => null });
  });
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    node.requestSubmit();
  });
  const estimate = new EstimateLine(api, () => estimable(model, read().input), node, line);
  form.show(model);
  const first = entered.get(model.id) ?? model.examples[0]?.input;
  if (first !== undefined) form.fill(first);
  more.open = false; // what is filled in there would push the button out of sight
  for (const name of ["input", "change"])
    node.addEventListener(name, () => entered.set(model.id, read().input));
  estimate.soon(0);
  const program = new Program({ read, form: node, apply: (_, input) => form.fill(input) });
  program.show();
  program.node.classList.add("trial");
  return program.node;
}
