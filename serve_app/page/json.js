// JSON without loss: seeds have up to 64 bits, and JavaScript's numbers only 53.

/** Whole numbers that a Number cannot hold become a BigInt, where the browser shows their text. */
export function parse(text) {
  return JSON.parse(text, (_key, value, context) => {
    const lossy = typeof value === "number" && !Number.isSafeInteger(value);
    const source = context?.source;
    return lossy && source && /^-?\d+$/.test(source) ? BigInt(source) : value;
  });
}

/** JSON of `value`, in which a BigInt is written with all its digits. `indent` is in spaces. */
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

/** A whole number from its digits: a Number where that is exact. */
export function whole(digits) {
  const exact = BigInt(digits);
  const number = Number(exact);
  return Number.isSafeInteger(number) ? number : exact;
}
