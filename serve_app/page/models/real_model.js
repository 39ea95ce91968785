// Offer of a real model that runs here, where demo models are served: in the form, among the models,
// and beside a result whose words the demo did not know.

import { attribute, button, h, tell } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";

const RENEW_MS = 5000;
const KEPT_MS = 20_000; // as long as the server keeps what the hub said
const AWAY = new Set(["offline", "unreachable", "refuses"]);

/** What its first request does. Only operators see whether weights are there. */
function firstRequest({ download }) {
  return download.source === "not_asked"
    ? "Its first request downloads it, unless its weights are here."
    : "Its first request downloads it.";
}

let known = null; // {id, at, answer: promise of the pre-flight answer}

/** First of `models` that is a real one and runs without a GPU; null without one, or where no demo
 * models are served. */
export function realModel(models) {
  if (!models.some(({ demo }) => demo)) return null;
  return models.find(({ cpu, demo, away }) => cpu && !demo && away === "") ?? null;
}

/** Pre-flight answer for a model, see `/v1/models`. Throws `Refused` or `Unreachable`. */
export async function preflight(api, id) {
  const path = `v1/models?endpoint_id=${encodeURIComponent(id)}&expand=preflight`;
  const { models } = await api.call("GET", path);
  return models[0]?.darkroom.preflight ?? null;
}

/** The answer as it was asked for within `ms` milliseconds, or anew. */
function recent(api, id, ms = KEPT_MS) {
  if (known?.id === id && Date.now() - known.at < ms) return known.answer;
  const answer = preflight(api, id);
  known = { id, at: Date.now(), answer };
  answer.catch(() => (known = null));
  return answer;
}

function factsOf({ name }, { sentences }) {
  return `${name} (${[sentences.licence, sentences.download, sentences.time].join("; ")})`;
}

function isHere({ download }) {
  return download.missing_bytes === 0;
}

/** Why it is not available now; empty if it is. */
function obstacle({ download, fits, sentences }) {
  const away = AWAY.has(download.source) ? sentences.access : "";
  const why = fits === false ? sentences.fits : away;
  return why && `It is not available now: ${why.replace(/\.$/, "")}.`;
}

/**
 * Notice about the real model. Keys with the scope `operator` can download its weights, and see how far
 * that is. `page` has `api`, `caller` and `store`.
 */
export class RealModelOffer {
  node = h.div({ class: "notice real-model", hidden: true });
  #page;
  #words = h.p();
  #where = h.p({ class: "help", role: "status" });
  #progress = h.progress({ max: 1, hidden: true, "aria-label": "Download" });
  #download = button("Download now", () => this.#start(), { hidden: true });
  #try = h.a("Try it");
  #model = null;
  #answer = null;
  #refresh;

  constructor(page) {
    this.#page = page;
    this.#refresh = new Refresh(() => this.#look(), RENEW_MS, page.store.changes, { of: ["replicas"] });
    const choices = h.p({ class: "buttons" }, this.#try, this.#download);
    this.node.append(this.#words, this.#where, this.#progress, choices);
  }

  /** Shows the offer, if `models` have demo models and a real one. Without models, it is hidden. */
  async show(models) {
    const model = realModel(models);
    this.#refresh.stop();
    if (model === null || model.id !== this.#model?.id) this.node.hidden = true;
    this.#model = model;
    if (model === null) return;
    const answer = await recent(this.#page.api, model.id).catch(() => null);
    if (this.#model !== model || answer === null) return;
    this.#answer = answer;
    this.#words.textContent = `A real model runs here without a GPU: ${factsOf(model, answer)}.`;
    this.#try.href = `#model=${encodeURIComponent(model.id)}`;
    const away = obstacle(answer);
    this.#try.hidden = away !== "";
    this.#say(away || (isHere(answer) ? "Its weights are here." : firstRequest(answer)));
    this.#progress.hidden = true;
    this.#download.hidden = true;
    this.node.hidden = false;
    this.#refresh.start();
  }

  /** Looks at the replicas no more, as when the view is left. */
  leave() {
    this.#refresh.stop();
  }

  async #look() {
    const model = this.#model;
    if (!(await this.#page.caller.isOperator())) return this.#refresh.stop();
    const status = await this.#page.api.call("GET", "v1/status").catch(() => null);
    if (status !== null && model === this.#model) this.#draw(model.id, status);
  }

  #draw(id, { replicas, warm }) {
    const kept = warm.some((each) => each.endpoint_id === id);
    const here =
      isHere(this.#answer) ||
      replicas.some(({ on_disk: disk, hot, warm: held }) =>
        [disk, hot, held].some((ids) => ids.includes(id)),
      );
    const loading = replicas
      .flatMap((each) => each.loading)
      .find(({ endpoints }) => endpoints.includes(id));
    const away = obstacle(this.#answer);
    this.#download.hidden = kept || here || loading !== undefined || away !== "";
    this.#progress.hidden = loading === undefined;
    const share = loading?.total > 0 ? Math.min(1, loading.done / loading.total) : null;
    attribute(this.#progress, "value", share);
    if (loading !== undefined) this.#say(`A replica has begun: ${loading.stage.replaceAll("_", " ")}.`);
    else if (here) this.#say("Its weights are here.");
    else if (kept) this.#say("A replica downloads its weights soon.");
    else this.#say(away || firstRequest(this.#answer));
    if (here || !(kept || loading)) this.#refresh.stop(); // nothing is under way
  }

  #say(words) {
    if (this.#where.textContent !== words) this.#where.textContent = words;
  }

  async #start() {
    this.#download.disabled = true;
    try {
      const target = { endpoint_id: this.#model.id, level: "disk" };
      await this.#page.api.call("POST", "v1/warm", target);
      this.#try.focus(); // the button goes
      this.#refresh.start();
    } catch (error) {
      this.#say(error.message);
    } finally {
      this.#download.disabled = false;
    }
  }
}

/** Notice beside a result of a demo that did not know `words`, with the real model of `models` if there
 * is one. `draw(model)` submits the same prompt to it, and returns what went wrong as words. */
export function unknownWords(words, { api, models, draw }) {
  const node = h.div(
    { class: "notice unknown" },
    h.p(`The demo model does not know: ${words.join(", ")}.`),
  );
  const model = realModel(models);
  const add = (answer) => node.append(...beside(model, answer, draw));
  // The form has asked: a result causes no further call.
  if (model !== null) recent(api, model.id, Infinity).then(add, () => {});
  return node;
}

function beside(model, answer, draw) {
  const away = obstacle(answer);
  const words = `${factsOf(model, answer)} knows any prompt and runs here without a GPU.`;
  if (away !== "") return [h.p(`${words} ${away}`)];
  const result = h.p({ class: "help", role: "status", hidden: true });
  const submit = async () => {
    start.disabled = true;
    const problem = await draw(model);
    start.disabled = false;
    tell(result, problem);
  };
  const start = button(`Draw it with ${model.name}`, submit, { class: "main" });
  const size = isHere(answer) ? "" : ` ${firstRequest(answer)}`;
  return [h.p(words + size), h.p({ class: "buttons" }, start), result];
}
