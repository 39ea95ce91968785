// Reads Prometheus' text format.

const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Samples of a text: `{name, labels, value}`. */
export function samplesOf(text) {
  return text.split("\n").flatMap((line) => {
    const found = SAMPLE.exec(line);
    if (found === null) return [];
    const labels = [...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [
      name,
      value.replace(/\\(.)/g, (_, mark) => (mark === "n" ? "\n" : mark)),
    ]);
    return [{ name: found[1], labels: Object.fromEntries(labels), value: Number(found[3]) }];
  });
}
