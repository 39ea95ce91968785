// Choice of a model: those that are served, by what they make, and the others.

import { byId, h } from "../interface/element.js";

const GROUPS = {
  "text-to-image": "Images",
  "image-to-image": "Images from images",
  "text-to-video": "Videos",
  "image-to-video": "Videos from images",
  "text-to-audio": "Audio",
};
const OTHERS = "Others";

/** Notice over the form of a demo model that has no sentence of its own. */
const DEMO = "It knows a few words only.";

/** Shows the list of models. */
export function showModels(listed) {
  const served = listed.filter(({ away }) => away === "");
  const groups = Map.groupBy(served, ({ category }) => GROUPS[category] ?? OTHERS);
  const order = [...Object.values(GROUPS), OTHERS].filter((name) => groups.has(name));
  byId("model").replaceChildren(
    ...order.map((label) => h.optgroup({ label }, groups.get(label).map(option))),
  );
  byId("no-models").hidden = served.length > 0;
  const away = listed.filter((model) => model.away !== "");
  byId("away").hidden = away.length === 0;
  byId("away-count").textContent =
    away.length === 1 ? "1 model is not served here" : `${away.length} models are not served here`;
  const reasons = Map.groupBy(away, (model) => model.away);
  byId("away-list").replaceChildren(
    ...[...reasons].flatMap(([reason, models]) => [
      h.p(reason),
      h.ul(models.map(({ name, id }) => h.li({ title: id }, name))),
    ]),
  );
}

function option({ id, name, demo }) {
  return h.option({ value: id }, name, demo ? " (demo)" : "");
}

/** Shows the facts of the chosen model. */
export function showFacts(model) {
  const facts = [model.id, model.licence].filter(Boolean).join(" · ");
  byId("model-about").replaceChildren(model.description, h.span({ class: "facts" }, facts));
  byId("model-demo").hidden = !model.demo;
  byId("model-demo-name").textContent = model.name;
  byId("model-demo-about").textContent = model.aboutDemo || DEMO;
}
