// Groups of buttons, of which one is pressed.

import { button } from "./element.js";

/** Buttons for `choices`, pairs of value and words, of which one is pressed. `choose(value)` is called by
 * a click. */
export function chips(choices, choose) {
  return choices.map(([value, words]) =>
    button(words, () => choose(value), { class: null, "data-value": value }),
  );
}

/** Presses the button of `group` that has this value, and no other. */
export function press(group, value) {
  for (const each of group.children)
    each.setAttribute("aria-pressed", String(each.dataset.value === value));
}
