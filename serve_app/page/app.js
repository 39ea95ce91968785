// Main module of the page: creates its parts and connects them.

import { Api, Refused } from "./client/api.js";
import { Caller } from "./client/caller.js";
import * as json from "./client/json.js";
import { KeptKey } from "./client/key.js";
import { Models } from "./client/models.js";
import { SignIn } from "./client/sign_in.js";
import { Store, UNKNOWN } from "./client/store.js";
import { submitted } from "./client/watch.js";
import { showFacts, showModels } from "./form/chooser.js";
import { forgetDraft } from "./form/draft.js";
import { DemoWords } from "./form/demo_words.js";
import { estimable, EstimateLine } from "./form/estimate.js";
import { showExamples } from "./form/examples.js";
import { InputForm } from "./form/form.js";
import { fieldsOf } from "./form/schema.js";
import { Submitter } from "./form/submitter.js";
import { forgetUsed, LORAS, PROMPTS } from "./form/used.js";
import { listenForDrops } from "./history/drops.js";
import { Recent } from "./history/recent.js";
import { Attention } from "./interface/attention.js";
import { Address, takeLink } from "./interface/address.js";
import { endWork, followWork } from "./interface/dialog.js";
import { Door } from "./interface/door.js";
import { byId, tell } from "./interface/element.js";
import { loaded, tool } from "./interface/late.js";
import { listenForShortcuts } from "./interface/shortcuts.js";
import { listenForTheme } from "./interface/theme_switch.js";
import { announce, say } from "./interface/toast.js";
import { Views } from "./interface/views.js";
import { promptOf } from "./results/sheet.js";
import { Stage } from "./results/stage.js";
import { effect, untracked } from "./vendored/signals.js";

const AGAIN_MS = 2000;
const NOT_LOADED = "The form of this model could not be loaded. Try again.";
const NOUNS = { image: "an image", video: "a video", audio: "the audio" };

const linked = takeLink(); // before anything else reads the address
const key = new KeptKey(forget);
const api = new Api(key);
const signIn = new SignIn(api);
const answer = signIn.takeAnswer();
const store = new Store(api);
const models = new Models(api, store.models);
const caller = new Caller(api, store.grants);
let details = null; // promise of the dialog of one request
let uploads = null; // promise of the client of the upload calls, which only large files need
const address = new Address(moved);
const form = formIn();
let program = null; // the dialog of the code, when it is loaded
let goingOn = null; // the draft that the form goes on from, when there is one
let accepted = null; // the last key that the server took, and the person of its sign-in
let owner = key.value; // key whose requests this tab shows
let attempt = 0; // number of the latest one to enter; an earlier one does nothing more
let again = null; // timer of its next try
let offer = null; // promise of the offer of a real model, when there is one

const act = {
  again: useAgain,
  attempt: (id, input) => fillForm(id, input),
  vary: (request) => submitter.repeat(request, 1),
  four: (request) => submitter.repeat(request, 4),
  cancel,
  details: ({ id }) => withDetails((made) => made.show(id)),
  code: showCode,
  formIn,
  generate: async (...given) => {
    const here = location.hash;
    if ((await submitter.generate(...given)) && location.hash === here) leaveView();
  },
  useAsInput,
  ended,
  cell: (request) => submitter.cell(request),
  models,
  write: (id, input) => (id === store.model.peek()?.id ? changeForm(input) : fillForm(id, input)),
  say: (node, text) =>
    tool("text").then(
      ({ showText }) => showText(node, text, useAsPrompt),
      () => {}, // the whole output is shown
    ),
  lightTable: async (request, output) => {
    const { LightTable } = await tool("lightTable");
    return new LightTable({ request, output, api, act }).node;
  },
  unknownWords: async (request, words) => {
    const { unknownWords } = await realModels();
    const draw = (real) => submitter.drawWith(real.id, promptOf(request.input));
    return unknownWords(words, { api, models: store.models.peek(), draw });
  },
  finish: (...given) => submitter.finish(...given),
  fork: async (request, draft, origin) => {
    const base = await submitter.baseOf(request, draft);
    await fillForm(request.endpoint, { ...base, from_draft: draft.id }, origin);
  },
  showDraft,
  drafts: (request) => {
    if (views.current !== null) leaveView();
    stage.bring({ ...request, ...namesOf(request.endpoint) });
  },
  prepareGrids: () => submitter.loadGrids().catch(() => {}),
};
const page = { api, act, address, caller, models, store, follow: moved };
const stage = new Stage(page);
const recent = new Recent(page);
const views = new Views(page);
const demoWords = new DemoWords();
const estimate = new EstimateLine(api, () => {
  const model = store.model.peek();
  return model === null || !byId("form").checkVisibility() ? null : estimable(model, entered());
});
const attention = new Attention();
const own = { announce, complain, use, goingOn: () => goingOn };
const submitter = new Submitter({ api, models, form, stage, cancel, ...own });
const door = new Door({
  signIn,
  kept: key,
  locked: store.locked,
  enter: async (given) => {
    if (given !== key.value) store.models.value = UNKNOWN;
    store.changes.stop(); // they are those of the key before
    key.keep(given);
    caller.forget();
    models.forget();
    await enter();
  },
  back: () => {
    if (store.models.peek() === UNKNOWN) return enter();
    door.close();
    followChanges();
  },
  forget,
  asked: stopEntering,
});

/** Form of a model, with `complain`, in `place`: both are the page's own by default. */
function formIn(place, report = complain) {
  const made = new InputForm(
    {
      upload: async (...given) => {
        uploads ??= tool("uploads").then(({ Uploads }) => new Uploads(api));
        uploads.catch(() => (uploads = null));
        return await (await uploads).send(...given);
      },
      sign: async (path) =>
        (await api.call("POST", "v1/files/sign", { path, expires_in: 3600 })).url,
      edit: (name, field, control) =>
        use(name, async ({ edit }) => {
          await made.renew();
          await edit(control, made.rows, field, api, address);
        }, report),
      describe: (_, control) =>
        tool("loras").then(({ describe }) => describe(control, made.rows, api), () => {}),
      recall: () =>
        use("prompts", ({ recall }) => recall((prompt) => changeForm({ prompt }, made)), report),
    },
    place,
  );
  return made;
}

function forget() {
  stopEntering();
  closeDialogs(); // of another tab: they would be over the form for the key
  key.keep(null);
  accepted = null;
  caller.forget();
  store.models.value = UNKNOWN;
  store.model.value = null;
  models.forget();
  goingOn?.leave();
  form.clear();
  forgetDraft();
  forgetUsed(PROMPTS, LORAS);
  clearShown();
  announce("");
  door.open();
}

/** Clears what belongs to the key that was used before. */
function clearShown() {
  owner = key.value;
  recent.clear();
  stage.clear();
  views.clear();
}

/** Ends the attempt to enter, which goes on while Darkroom does not answer: it would close the form. */
function stopEntering() {
  clearTimeout(again);
  attempt += 1;
}

async function enter() {
  stopEntering();
  const mine = attempt;
  showLast();
  const wanted = address.now.model;
  if (wanted !== null) models.one(wanted).catch(() => {}); // at the same time as the list
  try {
    await models.list();
    if (mine !== attempt) return;
  } catch (error) {
    if (mine !== attempt) return;
    if (error instanceof Refused && !error.passing) door.refuse(error, takeBack());
    else again = setTimeout(enter, AGAIN_MS);
    return;
  }
  if (owner !== key.value) clearShown();
  accepted = { key: key.value, person: signIn.person };
  door.close();
  caller.look().catch(() => {}); // the store has its scopes
  const restored = stage.restore();
  followChanges();
  await choose(wantedModel());
  await restored;
  showLatest();
  moved();
}

function followChanges() {
  store.changes.start();
  recent.follow();
}

/** Keeps the key that was in use before another one was refused. False if there was none. */
function takeBack() {
  if (accepted === null || accepted.key === key.value) return false;
  key.keep(accepted.key);
  signIn.remember(accepted.person);
  caller.forget();
  models.forget();
  return true;
}

/** Shows the form of the model that was used last, before the server answers. */
function showLast() {
  const { last } = models;
  const wanted = address.now.model ?? last?.id;
  if (store.model.peek() !== null || last === null || last.id !== wanted) return;
  store.models.value = [last];
  showModel(last);
}

function isServed(id) {
  return store.served.peek().some((each) => each.id === id);
}

/** Id of the model in the page's address, or of the one that was used last, or of the first one. */
function wantedModel() {
  const wanted = [address.now.model, models.last?.id];
  return wanted.find(isServed) ?? store.served.peek()[0]?.id;
}

/** Shows the form of the model `id`. Does nothing if it is not served. */
async function choose(id) {
  if (id === undefined) return;
  // It may have been added since the page was opened. The connection status reports an error.
  if (!isServed(id)) await models.list().catch(() => {});
  if (!isServed(id)) return;
  byId("model").value = id;
  let found;
  try {
    found = await models.one(id);
  } catch {
    setTimeout(() => byId("model").value === id && choose(id), AGAIN_MS);
    return;
  }
  // The user may have chosen another model while this one was loading.
  if (found !== null && byId("model").value === id) showModel(found);
}

function showModel(chosen) {
  const before = store.model.peek();
  models.keep(chosen);
  address.correct({ model: chosen.id });
  // Nothing is drawn again under the user's hands.
  if (json.write(before) !== json.write(chosen)) store.model.value = chosen;
}

function drawModel(model) {
  goingOn?.leave();
  form.show(model);
  byId("draft-buttons").hidden = !model.drafts;
  byId("grid-button").hidden = model.input === null || fieldsOf(model.input).length === 0;
  byId("inputs").scrollTop = 0;
  showFacts(model);
  showExamples(model, (input) => {
    changeForm(input);
    goingOn?.leave();
  });
  byId("empty-words").textContent = `Describe ${NOUNS[model.makes] ?? "what you want"} and generate it.`;
  complain("");
  demoWords.show(model);
  estimate.soon();
}

/** Calls `what` with the dialog of one request. */
async function withDetails(what) {
  try {
    details ??= loaded(() => import("./results/details.js"), "results/details.css").then(
      ({ Details }) => new Details(page),
    );
    what(await details);
  } catch (error) {
    details = null;
    say(error.message);
  }
}

function realModels() {
  return loaded(() => import("./models/real_model.js"));
}

/** Offers the first of `models` that is a real one and runs without a GPU. */
function offerReal(models) {
  if (offer === null && !models.some(({ cpu, demo }) => cpu && !demo)) return;
  offer ??= realModels().then(({ RealModelOffer }) => {
    const made = new RealModelOffer(page);
    byId("real-model").append(made.node);
    return made;
  });
  offer.then((made) => made.show(models), () => (offer = null));
}

/** Shows the latest result on an empty stage, such as in a new browser. */
async function showLatest() {
  if (!stage.empty) return;
  try {
    const page = await api.call("GET", "v1/requests?limit=1&state=succeeded");
    const [latest] = page.requests;
    if (latest === undefined || !stage.empty) return;
    const known = submitted({ ...latest, input: { prompt: latest.prompt ?? "" } });
    stage.add({ ...known, ...namesOf(known.endpoint), restored: true, cut: true });
  } catch {
    // The stage stays empty.
  }
}

/** Goes back to the form, as a new entry of the history. */
function leaveView() {
  address.go({ ...Object.fromEntries(Object.keys(address.now).map((name) => [name, null])), model: store.model.peek()?.id ?? null });
  views.follow(address.now);
}

function namesOf(endpoint) {
  const { name, demo, makes } = store.models.peek().find(({ id }) => id === endpoint) ?? {};
  return { name, demo, makes };
}

/** Shows what the address names, after Back, Forward, or a change by hand. */
async function moved() {
  const given = takeLink();
  if (given !== null) return door.follow(given);
  if (door.isOpen || followWork(address)) return;
  const { model: wanted, request, code } = address.now;
  views.follow(address.now);
  estimate.soon();
  if (request !== null || details !== null) withDetails((made) => made.follow(address.now.request));
  if (program !== null) program.follow(code);
  else if (code !== null) address.correct({ code: null }); // what it showed is not known any more
  if (wanted !== null && wanted !== store.model.peek()?.id && isServed(wanted)) await choose(wanted);
}

function ended({ id, endpoint, input, restored, at }, { error }) {
  recent.show(); // with the image of the card
  if (!restored) announce(error ? error.message : `Finished: ${promptOf(input)}`);
  if (error?.problems.length && endpoint === store.model.peek()?.id && !restored)
    form.tell(error.problems, { go: false });
  if (!restored) attention.ended({ id, at }, promptOf(input));
}

/** Fills the form so that it makes the same result: with the seed that was drawn. */
async function useAgain(request) {
  const { endpoint, input, seed, restored, origin } = request;
  let whole = input;
  try {
    // The server has drawn the seed of new noise.
    if (restored || input.new_noise) whole = await submitter.whole(request);
  } catch (error) {
    complain(error.message);
    return;
  }
  await fillForm(endpoint, seed === undefined || seed === null ? whole : { ...whole, seed }, origin);
}

/** Writes `input` over what the form has. */
function changeForm(input, changed = form) {
  const back = changed.holding(input, { partly: true });
  changed.change(input);
  if (changed === form) offerUndo(back, goingOn?.given);
}

/** Offers to bring back what was entered for `before`, the model then, and the draft `from`. */
function offerUndo(back, from, before = store.model.peek()) {
  if (back === null) return;
  const undo = async () => {
    goingOn?.leave();
    if (views.current !== null) leaveView();
    await choose(before.id);
    if (store.model.peek()?.id !== before.id) return complain(NOT_LOADED);
    back();
    if (from) await goOn(from);
    form.focus();
  };
  say("The form was filled. What you had entered was replaced.", { name: "Undo", call: undo });
}

function goOn(given) {
  const left = () => (goingOn = null);
  return use("goingOn", ({ GoingOn }) => {
    goingOn?.leave();
    goingOn = new GoingOn({ ...given, api, complain, form, left });
  });
}

/** Fills the form of `endpoint`; with null as the input, keeps what is entered. With `from_draft` it goes
 * on from that draft, whose place on the stage is `origin`, if known. */
async function fillForm(endpoint, input, origin) {
  const [before, from] = [store.model.peek(), goingOn?.given];
  const back = input === null ? null : form.holding(input);
  if (views.current !== null) leaveView();
  if (before?.id !== endpoint) await choose(endpoint);
  if (store.model.peek()?.id !== endpoint) {
    // The form of another model is not filled with what it was not meant for.
    complain(isServed(endpoint) ? NOT_LOADED : `This Darkroom does not serve ${endpoint}.`);
    return;
  }
  goingOn?.leave();
  if (input !== null) form.fill(input);
  form.keep();
  offerUndo(back, from, before);
  const { from_draft: id, new_noise: noise, noise_seed: noiseSeed, ...base } = input ?? {};
  if (id) await goOn({ id, base, noise, noiseSeed, origin });
  scrollTo({ top: 0 });
  form.focus();
}

/** What the form would submit, without values that are not valid. */
function entered() {
  const input = form.read({ draft: true });
  return goingOn?.applied(input) ?? input;
}

/** Makes drafts of what is in the form. */
function draft() {
  const model = store.model.peek();
  if (!model?.drafts || goingOn !== null) return;
  use("draftSettings", ({ drafting }) => submitter.generate(model, { draft: drafting() }));
}

/** Goes to a draft on its light table, or else to the details of its request. */
function showDraft({ request, id }) {
  const preview = document.querySelector(`[data-draft="${CSS.escape(id)}"]`);
  if (preview === null) return act.details({ id: request });
  preview.scrollIntoView({ block: "center" });
  preview.focus({ preventScroll: true });
}

/** True if the user sees an input of the form that takes such a file. */
function hasInput(kind) {
  return document.querySelector("dialog[open]") === null && form.inputFor(kind) !== null;
}

/** Closes the dialogs, and takes them out of the address, in which Back would undo what follows. With
 * `aside`, a dialog of a tool comes back when the user has signed in again. */
function closeDialogs({ aside = false } = {}) {
  endWork(address, { aside });
  address.correct({ request: null, item: null, code: null });
  for (const each of document.querySelectorAll("dialog[open]")) each.close();
}

/** Uses `file`, `{url, type, name, kind}` of a result, or with itself as `local` and those that came with
 * it as `others`. A file of this machine goes into an input in sight; otherwise the user chooses which
 * model takes it. */
async function useAsInput(file) {
  if (file.local && hasInput(file.kind)) {
    form.put(form.inputFor(file.kind), file);
    announce(`Input: ${file.name}`);
    return;
  }
  const put = async ({ id }, { name, title }) => {
    const isNew = views.current !== null; // one entry of the history, for the view and the model
    if (isNew) leaveView();
    if (store.model.peek()?.id !== id) {
      if (isNew) address.correct({ model: id });
      else address.go({ model: id });
      await choose(id);
    }
    if (store.model.peek()?.id !== id) return; // the user has gone on, or the server does not answer
    form.put(name, file);
    announce(`${title}: ${file.name}`);
  };
  await chooseFor(file, put);
}

/** Lets the user choose which model takes `text` as its prompt. */
async function useAsPrompt(text) {
  await chooseFor({ kind: "text" }, ({ id }, { name }) => act.write(id, { [name]: text }));
}

/** Lets the user choose which input of which model takes `file`, and calls `put(model, field)`. */
async function chooseFor(file, put) {
  const given = { current: store.model.peek()?.id, models: models.served(), put };
  await use("reuse", ({ chooseInput }) => chooseInput(file, given));
}

/** Shows a request as JSON and as programs. */
async function showCode(request) {
  const { endpoint, cut } = request;
  await use("code", async ({ ProgramDialog }) => {
    const input = cut ? await submitter.whole(request) : request.input;
    program ??= new ProgramDialog({ address, apply: (id, changed) => fillForm(id, changed) });
    const { category } = store.models.peek().find(({ id }) => id === endpoint) ?? {};
    program.show({ endpoint, input, category });
  });
}

/** Loads a tool and calls `what` with its module. */
async function use(name, what, report = complain) {
  report("");
  await tool(name)
    .then(what)
    .catch((error) => report(error.message));
}

async function cancel({ id }) {
  try {
    const here = await stage.cancel(id);
    if (!here) await api.call("PUT", `v1/requests/${encodeURIComponent(id)}/cancel`);
  } catch (error) {
    say(`The request could not be cancelled: ${error.message}`);
  }
}

function complain(...words) {
  tell(byId("form-problem"), ...words);
}

effect(() => (byId("connection").hidden = store.contact.value));
effect(() => {
  if (store.models.value === UNKNOWN) return;
  showModels(store.models.value);
  byId("model").value = store.model.peek()?.id ?? "";
});
effect(() => {
  const model = store.model.value;
  if (model !== null) untracked(() => drawModel(model));
});
effect(() => offerReal(store.model.value?.demo ? store.models.value : []));
effect(() => store.locked.value && store.changes.stop());
effect(() => attention.show(store.parts.value));
effect(() => {
  const has = (scope) => store.grants.value.includes(scope);
  byId("operate").hidden = !has("operator");
  byId("account").hidden = has("operator") || !["usage", "files", "tenant-admin"].some(has);
});
api.addEventListener("locked", () => {
  if (door.isOpen) return;
  clearTimeout(again);
  accepted = null;
  closeDialogs({ aside: true }); // they would be over the form for the key
  door.end();
});
byId("model").addEventListener("change", async () => {
  const id = byId("model").value;
  address.go({ model: id });
  await choose(id);
});
byId("grid-button").addEventListener("click", () => submitter.openGrid(store.model.peek()));
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submitter.generate(store.model.peek());
});
byId("code-button").addEventListener("click", () => {
  const model = store.model.peek();
  if (model === null) return;
  const input = entered();
  // A program without its prompt would be refused: an example stands in.
  const stand = estimable(model, input) === null ? (model.examples[0]?.input ?? {}) : {};
  showCode({ endpoint: model.id, input: { ...stand, ...input } });
});
byId("draft-button").addEventListener("click", draft);
byId("draft-settings-button").addEventListener("click", ({ currentTarget: button }) =>
  use("draftSettings", ({ toggleSettings }) => toggleSettings(button)),
);
listenForShortcuts({ generate: () => submitter.generate(store.model.peek()), draft, form });
listenForTheme();
listenForDrops({
  take: (files) =>
    tool("received").then(
      ({ receive }) => receive(files, { models: store.models.peek(), act }),
      (error) => say(error.message),
    ),
  use: (result) => {
    closeDialogs();
    useAsInput(result);
  },
  hasInput,
});

if (linked !== null) door.follow(linked);
else if (answer !== null) door.comeBack(answer);
else if (key.value === null) door.open({ key: byId("key").value }); // it may be typed already
else enter();
