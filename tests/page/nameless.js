// Lists every control without an accessible name.
() =>
  [...document.querySelectorAll("button, a[href], input, select, textarea, video, audio")]
    .filter((each) => each.checkVisibility({ visibilityProperty: true }))
    .filter(
      (each) =>
        !(
          each.ariaLabel ||
          each.labels?.length ||
          (each.textContent.trim() && !each.matches("input, select, textarea")) ||
          each.querySelector("img[alt]:not([alt=''])")
        ),
    )
    .map((each) => each.outerHTML.slice(0, 120));
