// View of operators: what runs, what waits, and what may be changed. Only keys with the scope `operator` see it.

import { Refused } from "../client/api.js";
import { element } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";
import { wordsOf } from "../interface/ask.js";
import { Desk } from "./desk.js";
import { AuditPart } from "./audit.js";
import { EntriesPart } from "./entries.js";
import { HealthPart } from "./health.js";
import { KeysPart } from "./keys.js";
import { PoolsPart } from "./pools.js";
import { QueuePart } from "./queue.js";
import { StoragePart } from "./storage.js";
import { UsagePart } from "./usage.js";
import { WebhooksPart } from "./webhooks.js";

/** Parts of the view by their name in the address. Each has `node`, `look()`, and `everyMs` or null. */
const PARTS = {
  pools: { name: "Pools", open: (desk) => new PoolsPart(desk) },
  queue: { name: "Queue", open: (desk) => new QueuePart(desk) },
  models: { name: "Models", open: (desk) => new EntriesPart(desk) },
  keys: { name: "Keys", open: (desk) => new KeysPart(desk) },
  usage: { name: "Usage", open: (desk) => new UsagePart(desk) },
  storage: { name: "Storage", open: (desk) => new StoragePart(desk) },
  webhooks: { name: "Webhooks", open: (desk) => new WebhooksPart(desk) },
  health: { name: "Health", open: (desk) => new HealthPart(desk) },
  audit: { name: "Audit", open: (desk) => new AuditPart(desk) },
};
const AGAIN_MS = 2000;
const FIRST = Object.keys(PARTS)[0];

/** Fills `host` with the view. */
export function open(host, page) {
  return new OperatorView(host, page);
}

class OperatorView {
  #page;
  #desk;
  #tabs;
  #body = element("div", { class: "part" });
  #refused = element(
    "p",
    { class: "notice", hidden: true },
    "This part is for operators: it needs a key with the scope operator.",
  );
  #opened = new Map(); // name → {part, refresh}
  #current = null;
  #turn = 0; // counts what the user opened

  constructor(host, page) {
    this.#page = page;
    this.#desk = new Desk(page);
    const links = Object.entries(PARTS).map(([part, { name }]) =>
      element("a", { href: `#view=operator&part=${part}`, "data-part": part }, name),
    );
    this.#tabs = element("nav", { class: "tabs", "aria-label": "Parts" }, links);
    this.#tabs.hidden = true;
    host.append(
      element("h2", {}, "Operate"),
      this.#refused,
      this.#tabs,
      this.#body,
      this.#desk.node,
    );
  }

  /** Shows the part that the address names. */
  async follow({ part = FIRST }) {
    const name = part in PARTS ? part : FIRST;
    this.#turn += 1;
    const turn = this.#turn;
    const allowed = await this.#isAllowed();
    if (turn !== this.#turn) return; // the user has gone on
    if (allowed === null) {
      setTimeout(() => turn === this.#turn && this.follow({ part }), AGAIN_MS);
      return;
    }
    this.#refused.hidden = allowed;
    this.#tabs.hidden = !allowed;
    if (!allowed || this.#current === name) return;
    this.#stop();
    this.#current = name;
    for (const link of this.#tabs.children) {
      if (link.dataset.part === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.#tabs
      .querySelector("[aria-current]")
      .scrollIntoView({ block: "nearest", inline: "center" });
    if (!this.#opened.has(name)) this.#opened.set(name, this.#open(name));
    const { part: shown, refresh } = this.#opened.get(name);
    this.#body.replaceChildren(shown.node);
    refresh.start();
  }

  /** Null while Darkroom does not answer. */
  async #isAllowed() {
    try {
      return (await this.#page.caller.look()).grants.includes("operator");
    } catch (error) {
      this.#desk.complain(wordsOf(error));
      return error instanceof Refused && !error.passing ? false : null;
    }
  }

  leave() {
    this.#turn += 1;
    this.#stop();
  }

  #stop() {
    this.#opened.get(this.#current)?.refresh.stop();
    this.#desk.clear();
    this.#current = null;
  }

  #open(name) {
    const part = PARTS[name].open(this.#desk);
    part.node.setAttribute("aria-busy", "true"); // until it has something to show
    let failed = false;
    const look = async () => {
      try {
        await part.look();
        part.node.removeAttribute("aria-busy");
        if (failed) this.#desk.complain("");
        failed = false;
      } catch (error) {
        failed = true;
        if (this.#current === name) this.#desk.complain(wordsOf(error));
      }
    };
    const refresh = new Refresh(look, part.everyMs);
    part.changed = () => refresh.now();
    return { part, refresh };
  }
}
