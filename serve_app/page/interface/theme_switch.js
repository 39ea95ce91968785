// Switch between the dark theme and the light one. Until it is used, the theme is the system's.

import { keepText } from "../client/storage.js";
import { byId } from "./element.js";

/** Colour of the browser's own bars, as that of the header; `early.js` sets it too. */
const COLOURS = { dark: "#141110", light: "#fbfaf7" };

const PLACE = "darkroom.theme"; // `early.js` reads it before the page is drawn

export function listenForTheme() {
  const root = document.documentElement;
  const button = byId("theme-button");
  const show = () => {
    const isLight = root.dataset.theme === "light";
    document.querySelector("[name='theme-color']").content = COLOURS[root.dataset.theme];
    button.setAttribute("aria-label", isLight ? "Use the dark theme" : "Use the light theme");
  };
  button.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "light" ? "dark" : "light";
    show();
    keepText(PLACE, root.dataset.theme);
  });
  show();
}
