// Dialog in which a mask is painted on an image.

import { button, h, labelled } from "../interface/element.js";
import { Easel } from "./easel.js";
import { MaskLayer } from "./mask_layer.js";
import { fileOf, group, imageRow, NO_PLACE, pictureAt, refuse, slider, WorkDialog } from "./picture.js";

const TITLE = "Paint a mask";
const HELP = "What you paint is redrawn. The rest stays as it is.";
const EASEL =
  "Mask. Arrow keys move the brush, and it paints while you hold Space. Square brackets change its size.";

/** Opens the dialog for the control of a mask. `rows` are those of the form, with the image. */
export async function edit(control, rows, field, _api, address) {
  const source = imageRow(rows, field)?.control.shown() ?? null;
  const image = await pictureAt(source);
  if (image === null) return refuse(TITLE, source);
  const before = await pictureAt(control.shown());
  new MaskDialog(image, before, control, address);
}

class MaskDialog {
  #layer;
  #easel;
  #dialog;
  #control;
  #erases = false;
  #size;
  #soft = null;
  #tools = {};

  constructor(image, before, control, address) {
    this.#control = control;
    const sides = [image.naturalWidth, image.naturalHeight];
    const canvas = h.canvas({ width: sides[0], height: sides[1], class: "paint" });
    this.#layer = new MaskLayer(canvas);
    if (before !== null) this.#begin(before);
    const act = {
      start: () => this.#layer.start(this.#erases),
      extend: (x, y, part) => this.#layer.extend(x, y, Number(this.#size.value) * part),
      end: () => this.#changed(),
    };
    this.#easel = new Easel([image, canvas], sides, act, EASEL);
    const most = Math.max(8, Math.round(Math.min(...sides) / 2));
    const work = {
      isChanged: () => this.#layer.canUndo,
      lost: "this mask, or Enter to use it.",
      use: "Use mask",
      finish: () => this.#finish(),
    };
    this.#dialog = new WorkDialog(TITLE, address, work, this.#bar(most), this.#easel.node);
    this.#dialog.node.addEventListener("keydown", (event) => this.#key(event));
    this.#resize(Math.round(most / 5));
    this.#changed();
    this.#easel.node.focus();
  }

  #begin(before) {
    try {
      this.#layer.begin(before);
    } catch {
      // Another server has the mask, so that its pixels cannot be read.
    }
  }

  #bar(most) {
    const layer = this.#layer;
    const then = (what) => () => this.#change(what);
    this.#tools = {
      brush: button("Brush", () => this.#take(false), { "aria-pressed": "true", title: "B" }),
      eraser: button("Eraser", () => this.#take(true), { "aria-pressed": "false", title: "E" }),
      undo: button("Undo", then(() => layer.undo()), { title: "Ctrl+Z" }),
      redo: button("Redo", then(() => layer.redo()), { title: "Ctrl+Shift+Z" }),
    };
    const { brush, eraser, undo, redo } = this.#tools;
    this.#size = slider({ min: 1, max: most, value: 1 }, () => this.#resize(this.#size.value));
    const soft = "filter" in CanvasRenderingContext2D.prototype;
    if (soft) this.#soft = slider({ min: 0, max: Math.max(4, Math.round(most / 8)), value: 0 });
    return [
      group(brush, eraser),
      h.span({ class: "group", title: "[ and ]" }, labelled("Size", this.#size)),
      soft ? group(labelled("Soft edge", this.#soft)) : null,
      group(undo, redo),
      group(
        button("Invert", then(() => layer.invert()), { title: "I" }),
        button("Clear", then(() => layer.clear())),
      ),
      group(
        button("−", () => this.#easel.zoomBy(1 / 1.5), { "aria-label": "Zoom out" }),
        button("Fit", () => this.#easel.fit()),
        button("+", () => this.#easel.zoomBy(1.5), { "aria-label": "Zoom in" }),
      ),
    ];
  }

  #take(erases) {
    this.#erases = erases;
    this.#tools.brush.setAttribute("aria-pressed", String(!erases));
    this.#tools.eraser.setAttribute("aria-pressed", String(erases));
  }

  #resize(value) {
    this.#size.value = value;
    this.#easel.size = Number(this.#size.value);
  }

  /** Changes the layer, but not under a stroke, which is the last step until it ends. */
  #change(what) {
    if (this.#easel.isPainting) return;
    what();
    this.#changed();
  }

  #changed() {
    this.#tools.undo.disabled = !this.#layer.canUndo;
    this.#tools.redo.disabled = !this.#layer.canRedo;
    this.#dialog.changed();
    this.#dialog.say(HELP);
  }

  #key(event) {
    const { key, shiftKey } = event;
    const command = event.ctrlKey || event.metaKey;
    const layer = this.#layer;
    const size = Number(this.#size.value);
    const redo = () => this.#change(() => layer.redo());
    const actions = command
      ? { z: shiftKey ? redo : () => this.#change(() => layer.undo()), y: redo }
      : {
          "[": () => this.#resize(Math.min(size - 1, size * 0.85)),
          "]": () => this.#resize(Math.max(size + 1, size * 1.18)),
          b: () => this.#take(false),
          e: () => this.#take(true),
          i: () => this.#change(() => layer.invert()),
        };
    const action = actions[key.toLowerCase()];
    if (action !== undefined) {
      event.preventDefault();
      action();
      this.#changed();
    } else if (key === "Enter" && !event.target.matches("button")) {
      event.preventDefault();
      this.#finish();
    }
  }

  async #finish() {
    if (!this.#layer.isPainted) return this.#dialog.say("Nothing is painted yet.");
    const file = await fileOf(this.#layer.mask(Number(this.#soft?.value ?? 0)), "mask.png");
    if (!this.#control.node.isConnected) return this.#dialog.say(NO_PLACE);
    this.#dialog.close();
    this.#control.load(file);
  }
}
