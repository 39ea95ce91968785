// Dialog with a list that is searched, and of which one entry is chosen.

import { openNew } from "../interface/dialog.js";
import { button, h } from "../interface/element.js";
import { roving } from "../interface/roving.js";

/** Opens the dialog, which loads until `show(entries)` of `{dialog, search, list, show}` is called. `label`
 * names the search, `textOf(entry)` is what it looks at, `contentOf(entry)` the content of its button;
 * `none(all)` says why nothing is found in `all`, and `choose(entry)` is called when one is chosen. */
export function openSearch(
  title,
  label,
  { textOf, contentOf, none, choose, most = Infinity, foot = null },
) {
  const search = h.input({ type: "search", placeholder: "Search", "aria-label": label });
  const list = h.div({ class: "targets" }, h.p({ class: "help" }, "Loading …"));
  const content = [h.div({ class: "search" }, search), list, foot];
  const dialog = openNew(title, content, { kind: "narrow" });
  let all = null;
  const option = (entry) => {
    const click = () => {
      dialog.close();
      choose(entry);
    };
    return button(contentOf(entry), click, { class: "target" });
  };
  const draw = () => {
    if (all === null) return;
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (entry) => wanted.every((each) => textOf(entry).toLowerCase().includes(each));
    const shown = all.filter(fits).slice(0, most).map(option);
    list.replaceChildren(...(shown.length ? shown : [h.p({ class: "help" }, none(all))]));
    roving(list, "button");
  };
  search.addEventListener("input", draw);
  search.addEventListener("keydown", (event) => {
    if (!["ArrowDown", "Enter"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Enter") list.querySelector("button")?.click();
    else list.querySelector("button")?.focus();
  });
  search.focus();
  const show = (entries) => {
    all = entries;
    draw();
  };
  return { dialog, search, list, show };
}
