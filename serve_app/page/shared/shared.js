// Page of a share link: a request and its files, for people without a key.

import * as json from "../client/json.js";
import { resultsOf } from "../gallery/collection.js";
import { listOf, settingsOf } from "../gallery/large/facts.js";
import { byId, h } from "../interface/element.js";
import { clock, STATES } from "../interface/words.js";
import { fileFigure, filesIn } from "../results/media.js";

const GONE = "This link does not work. It may have ended, or its owner revoked it.";

async function show() {
  const place = byId("shared");
  try {
    // The link itself answers programs with JSON.
    const answer = await fetch(location.href, { headers: { accept: "application/json" } });
    if (answer.status >= 500 || answer.status === 429) throw new Error("It may answer later.");
    const shared = answer.ok ? json.parse(await answer.text()) : null;
    place.replaceChildren(...(shared === null ? problem(GONE) : parts(shared)));
  } catch {
    place.replaceChildren(...problem("Darkroom does not answer. Try again later."));
  }
  place.removeAttribute("aria-busy");
}

function parts({ endpoint_id: endpoint, state, input, created_at: at, ...request }) {
  const prompt = typeof input.prompt === "string" ? input.prompt : "";
  const figures = resultsOf(request).flatMap(filesIn).map((file) => fileFigure(file, prompt));
  document.title = prompt || endpoint;
  const facts = { Model: endpoint, Seed: input.seed, Made: clock(at), ...settingsOf(input) };
  const made = h.div({ class: "made", "data-files": figures.length }, figures);
  if (figures.length === 0)
    made.append(h.p({ class: "help" }, `${STATES[state] ?? state}. There is no file.`));
  return [
    made,
    h.section(
      { "aria-label": "About it" },
      h.h2({ class: "prompt-words" }, prompt || endpoint),
      listOf(facts),
    ),
  ];
}

function problem(words) {
  return [h.p({ class: "lead" }, words)];
}

show();
