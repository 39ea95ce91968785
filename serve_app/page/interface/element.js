// Helpers that create DOM elements. Children are text or elements; text never becomes markup.

/**
 * Creates an element with `attributes` (functions become listeners; `false` and `null` omit the
 * attribute) and `children`.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else made.setAttribute(name, String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Button that calls `click`, which may be null. It is quiet, unless `attributes` give another class.
 * `content` is a child, or an array of children. */
export function button(content, click = null, attributes = {}) {
  return element("button", { type: "button", class: "quiet", click, ...attributes }, content);
}

/** Rows of a list of facts by their names. Those without a value are left out. */
export function factRows(facts) {
  return Object.entries(facts)
    .filter(([, value]) => value !== undefined && value !== null && value !== "")
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

let made = 0;

/** Unique element id. */
export function freshId(name) {
  made += 1;
  return `${name}-${made}`;
}

/** Element of the page with this id, which must exist. */
export function byId(id) {
  return document.getElementById(id);
}
