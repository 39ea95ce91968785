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
  theme ??= matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
  const isLight = theme === "light";
  root.dataset.theme = isLight ? "light" : "dark";
  if (isLight) document.querySelector("[name='theme-color']").content = "#fbfaf7";
  root.classList.toggle("locked", key === null);

  // While Darkroom is being updated, the script may be asked for where another version answers: the
  // page would stay as it is drawn, and do nothing.
  const failed = ({ target }) => {
    if (target.type !== "module") return;
    const button = document.createElement("button");
    button.textContent = "Reload";
    button.addEventListener("click", () => location.reload());
    const notice = document.createElement("p");
    notice.className = "notice";
    notice.setAttribute("role", "alert");
    notice.append("This page could not be loaded; Darkroom may have been updated meanwhile. ", button);
    document.body.prepend(notice);
  };
  addEventListener("error", failed, true); // it does not bubble
})();
