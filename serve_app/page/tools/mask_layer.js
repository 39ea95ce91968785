// What was painted on an image: strokes that can be undone, and the mask that they make.

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
    const base = document.createElement("canvas");
    Object.assign(base, { width, height });
    const context = base.getContext("2d");
    context.drawImage(image, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height);
    const { data } = pixels;
    for (let at = 0; at < data.length; at += 4) data[at + 3] = (data[at] * data[at + 3]) / 255;
    context.putImageData(pixels, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = PAINT;
    context.fillRect(0, 0, width, height);
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

  /** The mask as a PNG: white where paint is, black elsewhere; `soft` is the width of its edge in
   * pixels. */
  async png(soft = 0) {
    const { width, height } = this.canvas;
    const white = document.createElement("canvas");
    Object.assign(white, { width, height });
    let context = white.getContext("2d");
    context.drawImage(this.canvas, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    const made = document.createElement("canvas");
    Object.assign(made, { width, height });
    context = made.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    if (soft > 0) context.filter = `blur(${soft}px)`;
    context.drawImage(white, 0, 0);
    return await new Promise((resolve) => made.toBlob(resolve, "image/png"));
  }

  #do(step) {
    this.#done.push(step);
    this.#undone = [];
    this.#apply(step);
  }

  #draw() {
    this.#fill("copy", "transparent");
    if (this.#base !== null) this.#context.drawImage(this.#base, 0, 0);
    for (const step of this.#done) this.#apply(step);
  }

  #apply(step) {
    if (step.kind === "invert") this.#fill("xor", PAINT);
    else if (step.kind === "clear") this.#fill("copy", "transparent");
    else step.points.forEach((_, at) => this.#paint(step, at));
  }

  #fill(how, colour) {
    const context = this.#context;
    context.globalCompositeOperation = how;
    context.fillStyle = colour;
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.globalCompositeOperation = "source-over";
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
