// Helpers that create DOM elements. Children are text or elements; text never becomes markup.

/** Elements by their tags: `h.p({ class: "help" }, "Words")`. The attributes may be missing; functions
 * become listeners, and `false` and `null` omit the attribute. Children that are `false` or `null` are left
 * out. What may be an object, as JSON of a user, stands behind attributes: `h.dd({}, value)`. */
export const h = new Proxy({}, { get: (_, tag) => element.bind(null, tag) });

function element(tag, ...given) {
  const attributes = given[0]?.constructor === Object ? given.shift() : {};
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (!isGiven(value)) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else made.setAttribute(name, String(value));
  }
  made.append(...given.flat().filter(isGiven));
  return made;
}

function isGiven(value) {
  return value !== null && value !== undefined && value !== false;
}

/** Button that calls `click`, which may be null. It is quiet, unless `attributes` give another class.
 * `content` is a child, or an array of children. */
export function button(content, click = null, attributes = {}) {
  return h.button({ type: "button", class: "quiet", click, ...attributes }, content);
}

/** Select of `choices`, pairs of value and words. `value` is chosen at first. */
export function select(choices, { value, ...attributes } = {}) {
  const made = h.select({ id: freshId("choice"), ...attributes }, options(choices));
  if (value !== undefined) made.value = value;
  return made;
}

/** Options of a select, from pairs of value and words. */
export function options(choices) {
  return choices.map(([value, words]) => h.option({ value }, words));
}

/** A label with these words, and its control, which has an id. */
export function labelled(words, control) {
  return [h.label({ for: control.id }, words), control];
}

/** Sets an attribute; null: removes it. */
export function attribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

/** Line that says what went wrong, see `tell`. */
export function problemLine() {
  return h.p({ class: "problem", role: "alert", hidden: true });
}

/** Shows words and nodes in `line`, which is hidden as long as they are empty. */
export function tell(line, words, ...more) {
  line.replaceChildren(words, ...more);
  line.hidden = words === "";
}

/** Rows of a list of facts by their names. Those without a value are left out. */
export function factRows(facts) {
  return Object.entries(facts)
    .filter(([, value]) => value !== undefined && value !== null && value !== "")
    .map(([name, value]) => h.div(h.dt(name), h.dd({}, value)));
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
