// Dialogs that ask before something is done, or show something once.

import { open, openNew } from "./dialog.js";
import { button, freshId, h, labelled, problemLine, select, tell } from "./element.js";

/**
 * Asks in a dialog, and resolves with the result of `submit(values, report)`, or with null if the user
 * does not want it. What was submitted is not stopped by closing the dialog: its result counts, and its
 * error opens the dialog again. While `submit` throws, the dialog stays with the error's message; `report(words)`
 * says how far it is. `fields`: `{name, label, type, value, choices, required, help}`, where `choices`
 * are pairs of value and words. The value of a `file` is a `File` or null.
 */
export function ask({ title, words = "", action, danger = false, fields = [], submit }) {
  const controls = fields.map(fieldOf);
  const problem = problemLine();
  const progress = h.p({ class: "help", role: "status", hidden: true });
  const main = button(action, null, { type: "submit", class: danger ? "main danger" : "main" });
  const form = h.form(
    { class: "question", novalidate: true },
    words !== "" && h.p(words),
    controls.map(({ node }) => node),
    problem,
    progress,
  );
  // A click beside it would lose what was typed.
  const dialog = openNew(title, form, { outside: fields.length === 0 });
  const keep = button("Cancel", () => dialog.close());
  form.append(h.div({ class: "buttons" }, main, keep));
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      if (!main.disabled) resolve(null);
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (main.disabled || !complete(controls, problem)) return;
      main.disabled = true;
      try {
        const values = Object.fromEntries(controls.map(({ name, read }) => [name, read()]));
        resolve((await submit(values, (said) => tell(progress, said))) ?? true);
        dialog.close();
      } catch (error) {
        tell(problem, wordsOf(error));
        if (!dialog.isConnected) document.body.append(dialog);
        open(dialog);
      }
      progress.hidden = true;
      main.disabled = false;
    });
    open(dialog);
    (controls[0]?.control ?? (danger ? keep : main)).focus();
  });
}

/** Message of an error, with the field that it is about. */
export function wordsOf(error) {
  const named = (error.problems ?? []).map(({ loc, msg }) => {
    const name = loc.at(-1);
    return msg.startsWith(`${name} `) ? msg : `${name}: ${msg}`;
  });
  return named.length ? named.join(". ") : error.message;
}

function complete(controls, problem) {
  // The value of a number that the browser cannot read is empty, which may mean: without a limit.
  const isUnreadable = ({ control }) => control.validity.badInput;
  const isMissing = ({ control }) => control.required && control.value.trim() === "";
  const wrong = controls.find((each) => isUnreadable(each) || isMissing(each));
  problem.hidden = true;
  if (wrong === undefined) return true;
  tell(problem, `${wrong.label} is ${isUnreadable(wrong) ? "not a number" : "required"}.`);
  wrong.control.focus();
  return false;
}

function fieldOf({ name, label, type = "text", value = "", choices, required = false, help }) {
  const id = freshId("ask");
  const about = help === undefined ? null : `${id}-help`;
  const given = { id, required, "aria-describedby": about };
  const control = choices
    ? select(choices, { ...given, value: value || undefined })
    : h.input({ ...given, type, autocomplete: "off", spellcheck: "false" });
  if (type === "checkbox") control.checked = Boolean(value);
  else if (!choices) control.value = value;
  const node = h.div(
    { class: type === "checkbox" ? "field tick" : "field" },
    labelled(label, control),
    help !== undefined && h.p({ class: "help", id: about }, help),
  );
  const read = () => {
    if (type === "file") return control.files[0] ?? null;
    return type === "checkbox" ? control.checked : control.value.trim();
  };
  return { name, label, control, node, read };
}
