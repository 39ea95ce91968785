// Values as literals of a programming language.

import * as json from "../client/json.js";

/** Placeholder for a data URI in an input. Each language reads the file in its own way. */
export class LocalFile {
  constructor(name, type) {
    this.name = name;
    this.type = type;
  }
}

/** `input` with `LocalFile` objects instead of data URIs. */
export function withFiles(input, name = "input") {
  if (typeof input === "string" && input.startsWith("data:")) {
    const type = /^data:([^;,]*)/.exec(input)[1] || "application/octet-stream";
    const ending = type.split("/")[1].replace("jpeg", "jpg").replace(/\W.*$/, "") || "bin";
    return new LocalFile(`${name.replace(/_urls?$/, "")}.${ending}`, type);
  }
  if (Array.isArray(input)) return input.map((item, at) => withFiles(item, `${name}_${at + 1}`));
  if (input === null || typeof input !== "object") return input;
  return Object.fromEntries(
    Object.entries(input).map(([key, item]) => [key, withFiles(item, key)]),
  );
}

/**
 * `value` as a literal in `style`. `spell` writes values that need the language's own syntax, or
 * returns null; `indent` is in spaces; `tail` follows the last item.
 */
export function literal(value, style, margin = 0) {
  const own = style.spell(value);
  if (own !== null) return own;
  if (value === null || typeof value !== "object") return json.write(value);
  const deeper = margin + style.indent;
  const inner = Array.isArray(value)
    ? value.map((item) => literal(item, style, deeper))
    : Object.entries(value).map(
        ([name, item]) => `${JSON.stringify(name)}: ${literal(item, style, deeper)}`,
      );
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (inner.length === 0) return open + close;
  const line = "\n" + " ".repeat(deeper);
  return `${open}${line}${inner.join(`,${line}`)}${style.tail}\n${" ".repeat(margin)}${close}`;
}

/** `input` as a literal of Python. `file` writes a `LocalFile`. */
export function pythonLiteral(input, file) {
  const spell = (value) => {
    if (value instanceof LocalFile) return file(value);
    if (value === null || value === undefined) return "None";
    return typeof value === "boolean" ? (value ? "True" : "False") : null;
  };
  return literal(withFiles(input), { spell, indent: 4, tail: "," }, 4);
}

/** `text` as one word of a POSIX shell. */
export function quoted(text) {
  return /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
