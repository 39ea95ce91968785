// What was painted on an image: strokes that can be undone, and the mask that they make.

import { h } from "../interface/element.js";

/** Colour of what is painted while it is edited. */
const PAINT = "#ff5a36";

/** Layer of paint. `canvas` has the size of the image, in pixels. */
export class MaskLayer {
  #context;
  #base = null; // canvas with the mask that was there before
  #done = []; // {kind, …}, of which the last can be undone
  #undone = [];

  constructor(canvas) {
    this.canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  /** Begins with the mask in `image`: what is white there is painted. */
  begin(image) {
    const { width, height } = this.canvas;
    const base = h.canvas({ width, height });
    const context = base.getContext("2d");
    context.drawImage(image, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height);
    const { data } = pixels;
    for (let at = 0; at < data.length; at += 4) data[at + 3] = (data[at] * data[at + 3]) / 255;
    context.putImageData(pixels, 0, 0);
    fill(context, "source-in", PAINT);
    this.#base = base;
    this.#draw();
  }

  /** Starts a stroke; `erases` takes paint away. */
  start(erases) {
    this.#do({ kind: "stroke", erases, points: [] });
  }

  /** Continues the stroke to a point in pixels of the image, `width` pixels wide there. */
  extend(x, y, width) {
    const stroke = this.#done.at(-1);
    stroke.points.push({ x, y, width });
    this.#paint(stroke, stroke.points.length - 1);
  }

  invert() {
    this.#do({ kind: "invert" });
  }

  clear() {
    this.#do({ kind: "clear" });
  }

  undo() {
    if (!this.canUndo) return;
    this.#undone.push(this.#done.pop());
    this.#draw();
  }

  redo() {
    if (!this.canRedo) return;
    this.#done.push(this.#undone.pop());
    this.#draw();
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** True if some pixel is painted. */
  get isPainted() {
    const { width, height } = this.canvas;
    const { data } = this.#context.getImageData(0, 0, width, height);
    for (let at = 3; at < data.length; at += 4) if (data[at] > 0) return true;
    return false;
  }

  /** The mask as a canvas: white where paint is, black elsewhere; `soft` is the width of its edge in
   * pixels. */
  mask(soft) {
    const { width, height } = this.canvas;
    const white = h.canvas({ width, height });
    let context = white.getContext("2d");
    context.drawImage(this.canvas, 0, 0);
    fill(context, "source-in", "#fff");
    const made = h.canvas({ width, height });
    context = made.getContext("2d");
    fill(context, "source-over", "#000");
    if (soft > 0) context.filter = `blur(${soft}px)`;
    context.drawImage(white, 0, 0);
    return made;
  }

  #do(step) {
    this.#done.push(step);
    this.#undone = [];
    this.#apply(step);
  }

  #draw() {
    fill(this.#context, "copy", "transparent");
    if (this.#base !== null) this.#context.drawImage(this.#base, 0, 0);
    for (const step of this.#done) this.#apply(step);
  }

  #apply(step) {
    if (step.kind === "invert") fill(this.#context, "xor", PAINT);
    else if (step.kind === "clear") fill(this.#context, "copy", "transparent");
    else step.points.forEach((_, at) => this.#paint(step, at));
  }

  /** Draws the part of a stroke that ends at its point `at`. */
  #paint({ erases, points }, at) {
    const context = this.#context;
    const { x, y, width } = points[at];
    const from = points[Math.max(0, at - 1)];
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.strokeStyle = PAINT;
    context.lineWidth = width;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(x, y + (at === 0 ? 0.01 : 0)); // a line without a length is not drawn
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }
}

/** Fills the canvas of a context with a colour, `how` to compose it with what is there. */
function fill(context, how, colour) {
  context.globalCompositeOperation = how;
  context.fillStyle = colour;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.globalCompositeOperation = "source-over";
}
