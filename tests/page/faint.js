// Lists every visible text whose contrast with its background is below 4.5.
() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb
      .map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const { rgb, a } = parse(getComputedStyle(each).backgroundColor);
      if (a === 1) return rgb;
    }
    return [128, 128, 128]; // no text is readable enough on it
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    const typed = node.matches("input, textarea, select");
    if (
      (!own && !typed) ||
      !node.checkVisibility({ visibilityProperty: true, opacityProperty: true })
    )
      continue;
    const colours = [getComputedStyle(node).color];
    if (typed) colours.push(getComputedStyle(node, "::placeholder").color);
    for (const colour of colours) {
      const [light, dark] = [luminance(parse(colour).rgb), luminance(behind(node))].sort(
        (a, b) => b - a,
      );
      const ratio = (light + 0.05) / (dark + 0.05);
      if (ratio < 4.5)
        found.push(
          `${node.tagName} ${node.className} ${ratio.toFixed(2)} ${node.textContent.slice(0, 30)}`,
        );
    }
  }
  return found;
};
