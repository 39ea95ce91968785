// One tab stop for a group of controls, in which the arrow keys move.

const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };

const followed = new WeakSet();

/** Makes the elements of `group` that match `selector` one tab stop. Call it again after the group has
 * changed: the element that has the focus, or the first one, can then be reached. */
export function roving(group, selector) {
  const all = () => [...group.querySelectorAll(selector)];
  const current = all().find((each) => each === document.activeElement) ?? all()[0];
  for (const each of all()) each.tabIndex = each === current ? 0 : -1;
  if (followed.has(group)) return;
  followed.add(group);
  group.addEventListener("focusin", (event) => {
    if (!event.target.matches(selector)) return;
    for (const each of all()) each.tabIndex = each === event.target ? 0 : -1;
  });
  group.addEventListener("keydown", (event) => {
    const items = all();
    const at = items.indexOf(event.target);
    if (at < 0) return;
    const next = { Home: 0, End: items.length - 1 }[event.key] ?? at + (STEPS[event.key] ?? NaN);
    if (Number.isNaN(next)) return;
    event.preventDefault();
    items[Math.max(0, Math.min(items.length - 1, next))].focus();
  });
}
