// View of operators: what runs, what waits, and what may be changed. Only keys with the scope `admin` see it.

import { element } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";
import { wordsOf } from "../interface/ask.js";
import { Desk } from "./desk.js";
import { AuditPart } from "./audit.js";
import { KeysPart } from "./keys.js";
import { PoolsPart } from "./pools.js";
import { QueuePart } from "./queue.js";
import { UsagePart } from "./usage.js";

/** Parts of the view by their name in the address. Each has `node`, `look()`, and `everyMs` or null. */
const PARTS = {
  pools: { name: "Pools", open: (desk) => new PoolsPart(desk) },
  queue: { name: "Queue", open: (desk) => new QueuePart(desk) },
  keys: { name: "Keys", open: (desk) => new KeysPart(desk) },
  usage: { name: "Usage", open: (desk) => new UsagePart(desk) },
  audit: { name: "Audit", open: (desk) => new AuditPart(desk) },
};
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
    "This part is for operators: it needs a key with the scope admin.",
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
      this.#desk.node,
      this.#body,
    );
  }

  /** Shows the part that the address names. */
  async follow({ part = FIRST }) {
    const name = part in PARTS ? part : FIRST;
    this.#turn += 1;
    const turn = this.#turn;
    const allowed = await this.#page.caller.isAdmin();
    if (turn !== this.#turn) return; // the user has gone on
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
    let failed = false;
    const look = async () => {
      try {
        await part.look();
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
