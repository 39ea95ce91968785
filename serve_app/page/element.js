// Elements made by hand. Children are text or elements: no text ever becomes markup.

/**
 * An element with `attributes` (functions are listeners, `false` and `null` leave one out) and
 * `children`.
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

let made = 0;

/** An id that no other element has. */
export function freshId(name) {
  made += 1;
  return `${name}-${made}`;
}

/** The element of the page with this id; it is always there. */
export function byId(id) {
  return document.getElementById(id);
}
