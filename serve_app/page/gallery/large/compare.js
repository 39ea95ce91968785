// Two to four results beside each other, or two on top of each other with a slider between them.

import { button, h } from "../../interface/element.js";
import { isExpired } from "../../results/media.js";
import { factsOf, listOf, settingsOf } from "./facts.js";
import { wordsOf } from "../tile.js";
import { imageOf, sidesOf, view } from "./viewer.js";
import { Zoom } from "./zoom.js";

export const MOST_COMPARED = 4;

/** Comparison of items. `facts` are `Facts`; `renewed(item)` reads an item again, whose URL has
 * expired; `closed()` is called at its end. */
export class Comparison {
  #gallery;
  #dialog = null;
  #items = [];
  #zooms = [];
  #keys = (event) => this.#key(event);
  #body = h.div({ class: "compared" });
  #slider = button("Slider", null, { "aria-pressed": "false", "aria-keyshortcuts": "s" });

  constructor(gallery) {
    this.#gallery = gallery;
    this.#body.addEventListener("error", () => this.#renew(), true); // of an image: it does not bubble
    this.#slider.addEventListener("click", () => this.#toggle());
  }

  /** Shows items; fewer than two close it. */
  show(items) {
    if (items.length < 2) {
      this.#dialog?.close();
      return;
    }
    if (keysOf(items) === keysOf(this.#items)) return;
    this.#items = items;
    this.#open();
    this.#slider.hidden = items.length !== 2 || items.some(({ file }) => file.kind !== "image");
    this.#slider.setAttribute("aria-pressed", "false");
    this.#draw();
  }

  #open() {
    if (this.#dialog !== null) return;
    const close = () => dialog.close();
    const dialog = h.dialog(
      { class: "compare", "aria-label": "Comparison" },
      h.div(
        { class: "top" },
        h.p({ class: "count" }, "Zoom and pan move all of them."),
        this.#slider,
        button("×", close, { class: "control", "aria-label": "Close" }),
      ),
      this.#body,
    );
    document.addEventListener("keydown", this.#keys);
    dialog.addEventListener("close", () => {
      document.removeEventListener("keydown", this.#keys);
      this.#clear();
      dialog.remove();
      this.#dialog = null;
      this.#items = [];
      this.#gallery.closed();
    });
    this.#dialog = dialog;
    document.body.append(dialog);
    dialog.showModal();
  }

  #clear() {
    for (const each of this.#zooms) each.stop();
    this.#zooms = [];
    this.#body.replaceChildren();
  }

  /** Shows the items with new URLs, if one that has expired was used. */
  async #renew() {
    const items = this.#items;
    if (!items.some(isOld)) return;
    const fresh = await Promise.all(items.map((item) => this.#gallery.renewed(item)));
    if (this.#items !== items || fresh.some((item) => !item?.file || isOld(item))) return;
    this.#items = fresh;
    this.#draw();
  }

  #toggle() {
    const on = this.#slider.getAttribute("aria-pressed") !== "true";
    this.#slider.setAttribute("aria-pressed", String(on));
    this.#draw();
  }

  #draw() {
    this.#clear();
    const slid = this.#slider.getAttribute("aria-pressed") === "true";
    this.#body.dataset.count = slid ? "slider" : this.#items.length;
    if (slid) this.#drawSlider();
    else this.#drawBeside();
    this.#drawFacts();
  }

  #drawBeside() {
    for (const item of this.#items) {
      const box = h.div({ class: "view-box" });
      this.#body.append(h.figure(box, caption(item)));
      const changed = (zoom) => this.#follow(zoom);
      const zoom = view(box, item, { changed });
      if (zoom !== null) this.#zooms.push(zoom);
    }
  }

  /** Lets the others show what one of them shows. */
  #follow(leader) {
    for (const each of this.#zooms) if (each !== leader) each.follow(leader.sight);
  }

  #drawSlider() {
    const [left, right] = this.#items;
    const under = imageOf(right.file, wordsOf(right));
    const over = imageOf(left.file, wordsOf(left));
    const line = h.span({ class: "line", "aria-hidden": "true" });
    const pair = h.div({ class: "pair" }, under, over, line);
    const box = h.div({ class: "view-box" }, pair);
    const divider = h.input({
      type: "range",
      min: 0,
      max: 100,
      step: 0.5,
      value: 50,
      class: "divider",
      "aria-label": `Part that shows “${wordsOf(left)}”`,
    });
    const place = () => {
      over.style.clipPath = `inset(0 ${100 - divider.value}% 0 0)`;
      under.style.clipPath = `inset(0 0 0 ${divider.value}%)`; // it may be wider or taller
      line.style.left = `${divider.value}%`;
    };
    divider.addEventListener("input", place);
    place();
    const captions = this.#items.map(caption);
    this.#body.append(h.figure(box, divider, h.div({ class: "captions" }, captions)));
    const zoom = new Zoom(box, pair, sidesOf(left.file));
    const scaled = new ResizeObserver(place);
    scaled.observe(box);
    this.#zooms.push(zoom, { stop: () => scaled.disconnect() });
    divider.focus();
  }

  /** Shows below each result what differs from the others. */
  async #drawFacts() {
    const items = this.#items;
    const wholes = await Promise.all(
      items.map(({ id }) => this.#gallery.facts.of(id).catch(() => null)),
    );
    if (this.#items !== items) return;
    const all = items.map((item, at) => ({
      ...factsOf(item, wholes[at]),
      ...(wholes[at] === null ? {} : settingsOf(wholes[at].request.input)),
    }));
    const names = [...new Set(all.flatMap((each) => Object.keys(each)))];
    const differing = names.filter(
      (name) => new Set(all.map((each) => String(each[name] ?? ""))).size > 1,
    );
    for (const [at, item] of items.entries()) {
      const below = this.#body.querySelector(`[data-key="${CSS.escape(item.key)}"]`);
      const shown = Object.fromEntries(differing.map((name) => [name, all[at][name]]));
      below?.querySelector("dl")?.remove();
      below?.append(listOf(shown));
    }
  }

  #key(event) {
    const { key, target, altKey, ctrlKey, metaKey } = event;
    if (altKey || ctrlKey || metaKey || target.matches("video, audio")) return;
    const [zoom] = this.#zooms;
    if (key === "s" && !this.#slider.hidden) this.#toggle();
    else if (target.matches("input") || zoom === undefined || !zoom.key(event)) return;
    event.preventDefault();
  }
}

function keysOf(items) {
  return items.map(({ key }) => key).join();
}

function isOld({ file }) {
  return isExpired(file.url);
}

function caption(item) {
  const words = wordsOf(item);
  return h.figcaption({ "data-key": item.key }, h.p({ class: "words", title: words }, words));
}
