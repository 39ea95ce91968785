// Main module of the page: creates its parts and connects them.

import { Api, Refused } from "./client/api.js";
import * as json from "./client/json.js";
import { keyIn, KeptKey } from "./client/key.js";
import { Models } from "./client/models.js";
import { Uploads } from "./client/uploads.js";
import { ProgramDialog } from "./code/program.js";
import { showFacts, showModels } from "./form/chooser.js";
import { forgetDraft } from "./form/draft.js";
import { showExamples } from "./form/examples.js";
import { InputForm } from "./form/form.js";
import { fieldsOf } from "./form/schema.js";
import { listenForDrops } from "./history/drops.js";
import { Recent } from "./history/recent.js";
import { Address, takeKey } from "./interface/address.js";
import { Door } from "./interface/door.js";
import { byId } from "./interface/element.js";
import { listenForShortcuts } from "./interface/shortcuts.js";
import { listenForTheme } from "./interface/theme_switch.js";
import { Views } from "./interface/views.js";
import { aspectOf } from "./results/aspect.js";
import { Details } from "./results/details.js";
import { promptOf } from "./results/sheet.js";
import { Stage } from "./results/stage.js";

const AGAIN_MS = 2000;
const WRONG_KEY =
  "This key is not valid here. Copy the whole key, and check that it belongs to this Darkroom.";
const OTHER_KEY = "The link that you followed has another key than this browser. Open it to use it.";
const NOUNS = { image: "an image", video: "a video", audio: "the audio" };

const linked = takeKey(); // before anything else reads the address
const key = new KeptKey();
const api = new Api(key);
const models = new Models(api);
const uploads = new Uploads(api);
const address = new Address(moved);
const form = new InputForm({ upload: (...given) => uploads.send(...given) });
const program = new ProgramDialog(address);
let model = null; // the chosen one, with its schema
let listed = [];

const act = {
  again: useAgain,
  vary: (request) => repeat(request, 1),
  four: (request) => repeat(request, 4),
  cancel,
  details: ({ id }) => details.show(id),
  code: ({ endpoint, input }) => program.show({ endpoint, input }),
  ended,
};
const details = new Details(api, act, address);
const stage = new Stage(api, act);
const recent = new Recent(api, act);
const views = new Views({ api, act, address, announce, models, follow: moved });
const door = new Door({
  enter: async (given) => {
    if (given !== key.value) {
      stage.clear();
      views.clear();
    }
    key.keep(given);
    models.forget();
    await enter();
  },
  back: () => (listed.length ? door.close() : enter()),
  forget: () => {
    key.keep(null);
    listed = [];
    models.forget();
    form.clear();
    forgetDraft();
    recent.stop();
    stage.clear();
    views.clear();
    door.open();
  },
});

async function enter() {
  showLast();
  const wanted = address.now.model;
  if (wanted !== null) models.one(wanted).catch(() => {}); // at the same time as the list
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
  showModels(listed);
  stage.restore();
  recent.look();
  await choose(wantedModel());
  showLatest();
  moved();
}

/** Shows the form of the model that was used last, before the server answers. */
function showLast() {
  const { last } = models;
  const wanted = address.now.model ?? last?.id;
  if (model !== null || last === null || last.id !== wanted) return;
  showModels([last]);
  showModel(last);
}

function served() {
  return listed.filter(({ away }) => away === "");
}

/** Id of the model in the page's address, or of the one that was used last, or of the first one. */
function wantedModel() {
  const wanted = [address.now.model, models.last?.id];
  return wanted.find((id) => served().some((each) => each.id === id)) ?? served()[0]?.id;
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
  const same = model !== null && json.write(model) === json.write(chosen);
  model = chosen;
  models.keep(model);
  address.correct({ model: model.id });
  if (same) return; // nothing is drawn again under the user's hands
  form.show(model);
  byId("inputs").scrollTop = 0;
  showFacts(model);
  showExamples(model, (input) => form.change(input));
  byId("empty-words").textContent = `Describe ${NOUNS[model.makes] ?? "what you want"} and generate it.`;
  complain("");
}

/** Shows the latest result on an empty stage, such as in a new browser. */
async function showLatest() {
  if (!stage.empty) return;
  try {
    const page = await api.call("GET", "v1/requests?limit=1&state=succeeded");
    const [latest] = page.requests;
    if (latest === undefined || !stage.empty) return;
    const { endpoint_id: endpoint, request_id: id, created_at: at } = latest;
    const input = { prompt: latest.prompt ?? "" };
    stage.add({ id, endpoint, input, ...namesOf(endpoint), at: Date.parse(at), restored: true });
  } catch {
    // The stage stays empty.
  }
}

/** Goes back to the form, as a new entry of the history. */
function leaveView() {
  address.go({ ...Object.fromEntries(Object.keys(address.now).map((name) => [name, null])), model: model?.id ?? null });
  views.follow(address.now);
}

function namesOf(endpoint) {
  const { name, demo, makes } = listed.find(({ id }) => id === endpoint) ?? {};
  return { name, demo, makes };
}

/** Shows what the address names, after Back, Forward, or a change by hand. */
async function moved() {
  const given = takeKey();
  if (given !== null) return openLink(given);
  if (door.isOpen) return;
  const { model: wanted, request, code } = address.now;
  views.follow(address.now);
  details.follow(request);
  program.follow(code);
  if (wanted !== null && wanted !== model?.id && served().some(({ id }) => id === wanted))
    await choose(wanted);
}

async function generate() {
  if (model === null) return;
  complain("");
  const chosen = model;
  const input = form.read();
  if (input === null) return;
  form.keep();
  const button = byId("generate");
  button.setAttribute("aria-busy", "true");
  try {
    await submit(chosen, input);
  } catch (error) {
    const homeless =
      error instanceof Refused && error.problems.length && chosen === model
        ? form.tell(error.problems)
        : [wordsOf(error)];
    complain(homeless.join(" "));
  } finally {
    button.removeAttribute("aria-busy");
  }
}

async function submit(chosen, input) {
  const at = Date.now();
  const path = `queue/${chosen.id.split("/").map(encodeURIComponent).join("/")}`;
  const told = await api.call("POST", path, input);
  const { id: endpoint, name, demo, makes } = chosen;
  const aspect = aspectOf(input, defaultsOf(chosen), makes, sourceSides());
  stage.add({ id: told.request_id, endpoint, input, name, demo, makes, aspect, at });
  announce("Submitted.");
  recent.look();
  stage.reveal();
}

function wordsOf(error) {
  return error instanceof Refused
    ? error.message
    : "Darkroom did not answer, so this request may or may not have been accepted. Check the list of requests before you try again.";
}

function defaultsOf({ input }) {
  const fields = input ? fieldsOf(input) : [];
  return Object.fromEntries(fields.map(({ name, fallback }) => [name, fallback]));
}

/** Sides of the input image in the form, or null. */
function sourceSides() {
  const image = byId("fields").querySelector(".media-preview img");
  return image?.naturalWidth > 0 ? [image.naturalWidth, image.naturalHeight] : null;
}

function ended({ endpoint, input, restored }, { error }) {
  if (!restored) announce(error ? error.message : `Finished: ${promptOf(input)}`);
  if (error?.problems.length && endpoint === model?.id && !restored)
    form.tell(error.problems, { go: false });
  recent.look();
}

/** Fills the form so that it makes the same result: with the seed that was drawn. */
async function useAgain({ id, endpoint, input, seed, restored }) {
  const whole = restored ? await wholeInput(id, input) : input;
  if (views.current !== null) leaveView();
  if (byId("model").value !== endpoint) await choose(endpoint);
  form.fill(seed === undefined || seed === null ? whole : { ...whole, seed });
  form.keep();
  scrollTo({ top: 0 });
  byId("fields").querySelector("textarea, input")?.focus();
}

/** Submits the input again with other seeds: `count` results. */
async function repeat({ id, endpoint, input, restored }, count) {
  try {
    const chosen = await models.one(endpoint);
    const { seed: _seed, seeds: _seeds, ...rest } = restored ? await wholeInput(id, input) : input;
    const most = chosen.input
      ? fieldsOf(chosen.input).find(({ name }) => name === "num_images")?.most
      : undefined;
    const together = count > 1 && most >= count;
    const body = together ? { ...rest, num_images: count } : rest;
    for (let made = 0; made < (together ? 1 : count); made += 1) await submit(chosen, body);
  } catch (error) {
    complain(wordsOf(error));
  }
}

/** Input of a request as the server has it; what this tab kept may lack files. */
async function wholeInput(id, kept) {
  try {
    return (await api.call("GET", `v1/requests/${encodeURIComponent(id)}`)).input ?? kept;
  } catch {
    return kept;
  }
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

/** Uses the key of a one-time link. It replaces a stored key only when the user agrees: otherwise any
 * link could make the page work for somebody else. */
function openLink(given) {
  const found = keyIn(given);
  if (key.value !== null && key.value !== found) {
    door.open({ why: OTHER_KEY, kept: true, key: found ?? given });
    return;
  }
  if (found === null) door.open({ why: "The key in this link is not complete." });
  else door.use(found);
}

function contact(there) {
  byId("connection").hidden = there;
  stage.contact(there);
}

api.addEventListener("unreachable", () => contact(false));
api.addEventListener("reached", () => contact(true));
api.addEventListener("locked", () => {
  if (!door.isOpen) door.open({ why: "The key is no longer valid. Paste another one." });
});
byId("model").addEventListener("change", async () => {
  const id = byId("model").value;
  address.go({ model: id });
  await choose(id);
});
byId("key-button").addEventListener("click", () => door.open({ kept: true }));
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
byId("code-button").addEventListener("click", () => {
  if (model !== null) program.show({ endpoint: model.id, input: form.read({ draft: true }) });
});
listenForShortcuts({ generate });
listenForTheme();
listenForDrops((file) =>
  import("./history/origin.js").then(
    ({ showOrigin }) => showOrigin(file, { models: listed, act }),
    () => announce("This part of the page could not be loaded. Try again."),
  ),
);

if (linked !== null) openLink(linked);
else if (key.value === null) door.open();
else enter();
