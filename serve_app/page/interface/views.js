// Views of the page beside the form: each is a bundle of its own, loaded when it is first opened.

import { attribute, button, byId, h } from "./element.js";
import { loaded, reloadButton, Updated } from "./late.js";

/** Modules of the views. Each exports `open(host, page)`, which fills `host` and returns the view:
 * `{follow(address), leave()}`. */
const MODULES = {
  gallery: {
    load: () => import("../gallery/gallery.js"),
    styles: [
      "gallery/gallery.css",
      "gallery/tiles.css",
      "gallery/large/lightbox.css",
      "gallery/large/compare.css",
    ],
  },
  models: {
    load: () => import("../models/models.js"),
    styles: ["interface/parts.css", "models/models.css", "code/code.css"],
  },
  account: {
    load: () => import("../account/account.js"),
    styles: ["interface/parts.css", "operator/operator.css"],
  },
  operator: {
    load: () => import("../operator/operator.js"),
    styles: ["interface/parts.css", "operator/operator.css"],
  },
};

/** The views. `page` has what they use of the page: see `app.js`. */
export class Views {
  #page;
  #opened = new Map(); // name → {host, view, failed}
  current = null;

  constructor(page) {
    this.#page = page;
  }

  /** Shows the view of the address, or the form if the address names none. */
  async follow(address) {
    const name = address.view in MODULES ? address.view : null;
    if (this.current !== name) this.#leave();
    this.current = name;
    byId("work").hidden = name !== null;
    byId("views").hidden = name === null;
    for (const link of document.querySelectorAll("header nav a")) {
      const here = (link.dataset.view ?? null) === name;
      attribute(link, "aria-current", here ? "page" : null);
    }
    this.#dropFailed();
    if (name === null) return;
    for (const [each, { host }] of this.#opened) host.hidden = each !== name;
    const opened = this.#opened.get(name) ?? (await this.#open(name));
    // The user may have gone on while the view was loading, to another view or within this one.
    if (this.current === name) opened?.view.follow(this.#page.address.now);
  }

  /** Forgets all views and what they show, as when another key is used. */
  clear() {
    this.#leave();
    for (const { host } of this.#opened.values()) host.remove();
    this.#opened.clear();
  }

  /** Forgets the views that could not be loaded: they are loaded again when they are opened again. */
  #dropFailed() {
    for (const [name, { host, failed }] of this.#opened) {
      if (!failed) continue;
      host.remove();
      this.#opened.delete(name);
    }
  }

  #leave() {
    this.#opened.get(this.current)?.view?.leave();
  }

  async #open(name) {
    const host = h.main({ class: `view ${name}`, tabindex: -1 });
    const opened = { host, view: { follow() {}, leave() {} }, failed: false };
    this.#opened.set(name, opened);
    byId("views").append(host);
    host.append(h.p({ class: "help" }, "Loading …"));
    try {
      const module = await loaded(MODULES[name].load, ...MODULES[name].styles);
      host.replaceChildren();
      opened.view = module.open(host, this.#page);
      return opened;
    } catch (error) {
      opened.failed = true;
      const again = () => this.#page.follow();
      const retry = button("Try again", again);
      const [words, offer] =
        error instanceof Updated
          ? [error.message, reloadButton()]
          : ["This part of the page could not be loaded.", retry];
      host.replaceChildren(h.p({ class: "problem" }, words), offer);
      return null;
    }
  }
}
