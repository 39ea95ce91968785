// Choice of an earlier prompt.

import { openNew } from "../interface/dialog.js";
import { button, byId, element } from "../interface/element.js";
import { roving } from "../interface/roving.js";
import { forgetUsed, PROMPTS, usedTexts } from "../form/used.js";

const MOST_SHOWN = 50;

/** Opens the list of prompts; `use(prompt)` is called with the chosen one. */
export function recall(use) {
  const kept = usedTexts(PROMPTS);
  const label = "Search prompts";
  const search = element("input", { type: "search", placeholder: "Search", "aria-label": label });
  const list = element("div", { class: "targets" });
  const forget = () => {
    forgetUsed(PROMPTS);
    kept.length = 0;
    draw();
  };
  const foot = element(
    "div",
    { class: "foot" },
    element("p", { class: "help" }, "They are in this browser only."),
    button("Forget them", forget),
  );
  const dialog = openNew("Earlier prompts", "narrow", element("div", { class: "search" }, search), list, foot);
  const choose = (prompt) => {
    dialog.close();
    use(prompt);
    byId("fields").querySelector(".prompt textarea")?.focus();
  };
  const draw = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = kept.filter((text) => wanted.every((each) => text.toLowerCase().includes(each)));
    const none = element("p", { class: "help" }, kept.length ? "No prompt has these words." : "None yet.");
    const shown = found.slice(0, MOST_SHOWN).map((text) => option(text, choose));
    list.replaceChildren(...(shown.length ? shown : [none]));
    foot.hidden = kept.length === 0;
    roving(list, "button");
  };
  search.addEventListener("input", draw);
  search.addEventListener("keydown", (event) => {
    if (!["ArrowDown", "Enter"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Enter") list.querySelector("button")?.click();
    else list.querySelector("button")?.focus();
  });
  draw();
  search.focus();
}

function option(text, choose) {
  const words = element("span", { class: "prompt-words" }, text);
  return button(words, () => choose(text), { class: "target" });
}
