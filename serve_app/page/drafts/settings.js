// How many drafts the page makes, and how far: remembered in this browser.

import { keep, read } from "../client/storage.js";
import { byId, freshId, h } from "../interface/element.js";

const PLACE = "darkroom.drafting";
const COUNTS = [2, 4, 8, 16];
const USUAL = { count: 4, until: 0.25 };
const LEAST_PERCENT = 5;
const MOST_PERCENT = 90;

/** `{count, until}`: the number of drafts, and the share of the steps that each makes. */
export function drafting() {
  const { count, until } = read(PLACE) ?? USUAL;
  const percent = 100 * until;
  return {
    count: COUNTS.includes(count) ? count : USUAL.count,
    until: percent >= LEAST_PERCENT && percent <= MOST_PERCENT ? until : USUAL.until,
  };
}

/** Shows the settings above the buttons of the form, or hides them. `button` controls them. */
export function toggleSettings(button) {
  const panel = byId("draft-settings") ?? newPanel();
  const open = button.getAttribute("aria-expanded") !== "true";
  panel.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
  if (open) panel.querySelector("input:checked").focus();
}

function newPanel() {
  const { count, until } = drafting();
  const id = freshId("until");
  const radios = COUNTS.map((each) => {
    const input = h.input({ type: "radio", name: "draft-count", value: each });
    input.checked = each === count;
    return h.label(input, h.span(String(each)));
  });
  const share = h.output({ for: id });
  const slider = h.input({
    id,
    type: "range",
    min: LEAST_PERCENT,
    max: MOST_PERCENT,
    step: 5,
    value: Math.round(100 * until),
  });
  const show = () => {
    share.textContent = `${slider.value} %`;
    slider.setAttribute("aria-valuetext", `${slider.value} % of the steps`);
  };
  const input = () => {
    const chosen = Number(panel.querySelector("input:checked").value);
    show();
    keep(PLACE, { count: chosen, until: slider.value / 100 });
  };
  const group = { class: "counts", role: "radiogroup", "aria-label": "Number of drafts" };
  const panel = h.div(
    {
      id: "draft-settings",
      role: "group",
      "aria-label": "Draft settings",
      hidden: true,
      input,
    },
    h.span({ "aria-hidden": "true" }, "Drafts"),
    h.div(group, radios),
    h.label({ for: id }, "Steps of each"),
    h.div({ class: "share" }, slider, share),
    h.p({ class: "help" }, "More steps show more of the result. Finishing makes the rest."),
  );
  show();
  byId("form").querySelector("#send .buttons").before(panel);
  document.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape" || panel.hidden || document.querySelector("dialog[open]")) return;
    const button = byId("draft-settings-button");
    toggleSettings(button);
    button.focus();
  });
  return panel;
}
