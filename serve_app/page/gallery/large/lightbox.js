// Large view of one result, with its facts beside it.

import { button, byId, h } from "../../interface/element.js";
import { submitted } from "../../client/watch.js";
import { dragHandle } from "../../results/drag.js";
import { isExpired } from "../../results/media.js";
import { Panel } from "./panel.js";
import { wordsOf } from "../tile.js";
import { view } from "./viewer.js";

const NEAR_END = 8; // items before the end at which more is loaded

/**
 * Large view of the items of a `Collection`. `gallery` has the `page`, the `collection`, its `actions` and
 * `facts`, and `share(item)`, `remove(items)`, `say(words)`, `closed(key)`, and `renewed(item)`, which reads
 * an item again.
 */
export class Lightbox {
  #gallery;
  #page;
  #collection;
  #panel;
  #dialog = null;
  #item = null;
  #zoom = null;
  #isOld = false; // its file could not be shown, as the URL of a private one that has expired
  #keys = (event) => this.#key(event); // of the document: what has the focus may be removed
  #box = h.div({ class: "view-box", tabindex: -1 });
  #count = h.p({ class: "count", role: "status" });
  #percent = control("100 %", "Fit into the window", () => this.#zoom?.fit());
  #zooms;
  #handle = h.span(); // a drag of the image itself pans or goes on
  #before = control("‹", "Previous result", () => this.#go(-1));
  #after = control("›", "Next result", () => this.#go(1));

  constructor(gallery) {
    this.#gallery = gallery;
    this.#page = gallery.page;
    this.#collection = gallery.collection;
    this.#panel = new Panel(this.#gallery.facts, this.#callbacks());
    this.#before.classList.add("before");
    this.#after.classList.add("after");
    this.#zooms = h.span(
      { class: "zooms", role: "group", "aria-label": "Zoom" },
      control("−", "Zoom out", () => this.#zoom?.out()),
      this.#percent,
      control("+", "Zoom in", () => this.#zoom?.in()),
    );
    gallery.collection.addEventListener("change", () => this.#changed());
    const failed = () => {
      this.#isOld = true;
      this.#renew(this.#item);
    };
    this.#box.addEventListener("error", () => this.#item !== null && failed(), true);
  }

  /** Shows the item with this key; null closes. */
  async follow(key) {
    if (key === null) {
      this.#dialog?.close();
      return;
    }
    if (this.#item?.key === key && this.#dialog !== null) return;
    const place = this.#collection.placeOf(key);
    const item = place >= 0 ? this.#collection.items[place] : await this.#gallery.facts.itemOf(key);
    if (this.#page.address.now.item !== key) return; // the user has gone on
    if (item === undefined || item.file === null) {
      this.#gallery.say("This result does not exist any more.");
      this.#page.address.leave("item");
      return;
    }
    this.#open();
    this.#show(item);
  }

  #open() {
    if (this.#dialog !== null) return;
    const dialog = h.dialog(
      { class: "lightbox", "aria-label": "Result" },
      h.div({ class: "stage" }, this.#box, this.#before, this.#after),
      h.div(
        { class: "top" },
        this.#count,
        this.#zooms,
        this.#handle,
        control("i", "About this result", () => dialog.classList.toggle("with-panel")),
        control("×", "Close", () => dialog.close()),
      ),
      this.#panel.node,
    );
    document.addEventListener("keydown", this.#keys);
    dialog.addEventListener("close", () => this.#closed());
    this.#dialog = dialog;
    document.body.append(dialog);
    dialog.showModal();
    this.#box.focus();
  }

  #closed() {
    const { key } = this.#item;
    document.removeEventListener("keydown", this.#keys);
    this.#zoom?.stop();
    this.#box.replaceChildren(); // stops what plays
    this.#dialog.remove();
    this.#dialog = null;
    this.#zoom = null;
    this.#item = null;
    this.#page.address.leave("item");
    this.#gallery.closed(key);
  }

  #show(item) {
    const isOther = this.#item?.key !== item.key;
    const isNew = this.#isOld && item.file !== null && this.#item?.file?.url !== item.file.url;
    this.#item = item;
    if (isOther || isNew) {
      this.#isOld = isExpired(item.file.url);
      this.#zoom?.stop();
      const focused = this.#box.contains(document.activeElement);
      this.#zoom = view(this.#box, item, {
        changed: () => this.#showPercent(),
        flicked: (direction) => this.#go(direction),
      });
      if (focused) this.#box.focus();
      this.#zooms.hidden = this.#zoom === null;
      this.#handle.replaceChildren(dragHandle(item.file));
      this.#showPercent();
      this.#dialog.setAttribute("aria-label", wordsOf(item));
      if (this.#page.address.now.item !== item.key) this.#page.address.correct({ item: item.key });
    }
    this.#panel.show(item);
    this.#place();
    if ((isOther || isNew) && this.#isOld) this.#renew(item);
  }

  /** Reads the item again, and shows it with its new URLs. */
  async #renew(old) {
    const item = await this.#gallery.renewed(old);
    const isShown = this.#item?.key === item?.key && this.#item.file !== null;
    if (item?.file && isShown && this.#item.file.url !== item.file.url) this.#show(item);
  }

  #showPercent() {
    if (this.#zoom === null) return;
    const percent = `${this.#zoom.percent} %`;
    this.#percent.textContent = percent;
    this.#percent.setAttribute("aria-label", `${percent}, fit into the window`);
  }

  /** Shows the place among the items, loads more near the end, and what is beside it. */
  #place() {
    const { items, more } = this.#collection;
    const place = this.#collection.placeOf(this.#item.key);
    this.#count.textContent = place < 0 ? "" : `${place + 1} of ${items.length}${more ? "+" : ""}`;
    for (const [node, direction] of [
      [this.#before, -1],
      [this.#after, 1],
    ]) {
      const next = this.#beside(direction);
      node.hidden = next === undefined;
      if (next?.file.kind === "image") h.img({ src: next.file.url, alt: "" });
    }
    if (place >= 0 && more && items.length - place < NEAR_END) this.#collection.load();
  }

  /** Next item with a file in a direction. */
  #beside(direction) {
    const { items } = this.#collection;
    let place = this.#collection.placeOf(this.#item.key);
    if (place < 0) return undefined;
    do place += direction;
    while (items[place] !== undefined && items[place].file === null);
    return items[place];
  }

  #go(direction) {
    const next = this.#beside(direction);
    if (next !== undefined) this.#show(next);
  }

  /** Follows changes of the item, such as of its mark. */
  #changed() {
    if (this.#dialog === null) return;
    const place = this.#collection.placeOf(this.#item.key);
    const item = place < 0 ? this.#item : this.#collection.items[place];
    if (item !== this.#item) this.#show(item);
    else this.#place();
  }

  #key(event) {
    if (document.querySelectorAll("dialog[open]").length > 1) return; // another one is on top
    const { key, target, altKey, ctrlKey, metaKey } = event;
    if (altKey || ctrlKey || metaKey || target.matches("video, audio, input")) return;
    if (this.#zoom?.key(event) || this.#did(key)) event.preventDefault();
  }

  #did(key) {
    if (key === "ArrowRight") this.#go(1);
    else if (key === "ArrowLeft") this.#go(-1);
    else if (key === "f") this.#favourite();
    else if (key === "i") this.#dialog.classList.toggle("with-panel");
    else if (key === "Delete") this.#remove();
    else return false;
    return true;
  }

  async #favourite() {
    const item = this.#item;
    const favourite = await this.#gallery.actions.favourite([item]);
    // The collection does not tell of what it has not loaded.
    if (this.#item === item && this.#collection.placeOf(item.key) < 0)
      this.#show({ ...item, request: { ...item.request, favourite } });
  }

  async #remove() {
    const next = this.#beside(1) ?? this.#beside(-1);
    const gone = await this.#gallery.remove([this.#item]);
    if (!gone.has(this.#item?.id)) return;
    if (next === undefined || gone.has(next.id)) this.#dialog.close();
    else this.#show(next);
  }

  #callbacks() {
    const { act } = this.#page;
    const make = async (request, what) => {
      const problem = byId("form-problem"); // where the page says why a request was refused
      problem.hidden = true;
      await what(submitted(request));
      const words = "Submitted. The result will appear in the gallery.";
      this.#gallery.say(problem.hidden ? words : problem.textContent);
      this.#collection.follow();
    };
    const use = (what) => {
      // Going back would undo what is done next.
      this.#page.address.correct({ item: null });
      this.#dialog.close();
      what();
    };
    return {
      favourite: () => this.#favourite(),
      renew: (item) => this.#renew(item),
      share: (item) => this.#gallery.share(item),
      remove: () => this.#remove(),
      details: ({ id }) => act.details({ id }),
      again: ({ request, output }) =>
        use(() => act.again({ ...submitted(request), seed: output?.seed })),
      newSeed: ({ request }) => {
        const { seed: _seed, seeds: _seeds, ...input } = request.input;
        use(() => act.again({ ...submitted(request), input }));
      },
      drafts: ({ request }) => use(() => act.drafts(submitted(request))),
      vary: ({ request }) => make(request, act.vary),
      four: ({ request }) => make(request, act.four),
      useAsInput: async ({ request }, item) => {
        if (isExpired(item.file.url)) await this.#renew(item);
        if (this.#item?.key !== item.key) return; // the user has gone on
        const { file } = this.#item;
        use(() => act.useAsInput(file, submitted(request)));
      },
    };
  }
}

function control(sign, name, click) {
  return button(sign, click, { class: "control", "aria-label": name, title: name });
}
