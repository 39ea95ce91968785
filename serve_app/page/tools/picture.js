// Images of the form that a tool works on, and its dialog.

import { BASE } from "../client/api.js";
import { dialogOf, openNew, work } from "../interface/dialog.js";
import { button, freshId, h } from "../interface/element.js";
import { isExpired } from "../results/media.js";

/** What a tool says whose result has no place any more. */
export const NO_PLACE =
  "The form shows another model now, which this is not for. Close this, and begin again.";

/** Loads the image at `url`; null without one, or if another server has it. */
export async function pictureAt(url) {
  const src = ownAddress(url ?? "");
  if (src === null) return null;
  const image = h.img({ src, alt: "" });
  return image.decode().then(
    () => image,
    () => null,
  );
}

/** `url` at the page's own origin, so that its pixels can be read; null if it is elsewhere. */
function ownAddress(url) {
  if (/^(data|blob):/.test(url)) return url;
  const path = /\/(files\/.*)$/.exec(url)?.[1];
  return path === undefined ? null : new URL(path, BASE).href;
}

/** Row of the image that a mask belongs to; undefined without one. */
export function imageRow(rows, mask) {
  return rows.find(({ field }) => field.media === "image" && field.kind === "media" && field !== mask);
}

/** Opens a dialog that says why there is nothing to work on. */
export function refuse(title, url) {
  const words = isExpired(url ?? "")
    ? "The link to this image has expired. Choose the file, or use the result as input again."
    : url
      ? "The page cannot show this image, because another server has it. Save it, and choose the file."
      : "Choose the image first: a file, or a result by Use as input.";
  openNew(title, h.p({ class: "help" }, words), { kind: "narrow" });
}

/** File of a canvas, with this name. */
export async function fileOf(canvas, name) {
  const made = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([made], name, { type: "image/png" });
}

/** Slider of a tool. `range` has its attributes; `input()` is called after each change. */
export function slider(range, input) {
  return h.input({ id: freshId("tool"), type: "range", step: 1, ...range, input });
}

/** Tools that belong together. */
export function group(...tools) {
  return h.span({ class: "group" }, ...tools);
}

/** Dialog in which the user makes something. It is an entry of the history, so Back leaves it. The user
 * is asked before something unused is lost. */
export class WorkDialog {
  #act;
  #address;
  node;
  #words = h.p({ class: "help", role: "status" });
  #isWarned = false;
  #isAside = false; // until the user has signed in again
  #isReturning = false; // to its entry of the history, which the user has left

  /** `tools` stand above the `place` of the work. `act` has `isChanged()`, which is true if something would
   * be lost, `lost`, which names it in the question, and `use` and `finish()`: the words and the call of
   * the button that uses the work. `address` is the page's. */
  constructor(title, address, act, tools, place) {
    this.#act = act;
    this.#address = address;
    this.node = dialogOf(title, "full", [
      h.div({ class: "tools", role: "toolbar", "aria-label": "Tools" }, tools),
      place,
      h.div(
        { class: "foot" },
        this.#words,
        button("Cancel", () => this.leave("Press Cancel")),
        button(act.use, act.finish, { class: "main" }),
      ),
    ]);
    this.node.querySelector(".close").addEventListener("click", () => this.leave("Press ×"));
    this.node.addEventListener("cancel", (event) => {
      if (!this.leave("Press Escape")) event.preventDefault();
    });
    this.node.addEventListener("close", () => {
      if (this.#isAside) return;
      this.#end();
      this.node.remove();
    });
    work.dialog = this;
    address.go({ tool: "1" });
    document.body.append(this.node);
    this.node.showModal();
  }

  /** Shows words beside the buttons. */
  say(words) {
    this.#words.textContent = words;
  }

  /** Notes a change: the next attempt to leave asks again. */
  changed() {
    this.#isWarned = false;
  }

  /** Closes it; asks first if something would be lost. False if it stays. `how` says what the user did. */
  leave(how) {
    if (this.#isWarned || !this.#act.isChanged()) {
      this.close();
      return true;
    }
    this.#isWarned = true;
    this.say(`${how} again to discard ${this.#act.lost}`);
    return false;
  }

  close() {
    this.#isAside = false;
    this.#end();
    if (this.node.open) this.node.close();
    else this.node.remove();
  }

  #end() {
    if (work.dialog !== this) return;
    work.dialog = null;
    this.#address.leave("tool");
  }

  /** Hides it with what is in it, until `follow` is called. */
  putAside() {
    this.#isAside = true;
    this.node.close();
  }

  /** Follows the address; true if nothing may change behind it, because the user is asked first. */
  follow() {
    const isHere = this.#address.now.tool !== null;
    if (this.#isAside) {
      this.#isAside = false;
      this.#address.go({ tool: "1" });
      this.node.showModal();
      return false;
    }
    const stays = !isHere && (this.#isReturning || !this.leave("Go back"));
    this.#isReturning = stays;
    if (stays) history.forward();
    return stays;
  }
}
