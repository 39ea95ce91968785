// Main module of the page: creates its parts and connects them.

import { Api, Refused } from "./api.js";
import { Details } from "./details.js";
import { Door } from "./door.js";
import { byId, element } from "./element.js";
import { InputForm } from "./form.js";
import { KeptKey } from "./key.js";
import { Models } from "./models.js";
import { ProgramDialog } from "./program.js";
import { Recent } from "./recent.js";
import { fieldsOf } from "./schema.js";
import { promptOf } from "./sheet.js";
import { Stage } from "./stage.js";

const AGAIN_MS = 2000;
const WRONG_KEY =
  "This key is not valid here. Copy the whole key, and check that it belongs to this Darkroom.";

const key = new KeptKey();
const api = new Api(key);
const models = new Models(api);
const form = new InputForm();
const program = new ProgramDialog();
let model = null; // the chosen one, with its schema
let listed = [];

const act = {
  again: useAgain,
  cancel,
  details: ({ id }) => details.show(id),
  code: ({ endpoint, input }) => program.show({ endpoint, input }),
  ended,
};
const details = new Details(api, act);
const stage = new Stage(api, act);
const recent = new Recent(api, act);
const door = new Door({
  enter: async (given) => {
    if (given !== key.value) stage.clear();
    key.keep(given);
    models.forget();
    await enter();
  },
  forget: () => {
    key.keep(null);
    recent.stop();
    stage.clear();
    door.open();
  },
});

async function enter() {
  try {
    listed = await models.list();
  } catch (error) {
    if (error instanceof Refused && !error.passing) {
      door.open({ why: error.status === 401 ? WRONG_KEY : error.message });
    } else {
      setTimeout(enter, AGAIN_MS);
    }
    return;
  }
  door.close();
  showModels();
  stage.restore();
  recent.look();
  await choose(wantedModel());
}

function showModels() {
  const option = ({ id, name, demo, away }) =>
    element(
      "option",
      { value: id, disabled: away !== "", title: away },
      name,
      demo ? " (demo)" : "",
      away ? " (not served)" : "",
    );
  byId("model").replaceChildren(...listed.map(option));
  byId("no-models").hidden = served().length > 0;
}

function served() {
  return listed.filter(({ away }) => away === "");
}

/** Id of the model in the page's address, or of the first one. */
function wantedModel() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("model");
  return served().some(({ id }) => id === wanted) ? wanted : served()[0]?.id;
}

async function choose(id) {
  if (id === undefined) return;
  byId("model").value = id;
  let found;
  try {
    found = await models.one(id);
  } catch {
    setTimeout(() => byId("model").value === id && choose(id), AGAIN_MS);
    return;
  }
  // The user may have chosen another model while this one was loading.
  if (found !== null && found !== model && byId("model").value === id) showModel(found);
}

function showModel(chosen) {
  model = chosen;
  history.replaceState(null, "", `#model=${encodeURIComponent(model.id)}`);
  form.show(model);
  const facts = [model.id, model.licence].filter(Boolean).join(" · ");
  byId("model-about").replaceChildren(
    model.description,
    " ",
    element("span", { class: "facts" }, facts),
  );
  byId("model-demo").hidden = !model.demo;
  byId("model-demo-name").textContent = model.name;
  complain("");
}

async function generate() {
  if (model === null) return;
  complain("");
  const chosen = model;
  const input = form.read();
  if (input === null) return;
  const button = byId("generate");
  button.setAttribute("aria-busy", "true");
  try {
    const path = `queue/${chosen.id.split("/").map(encodeURIComponent).join("/")}`;
    const told = await api.call("POST", path, input);
    show(chosen, told.request_id, input);
  } catch (error) {
    if (!(error instanceof Refused)) {
      complain(
        "Darkroom did not answer, so this request may or may not have been accepted. Check the list of requests before you try again.",
      );
      return;
    }
    const homeless =
      error.problems.length && chosen === model ? form.tell(error.problems) : [error.message];
    complain(homeless.join(" "));
  } finally {
    button.removeAttribute("aria-busy");
  }
}

function show(chosen, id, input) {
  const size = chosen.input
    ? fieldsOf(chosen.input).find(({ kind }) => kind === "size")?.fallback
    : undefined;
  const { id: endpoint, name, demo } = chosen;
  stage.add({ id, endpoint, input, name, demo, usualSize: size });
  announce("Submitted.");
  recent.look();
  if (matchMedia("(max-width: 56rem)").matches)
    byId("stage").scrollIntoView({ behavior: "smooth" });
}

function ended({ endpoint, input, restored }, { error }) {
  announce(error ? error.message : `Finished: ${promptOf(input)}`);
  if (error?.problems.length && endpoint === model?.id && !restored)
    form.tell(error.problems, { go: false });
  recent.look();
}

async function useAgain({ endpoint, input }) {
  if (byId("model").value !== endpoint) await choose(endpoint);
  form.fill(input);
  byId("fields").querySelector("textarea, input")?.focus();
}

async function cancel({ id }) {
  try {
    const here = await stage.cancel(id);
    if (!here) await api.call("PUT", `v1/requests/${encodeURIComponent(id)}/cancel`);
  } catch (error) {
    announce(`The request could not be cancelled: ${error.message}`);
  }
  recent.look();
}

function complain(words) {
  byId("form-problem").textContent = words;
  byId("form-problem").hidden = words === "";
}

/** Announces a message to screen readers. */
function announce(words) {
  byId("announcer").textContent = words;
}

api.addEventListener("unreachable", () => (byId("connection").hidden = false));
api.addEventListener("reached", () => (byId("connection").hidden = true));
api.addEventListener("locked", () => {
  if (byId("door").hidden) door.open({ why: "The key is no longer valid. Paste another one." });
});
byId("model").addEventListener("change", () => choose(byId("model").value));
byId("key-button").addEventListener("click", () => door.open({ kept: true }));
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
document.addEventListener("keydown", (event) => {
  const wanted = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  if (!wanted || byId("work").hidden || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  generate();
});
byId("code-button").addEventListener("click", () => {
  if (model !== null) program.show({ endpoint: model.id, input: form.read({ draft: true }) });
});

if (key.value === null) door.open();
else enter();
