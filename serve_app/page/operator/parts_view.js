// A view of several parts, of which a key sees those that its scopes allow.

import { Refused } from "../client/api.js";
import { wordsOf } from "../interface/ask.js";
import { attribute, h } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";
import { Desk } from "./desk.js";

const AGAIN_MS = 2000;

/**
 * Fills `host`. `view`: its name in the address. `refused`: what a key reads that sees no part.
 * `parts`, by their names in the address: `{name, needs, open}`, where `needs` is a scope, and
 * `open(desk)` returns the part: `node`, `look()` and, if it looks again by itself, `everyMs`.
 */
export class PartsView {
  #page;
  #desk;
  #parts;
  #tabs;
  #body = h.div({ class: "part" });
  #refused;
  #opened = new Map(); // name → {part, refresh}
  #current = null;
  #turn = 0; // counts what the user opened

  constructor(host, page, { view, title, refused, parts }) {
    this.#page = page;
    this.#parts = parts;
    this.#desk = new Desk(page, () => this.#opened.get(this.#current)?.refresh.now());
    const links = Object.entries(parts).map(([part, { name }]) =>
      h.a({ href: `#view=${view}&part=${part}`, "data-part": part }, name),
    );
    this.#tabs = h.nav({ class: "tabs", "aria-label": "Parts" }, links);
    this.#tabs.hidden = true;
    this.#refused = h.p({ class: "notice", hidden: true }, refused);
    host.append(h.h2(title), this.#refused, this.#tabs, this.#body, this.#desk.node);
  }

  /** Shows the part that the address names. */
  async follow({ part = null }) {
    this.#turn += 1;
    const turn = this.#turn;
    const allowed = await this.#allowed();
    if (turn !== this.#turn) return; // the user has gone on
    if (allowed === null)
      return setTimeout(() => turn === this.#turn && this.follow({ part }), AGAIN_MS);
    this.#refused.hidden = allowed.length > 0;
    this.#tabs.hidden = allowed.length === 0;
    for (const link of this.#tabs.children) link.hidden = !allowed.includes(link.dataset.part);
    const name = allowed.includes(part) ? part : allowed[0];
    if (name === undefined || this.#current === name) return;
    this.#stop();
    this.#current = name;
    this.#show(name);
  }

  #show(name) {
    for (const link of this.#tabs.children)
      attribute(link, "aria-current", link.dataset.part === name ? "page" : null);
    this.#tabs
      .querySelector("[aria-current]")
      .scrollIntoView({ block: "nearest", inline: "center" });
    if (!this.#opened.has(name)) this.#opened.set(name, this.#open(name));
    const { part: shown, refresh } = this.#opened.get(name);
    this.#body.replaceChildren(shown.node);
    refresh.start();
  }

  /** Names of the parts that the key may see. Null while Darkroom does not answer. */
  async #allowed() {
    try {
      const { grants } = await this.#page.caller.look();
      return Object.keys(this.#parts).filter((name) => grants.includes(this.#parts[name].needs));
    } catch (error) {
      this.#desk.complain(wordsOf(error));
      return error instanceof Refused && !error.passing ? [] : null;
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
    const part = this.#parts[name].open(this.#desk);
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
    return { part, refresh: new Refresh(look, part.everyMs) };
  }
}
