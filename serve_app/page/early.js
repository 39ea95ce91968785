// Runs before the page is drawn, so that its first picture has the chosen theme, and the form or the
// question for the key. Not a module, because modules run later.

(() => {
  const root = document.documentElement;
  let theme = null;
  let key = null;
  try {
    theme = localStorage.getItem("darkroom.theme");
    key = localStorage.getItem("darkroom.key");
  } catch {
    // The browser forbids storage.
  }
  const isLight = theme === "light";
  root.dataset.theme = isLight ? "light" : "dark";
  if (isLight) document.querySelector("[name='theme-color']").content = "#fbfaf7";
  root.classList.toggle("locked", key === null);
})();
