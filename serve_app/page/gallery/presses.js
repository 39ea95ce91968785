// Long presses with a finger.

const LONG_MS = 500;
const STILL = 6; // pixels that a finger may move

/** Calls `pressed(node)` after a long press on a part of `host` that matches `selector`. The
 * click at its end is not for others. */
export function listenForLongPresses(host, selector, pressed) {
  let timer = null;
  let done = false;
  host.addEventListener("pointerdown", (event) => {
    clearTimeout(timer);
    done = false;
    const node = event.target.closest(selector);
    if (event.pointerType !== "touch" || node === null) return;
    timer = setTimeout(() => {
      done = true;
      pressed(node);
    }, LONG_MS);
  });
  host.addEventListener("pointermove", ({ movementX, movementY }) => {
    if (Math.hypot(movementX, movementY) > STILL) clearTimeout(timer);
  });
  for (const name of ["pointerup", "pointercancel"])
    host.addEventListener(name, () => clearTimeout(timer));
  host.addEventListener("contextmenu", (event) => done && event.preventDefault());
  host.addEventListener(
    "click",
    (event) => {
      if (!done) return;
      done = false;
      event.preventDefault();
      event.stopImmediatePropagation();
    },
    { capture: true },
  );
}
