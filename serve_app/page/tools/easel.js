// Place where an image is worked on: pans, zooms, and reports strokes of mouse, pen, finger and keys.

import { h } from "../interface/element.js";

const MOST_ZOOM = 16;
const MOVED = 6; // CSS pixels by which a finger that rests may tremble
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Share of the brush that a pen paints without pressure. */
const LEAST_PRESSURE = 0.25;

/**
 * Easel for layers of `width` × `height` pixels. `act` has `start()`, `extend(x, y, part)` in pixels of
 * the image, where `part` is the share of the brush by the pen's pressure, and `end()`. One pointer
 * paints; two move and zoom, and the first finger paints nothing if a second one comes before it moves.
 * Arrow keys move the brush, and it paints while Space is held.
 */
export class Easel {
  #act;
  #sides;
  #stack;
  #brush = h.div({ class: "brush", "aria-hidden": "true", hidden: true });
  #pointers = new Map(); // id → {x, y}
  #painting = null; // id of the pointer that paints, or "keys"
  #held = null; // first event of a finger, which paints when no second one comes
  #zoom = 1; // 1: the image fits
  #shift = [0, 0]; // of the centre, in CSS pixels
  #at; // where the keys have moved the brush
  #size = 10;

  constructor(layers, sides, act, label) {
    this.#act = act;
    this.#sides = sides;
    this.#at = sides.map((side) => side / 2);
    this.#stack = h.div({ class: "layers" }, layers);
    this.#stack.style.setProperty("--ratio", sides[0] / sides[1]);
    this.node = h.div(
      { class: "easel", tabindex: 0, role: "application", "aria-label": label },
      this.#stack,
      this.#brush,
    );
    const on = (name, what) => this.node.addEventListener(name, what, { passive: false });
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) on(name, (event) => this.#up(event));
    on("pointerleave", () => (this.#brush.hidden = true));
    on("wheel", (event) => this.#wheel(event));
    on("keydown", (event) => this.#key(event));
    on("keyup", (event) => event.key === " " && this.#lift());
    on("blur", () => this.#lift());
    on("contextmenu", (event) => event.preventDefault());
  }

  /** Sets the diameter of the brush in pixels of the image. */
  set size(value) {
    this.#size = value;
  }

  /** True during a stroke. */
  get isPainting() {
    return this.#painting !== null;
  }

  /** Shows the whole image. */
  fit() {
    this.#zoom = 1;
    this.#shift = [0, 0];
    this.#place();
  }

  /** Zooms by `factor` round a point of the window, or round the centre. */
  zoomBy(factor, x = null, y = null) {
    const box = this.node.getBoundingClientRect();
    const centre = [box.left + box.width / 2, box.top + box.height / 2];
    const zoom = Math.max(1, Math.min(MOST_ZOOM, this.#zoom * factor));
    const grown = zoom / this.#zoom;
    const point = [x ?? centre[0], y ?? centre[1]];
    this.#shift = this.#shift.map((old, axis) => {
      const away = point[axis] - centre[axis];
      return away - (away - old) * grown;
    });
    this.#zoom = zoom;
    this.#place();
  }

  #place() {
    const limits = [this.node.clientWidth, this.node.clientHeight];
    const most = limits.map((side) => (side * this.#zoom) / 2);
    this.#shift = this.#shift.map((each, at) => Math.max(-most[at], Math.min(most[at], each)));
    const [x, y] = this.#shift;
    this.#stack.style.transform = `translate(${x}px, ${y}px) scale(${this.#zoom})`;
  }

  #down(event) {
    event.preventDefault();
    this.node.focus({ preventScroll: true });
    try {
      this.node.setPointerCapture(event.pointerId);
    } catch {
      // The pointer has gone already.
    }
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.#held = null;
    if (this.#pointers.size === 2) return this.#lift(); // two fingers move the image
    if (this.#pointers.size > 2 || event.button > 0) return;
    if (event.pointerType === "touch") this.#held = event;
    else this.#begin(event);
  }

  #begin(event) {
    this.#held = null;
    this.#painting = event.pointerId;
    this.#act.start();
    this.#extend(event);
  }

  #move(event) {
    if (event.pointerType !== "touch") this.#show(event.clientX, event.clientY);
    const last = this.#pointers.get(event.pointerId);
    if (last === undefined) return;
    if (this.#held?.pointerId === event.pointerId) {
      const far = Math.hypot(event.clientX - this.#held.clientX, event.clientY - this.#held.clientY);
      if (far < MOVED) return; // a second finger may come
      this.#begin(this.#held);
    }
    if (this.#painting === event.pointerId) {
      const parts = event.getCoalescedEvents?.() ?? [];
      for (const each of parts.length ? parts : [event]) this.#extend(each);
    } else this.#pan(event, last);
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  #pan({ pointerId, clientX, clientY }, last) {
    const others = [...this.#pointers].filter(([id]) => id !== pointerId).map(([, place]) => place);
    const share = others.length ? 0.5 : 1; // of two fingers, each moves the image by half
    const by = [clientX - last.x, clientY - last.y];
    this.#shift = this.#shift.map((each, axis) => each + by[axis] * share);
    if (others.length === 1) {
      const [{ x, y }] = others;
      const before = Math.hypot(last.x - x, last.y - y);
      const now = Math.hypot(clientX - x, clientY - y);
      if (before > 0) this.zoomBy(now / before, (clientX + x) / 2, (clientY + y) / 2);
    }
    this.#place();
  }

  #up({ pointerId, type }) {
    this.#pointers.delete(pointerId);
    if (this.#held?.pointerId === pointerId) {
      if (type === "pointerup") this.#begin(this.#held);
      this.#held = null;
    }
    if (this.#painting === pointerId) this.#lift();
  }

  #lift() {
    if (this.#painting === null) return;
    this.#painting = null;
    this.#act.end();
  }

  #extend({ clientX, clientY, pointerType, pressure }) {
    const part = pointerType === "pen" ? LEAST_PRESSURE + (1 - LEAST_PRESSURE) * pressure : 1;
    const box = this.#stack.getBoundingClientRect();
    const [width, height] = this.#sides;
    this.#at = [
      ((clientX - box.left) * width) / box.width,
      ((clientY - box.top) * height) / box.height,
    ];
    this.#act.extend(...this.#at, part);
  }

  #wheel(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = STEPS[event.key];
    if (step === undefined && event.key !== " ") return;
    event.preventDefault();
    if (step !== undefined) {
      const far = Math.max(1, this.#size / (event.shiftKey ? 1 : 4));
      this.#at = this.#at.map((each, axis) =>
        Math.max(0, Math.min(this.#sides[axis], each + step[axis] * far)),
      );
    } else if (this.#painting === null) {
      this.#painting = "keys";
      this.#act.start();
    }
    const box = this.#stack.getBoundingClientRect();
    const [x, y] = this.#at.map((each, axis) => each / this.#sides[axis]);
    this.#show(box.left + x * box.width, box.top + y * box.height);
    if (this.#painting === "keys") this.#act.extend(...this.#at, 1);
  }

  /** Shows the outline of the brush at a point of the window. */
  #show(x, y) {
    const box = this.node.getBoundingClientRect();
    const size = (this.#size * this.#stack.getBoundingClientRect().width) / this.#sides[0];
    this.#brush.hidden = false;
    this.#brush.style.width = this.#brush.style.height = `${size}px`;
    this.#brush.style.transform = `translate(${x - box.left - size / 2}px, ${y - box.top - size / 2}px)`;
  }
}
