// Offer of a real model that runs without a GPU, where demo models are served.

import { element } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";

const RENEW_MS = 5000;

/**
 * Notice about the first model that runs without a GPU. Keys with the scope `operator` can download
 * its weights, and see how far that is. `page` has `api` and `caller`.
 */
export class RealModelOffer {
  node = element("div", { class: "notice real-model", hidden: true });
  #page;
  #words = element("p", {});
  #where = element("p", { class: "help", role: "status" });
  #progress = element("progress", { max: 1, hidden: true, "aria-label": "Download" });
  #download = element("button", { type: "button", class: "quiet", hidden: true }, "Download now");
  #try = element("a", {}, "Try it");
  #model = null;
  #refresh = new Refresh(() => this.#look(), RENEW_MS);

  constructor(page) {
    this.#page = page;
    this.#download.addEventListener("click", () => this.#start());
    const choices = element("p", { class: "buttons" }, this.#try, this.#download);
    this.node.append(this.#words, this.#where, this.#progress, choices);
  }

  /** Shows the offer, if `models` have demo models and a real one. Without models, it is hidden. */
  show(models) {
    const found = models.find(({ cpu, demo, away }) => cpu && !demo && away === "");
    this.#model = models.some(({ demo }) => demo) ? (found ?? null) : null;
    this.node.hidden = this.#model === null;
    this.#refresh.stop();
    if (this.#model === null) return;
    this.#words.textContent = `A real model runs here without a GPU: ${factsOf(this.#model)}.`;
    this.#try.href = `#model=${encodeURIComponent(this.#model.id)}`;
    this.#where.textContent = "Its first request downloads it.";
    this.#progress.hidden = true;
    this.#download.hidden = true;
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
    const here = replicas.some(({ on_disk: disk, hot, warm: held }) =>
      [disk, hot, held].some((ids) => ids.includes(id)),
    );
    const loading = replicas
      .flatMap((each) => each.loading)
      .find(({ endpoints }) => endpoints.includes(id));
    this.#download.hidden = kept || here || loading !== undefined;
    this.#progress.hidden = loading === undefined;
    if (loading !== undefined) {
      if (loading.total > 0) this.#progress.value = Math.min(1, loading.done / loading.total);
      else this.#progress.removeAttribute("value");
    }
    this.#say(wordsFor({ here, kept, loading }));
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

function factsOf({ name, licence, cpu }) {
  const size = cpu.download_gb === null ? null : `${cpu.download_gb} GB`;
  const time = cpu.seconds === null ? null : `about ${cpu.seconds} s a result`;
  const facts = [licence, size, time].filter(Boolean).join(", ");
  return facts === "" ? name : `${name} (${facts})`;
}

function wordsFor({ here, kept, loading }) {
  if (loading !== undefined) return `A replica has begun: ${loading.stage.replaceAll("_", " ")}.`;
  if (here) return "Its weights are here.";
  if (kept) return "A replica downloads its weights soon.";
  return "Its first request downloads it, or you do now.";
}
