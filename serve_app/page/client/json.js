// Lossless JSON: seeds have up to 64 bits, but JavaScript's numbers only 53.

/** Parses JSON. Integers beyond a Number's precision become BigInt if the browser provides their
 * source text. */
export function parse(text) {
  return JSON.parse(text, (_key, value, context) => {
    const lossy = typeof value === "number" && !Number.isSafeInteger(value);
    const source = context?.source;
    return lossy && source && /^-?\d+$/.test(source) ? BigInt(source) : value;
  });
}

/** JSON of `value`. A BigInt is written with all its digits. `indent` is in spaces. */
export function write(value, indent = 0, depth = 0) {
  if (typeof value === "bigint") return value.toString();
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  const inner = Array.isArray(value)
    ? value.map((item) => write(item, indent, depth + 1))
    : Object.entries(value)
        .filter(([, item]) => item !== undefined)
        .map(([name, item]) => `${JSON.stringify(name)}: ${write(item, indent, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  if (inner.length === 0) return open + close;
  if (indent === 0) return open + inner.join(", ") + close;
  const margin = "\n" + " ".repeat(indent * (depth + 1));
  return open + margin + inner.join("," + margin) + "\n" + " ".repeat(indent * depth) + close;
}

/** Integer from its digits: a Number if that is exact, otherwise a BigInt. */
export function whole(digits) {
  const exact = BigInt(digits);
  const number = Number(exact);
  return Number.isSafeInteger(number) ? number : exact;
}
