// Dialog that crops an image or, with a mask for what is new, extends it.

import { h, labelled, select } from "../interface/element.js";
import { fileOf, group, NO_PLACE, pictureAt, refuse, slider, WorkDialog } from "./picture.js";
import { pixelsOf } from "../form/size.js";
import { hold } from "../form/unreadable.js";

const TITLE = "Crop";
const RATIOS = { "1:1": 1, "4:3": 4 / 3, "3:4": 3 / 4, "16:9": 16 / 9, "9:16": 9 / 16 };
const MOST_ZOOM = 4;
const MOST_PIXELS = 4096; // of a side of an extended image
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Pixels by which the mask reaches into the old image, so that no seam is left. */
const OVERLAP = 8;

/** Opens the dialog for the control of an image. `rows` are those of the form. */
export async function edit(control, rows, field, _api, address) {
  const source = control.shown();
  const image = await pictureAt(source);
  if (image === null) return refuse(TITLE, source);
  const mask = rows.find(({ field: { name, media } }) => media === "image" && name.includes("mask"));
  const size = rows.find(({ field: { kind } }) => kind === "size");
  const done = (files) => {
    if (!control.node.isConnected) return false;
    control.load(files.image);
    if (files.mask) mask.control.load(files.mask);
    return true;
  };
  const extending = mask !== undefined && mask.field !== field;
  new FrameDialog({ image, wanted: sizeOf(size), extending, done }, address);
}

/** Width and height that the form asks for, or null. */
function sizeOf(row) {
  if (row === undefined) return null;
  const { value, text } = hold(row.control);
  return text === undefined ? pixelsOf(value ?? row.field.fallback) : null;
}

class FrameDialog {
  #task;
  #dialog;
  #canvas = h.canvas({
    tabindex: 0,
    role: "application",
    class: "frame",
    "aria-label": "Frame. Arrow keys move the image, plus and minus zoom.",
  });
  #ratio;
  #zoom;
  #centre = [0.5, 0.5]; // of the frame, in parts of the image
  #last = null; // place of the pointer that drags
  #isChanged = false;

  /** `task` has the `image`, the `wanted` size or null, whether it may be `extending` the image, and
   * `done(files)`, which returns false if the form has no place for them any more. */
  constructor(task, address) {
    const { wanted, extending } = task;
    this.#task = task;
    const changed = () => this.#change();
    const choices = [["own", "As the image"], ...Object.keys(RATIOS).map((each) => [each, each])];
    if (wanted !== null) choices.unshift(["form", `Size in the form, ${wanted.join(" × ")}`]);
    this.#ratio = select(choices, { change: changed });
    const least = extending ? 0.4 : 1;
    this.#zoom = slider({ step: 0.01, min: least, max: MOST_ZOOM, value: 1 }, changed);
    const act = {
      isChanged: () => this.#isChanged,
      lost: "this frame, or use the image.",
      use: "Use image",
      finish: () => this.#finish(),
    };
    const tools = [group(labelled("Frame", this.#ratio)), group(labelled("Zoom", this.#zoom))];
    const title = extending ? "Crop or extend" : TITLE;
    const place = h.div({ class: "easel" }, this.#canvas);
    this.#dialog = new WorkDialog(title, address, act, tools, place);
    this.#listen();
    this.#draw();
    this.#canvas.focus();
  }

  #listen() {
    const canvas = this.#canvas;
    canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.#last = [event.clientX, event.clientY];
    });
    canvas.addEventListener("pointermove", ({ clientX, clientY }) => {
      if (this.#last === null) return;
      const box = canvas.getBoundingClientRect();
      const { width, height, scale } = this.#place();
      const by = [clientX - this.#last[0], clientY - this.#last[1]];
      const shown = [this.#task.image.naturalWidth * scale, this.#task.image.naturalHeight * scale];
      this.#move((-by[0] * width) / box.width / shown[0], (-by[1] * height) / box.height / shown[1]);
      this.#last = [clientX, clientY];
    });
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, () => (this.#last = null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoomBy(Math.exp(-event.deltaY / 400));
    });
    canvas.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      const factor = { "+": 1.1, "=": 1.1, "-": 1 / 1.1 }[event.key];
      if (step === undefined && factor === undefined) return;
      event.preventDefault();
      if (step !== undefined) this.#move(step[0] / 50, step[1] / 50);
      else this.#zoomBy(factor);
    });
  }

  #zoomBy(factor) {
    this.#zoom.value = Number(this.#zoom.value) * factor;
    this.#change();
  }

  #move(right, down) {
    this.#centre = [this.#centre[0] + right, this.#centre[1] + down];
    this.#change();
  }

  #change() {
    this.#isChanged = true;
    this.#dialog.changed();
    this.#draw();
  }

  /** Size of the frame, and where the image lies in it, in pixels of the result. */
  #place() {
    const sides = [this.#task.image.naturalWidth, this.#task.image.naturalHeight];
    const [width, height] = this.#frame(sides);
    const cover = Math.max(width / sides[0], height / sides[1]);
    const scale = cover * Number(this.#zoom.value);
    const frame = [width, height];
    this.#centre = this.#centre.map((each, axis) => {
      // Half of the frame in parts of the image: the frame stays in the image, or around it.
      const half = frame[axis] / (sides[axis] * scale) / 2;
      const [least, most] = [Math.min(half, 1 - half), Math.max(half, 1 - half)];
      return Math.max(least, Math.min(most, each));
    });
    const [x, y] = this.#centre.map((each, axis) => frame[axis] / 2 - each * sides[axis] * scale);
    return { width, height, scale, x, y };
  }

  #frame([width, height]) {
    if (this.#ratio.value === "form") return this.#task.wanted;
    const ratio = RATIOS[this.#ratio.value] ?? width / height;
    const most = width / height > ratio ? [height * ratio, height] : [width, width / ratio];
    // Without a size in the form, the pixels of the image stay as they are: the frame shrinks or grows.
    const grown = Math.min(1 / Number(this.#zoom.value), Math.max(1, MOST_PIXELS / Math.max(...most)));
    return most.map((side) => Math.round(side * grown));
  }

  #draw() {
    const { width, height, scale, x, y } = this.#place();
    const sides = [this.#task.image.naturalWidth * scale, this.#task.image.naturalHeight * scale];
    const [right, bottom] = [x + sides[0], y + sides[1]];
    Object.assign(this.#canvas, { width, height });
    this.#canvas.style.setProperty("--ratio", width / height);
    const context = this.#canvas.getContext("2d");
    const isLarger = x > 0.5 || y > 0.5 || right < width - 0.5 || bottom < height - 0.5;
    if (isLarger) fillRound(context, this.#task.image, [width, height]);
    context.drawImage(this.#task.image, x, y, ...sides);
    const words = `${width} × ${height} pixels. Drag the image to move it.`;
    this.#dialog.say(isLarger ? `${words} What is blurred is drawn new.` : words);
    return isLarger ? { left: x, top: y, right, bottom } : null;
  }

  async #finish() {
    const inside = this.#draw();
    let image, mask;
    try {
      image = await fileOf(this.#canvas, "cropped.png");
      mask = inside && this.#task.extending ? await fileOf(this.#mask(inside), "mask.png") : null;
    } catch {
      // The store of the files is at another origin, whose pixels a page cannot read.
      return this.#dialog.say("The page cannot read this image. Save it, and choose the file.");
    }
    if (this.#task.done({ image, mask })) this.#dialog.close();
    else this.#dialog.say(NO_PLACE);
  }

  /** Mask of what is new: white around the old image, which is black. */
  #mask({ left, top, right, bottom }) {
    const { width, height } = this.#canvas;
    const mask = h.canvas({ width, height });
    const context = mask.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.fillStyle = "#000";
    const x = left > 0.5 ? left + OVERLAP : 0;
    const y = top > 0.5 ? top + OVERLAP : 0;
    const end = right < width - 0.5 ? right - OVERLAP : width;
    const foot = bottom < height - 0.5 ? bottom - OVERLAP : height;
    context.fillRect(x, y, end - x, foot - y);
    return mask;
  }
}

/** Fills the frame with the image, enlarged and blurred, from which a model continues better than from
 * one colour. */
function fillRound(context, image, [width, height]) {
  const scale = 1.2 * Math.max(width / image.naturalWidth, height / image.naturalHeight);
  const [wide, high] = [image.naturalWidth * scale, image.naturalHeight * scale];
  context.filter = `blur(${Math.round(Math.min(width, height) / 16)}px)`;
  context.drawImage(image, (width - wide) / 2, (height - high) / 2, wide, high);
  context.filter = "none";
}
