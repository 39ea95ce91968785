// Videos that play in their tile under the mouse.

import { moves, silentVideo } from "../results/media.js";

const WAIT_MS = 150; // a mouse that passes by starts nothing

/** Plays the video of a tile in `host` while the mouse is over it. `fileOf(tile)` is its file. */
export function playUnderMouse(host, fileOf) {
  if (!moves()) return;
  let timer = null;
  let player = null;
  let over = null;
  const stop = () => {
    clearTimeout(timer);
    player?.remove();
    player = null;
    over = null;
  };
  host.addEventListener("pointerover", ({ target, pointerType }) => {
    const tile = target.closest('.tile[data-kind="video"]');
    if (tile === over) return;
    stop();
    if (tile === null || pointerType !== "mouse") return;
    over = tile;
    timer = setTimeout(() => {
      const given = { src: fileOf(tile).url, "aria-hidden": "true", tabindex: -1 };
      player = silentVideo(given);
      tile.querySelector("a").append(player);
      player.play().catch(stop); // the browser may forbid it
    }, WAIT_MS);
  });
  host.addEventListener("pointerleave", stop);
}
