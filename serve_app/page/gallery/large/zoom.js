// Zoom and pan of what is in a box: by wheel, pinch, drag, double click and keys.

const MOST = 16; // times the size that fits
const STEP = 1.5; // of a key or a button
const FLICK = 60; // pixels
const PAN = 80;

/**
 * Zoom of `content` in `box`. `width` and `height` are the content's in pixels; it is never shown
 * larger than that until the user zooms. `changed(zoom)` is called after a change by the user,
 * `flicked(direction)` after a swipe to the side of content that is not zoomed: 1 to the next.
 */
export class Zoom {
  scale = 1; // 1: it fits
  #box;
  #content;
  #natural;
  #x = 0; // pixels that the middle of the content is beside that of the box
  #y = 0;
  #changed;
  #flicked;
  #pointers = new Map(); // id → [x, y]
  #began = null; // of a swipe
  #stopping = new AbortController();
  #watcher = new ResizeObserver(() => this.#draw());

  constructor(box, content, { width, height, changed = () => {}, flicked = () => {} }) {
    this.#box = box;
    this.#content = content;
    this.#natural = [width, height];
    this.#changed = changed;
    this.#flicked = flicked;
    box.classList.add("zoomed-box");
    this.#watcher.observe(box);
    const { signal } = this.#stopping;
    const listen = (name, what) =>
      box.addEventListener(name, (event) => what(event), { signal, passive: false });
    listen("wheel", (event) => this.#wheel(event));
    listen("dblclick", (event) => this.#toggle(event));
    listen("pointerdown", (event) => this.#down(event));
    listen("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) listen(name, (event) => this.#up(event));
    this.#draw();
  }

  /** Leaves the box as it was. */
  stop() {
    this.#watcher.disconnect();
    this.#stopping.abort();
    this.#box.classList.remove("zoomed-box", "is-zoomed");
  }

  /** Scale at which a pixel of the content is a pixel of the screen. */
  get whole() {
    return this.#natural[0] / this.#size()[0] / devicePixelRatio;
  }

  /** Size of the content in percent of its own pixels. */
  get percent() {
    return Math.round((100 * this.scale) / this.whole);
  }

  /** What is in sight, in parts of the content, so that another one can show the same. */
  get sight() {
    const [width, height] = this.#size();
    return { scale: this.scale, x: this.#x / width, y: this.#y / height };
  }

  /** Shows the same part as another one. */
  follow({ scale, x, y }) {
    const [width, height] = this.#size();
    this.scale = scale;
    [this.#x, this.#y] = [x * width, y * height];
    this.#draw();
  }

  /** Fits the content into its box. */
  fit() {
    this.#to(1, 0, 0);
  }

  in() {
    this.#to(this.scale * STEP);
  }

  out() {
    this.#to(this.scale / STEP);
  }

  /** Does what a key means; false if it means nothing here. */
  key({ key, shiftKey }) {
    const pans = { ArrowRight: [-PAN, 0], ArrowLeft: [PAN, 0], ArrowDown: [0, -PAN], ArrowUp: [0, PAN] };
    if (key === "+" || key === "=") this.in();
    else if (key === "-") this.out();
    else if (key === "0") this.fit();
    else if (key === "1") this.#to(this.whole);
    else if (shiftKey && key in pans) this.#shift(...pans[key]);
    else return false;
    return true;
  }

  /** Width and height of the content at the scale 1. */
  #size() {
    const [width, height] = this.#natural;
    const { clientWidth, clientHeight } = this.#box;
    const part = Math.min(1, (clientWidth || 1) / width, (clientHeight || 1) / height);
    return [Math.max(1, width * part), Math.max(1, height * part)];
  }

  /** Zooms; the point at `x` and `y` from the middle of the box stays where it is. */
  #to(scale, x = 0, y = 0) {
    const next = Math.min(Math.max(MOST, this.whole), Math.max(1, scale));
    const part = next / this.scale;
    this.#x = x - (x - this.#x) * part;
    this.#y = y - (y - this.#y) * part;
    this.scale = next;
    this.#draw();
    this.#changed(this);
  }

  #shift(right, down) {
    this.#x += right;
    this.#y += down;
    this.#draw();
    this.#changed(this);
  }

  #draw() {
    const [width, height] = this.#size();
    const most = (size, room) => Math.max(0, (size * this.scale - room) / 2);
    const within = (value, limit) => Math.min(limit, Math.max(-limit, value));
    this.#x = within(this.#x, most(width, this.#box.clientWidth));
    this.#y = within(this.#y, most(height, this.#box.clientHeight));
    const { style } = this.#content;
    style.width = `${width}px`;
    style.height = `${height}px`;
    style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.scale})`;
    this.#box.classList.toggle("is-zoomed", this.scale > 1);
  }

  /** Place of an event, from the middle of the box. */
  #place({ clientX, clientY }) {
    const { left, top, width, height } = this.#box.getBoundingClientRect();
    return [clientX - left - width / 2, clientY - top - height / 2];
  }

  #wheel(event) {
    event.preventDefault();
    const speed = event.ctrlKey ? 0.01 : 0.0016; // pinches on a pad are wheels with Ctrl
    this.#to(this.scale * Math.exp(-event.deltaY * speed), ...this.#place(event));
  }

  #toggle(event) {
    if (event.target.closest("button, a, input, video, audio")) return;
    if (this.scale > 1) this.fit();
    else this.#to(Math.max(2, this.whole), ...this.#place(event));
  }

  #down(event) {
    if (event.button !== 0 || event.target.closest("button, a, input, video, audio")) return;
    this.#box.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#place(event));
    this.#began = this.#pointers.size === 1 ? this.#place(event) : null;
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (before === undefined) return;
    const now = this.#place(event);
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.#pointers.set(event.pointerId, now);
    if (other !== undefined) {
      const apart = ([x, y]) => Math.hypot(x - other[0], y - other[1]) || 1;
      const [x, y] = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
      this.#to(this.scale * (apart(now) / apart(before)), x, y);
    }
    const share = other === undefined ? 1 : 0.5; // of two fingers, each moves half of it
    if (this.scale > 1) this.#shift((now[0] - before[0]) * share, (now[1] - before[1]) * share);
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    const began = this.#began;
    this.#began = null;
    if (began === null || this.scale > 1 || event.type === "pointercancel") return;
    const [x, y] = this.#place(event);
    const right = x - began[0];
    if (Math.abs(right) > FLICK && Math.abs(right) > 1.5 * Math.abs(y - began[1]))
      this.#flicked(right < 0 ? 1 : -1);
  }
}
