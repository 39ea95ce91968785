// Switch between the dark theme, which is the default, and the light one.

import { byId } from "./element.js";

const PLACE = "darkroom.theme"; // `early.js` reads it before the page is drawn

export function listenForTheme() {
  const root = document.documentElement;
  const button = byId("theme-button");
  const show = () => {
    const light = root.dataset.theme === "light";
    button.setAttribute("aria-label", light ? "Use the dark theme" : "Use the light theme");
  };
  button.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "light" ? "dark" : "light";
    show();
    try {
      localStorage.setItem(PLACE, root.dataset.theme);
    } catch {
      // The theme is kept until the page is closed.
    }
  });
  show();
}
