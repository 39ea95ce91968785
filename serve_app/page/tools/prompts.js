// Choice of an earlier prompt.

import { button, byId, h } from "../interface/element.js";
import { forgetUsed, PROMPTS, usedTexts } from "../form/used.js";
import { openSearch } from "./search.js";

const MOST_SHOWN = 50;

/** Opens the list of prompts; `use(prompt)` is called with the chosen one. */
export function recall(use) {
  const kept = usedTexts(PROMPTS);
  const forget = () => {
    forgetUsed(PROMPTS);
    show([]);
    foot.hidden = true;
  };
  const foot = h.div(
    { class: "foot", hidden: kept.length === 0 },
    h.p({ class: "help" }, "They are in this browser only."),
    button("Forget them", forget),
  );
  const { show } = openSearch("Earlier prompts", "Search prompts", {
    textOf: (text) => text,
    contentOf: (text) => h.span({ class: "prompt-words" }, text),
    none: (all) => (all.length ? "No prompt has these words." : "None yet."),
    choose: (prompt) => {
      use(prompt);
      byId("fields").querySelector(".prompt textarea")?.focus();
    },
    most: MOST_SHOWN,
    foot,
  });
  show(kept);
}
