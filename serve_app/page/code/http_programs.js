// Calls by curl: one that waits, and those of the queue.

import { literal, LocalFile, quoted, withFiles } from "./literal.js";

/** One call that waits for the result. */
export function curl(endpoint, input, base) {
  const { flag, document } = bodyOf(input);
  return `# Set FAL_KEY to the key: eval "$(darkroom env)"
curl ${quoted(`${base}/${endpoint}`)} \\
  -H "Authorization: Key $FAL_KEY" \\
  -H "Content-Type: application/json" \\
  -d ${flag}
${document}`;
}

/** Submit, status and result, as the queue has them. */
export function queue(endpoint, input, base) {
  const { flag, document } = bodyOf(input);
  const inside = document === "" ? "" : `\n${document.trimEnd()}\n`;
  return `# Set FAL_KEY to the key: eval "$(darkroom env)"
key="Authorization: Key $FAL_KEY"

# POST: the request waits in the queue.
submitted=$(curl -s ${quoted(`${base}/queue/${endpoint}`)} -H "$key" \\
  -H "Content-Type: application/json" -d ${flag}${inside})
request=$(printf '%s' "$submitted" | sed 's/.*"response_url": *"\\([^"]*\\)".*/\\1/')

# GET status until it is COMPLETED.
while ! curl -s "$request/status" -H "$key" | grep -q COMPLETED; do sleep 1; done

# GET the result.
curl -s "$request" -H "$key"
`;
}

/** Body of a call: what follows \`-d\`, and the document that it reads, if there are files. */
function bodyOf(input) {
  const files = [];
  const spell = (value) => {
    if (!(value instanceof LocalFile)) return null;
    files.push(value);
    return `"\0${files.length - 1}\0"`;
  };
  const body = literal(withFiles(input), { spell, indent: 2, tail: "" });
  if (files.length === 0) return { flag: quoted(body), document: "" };
  const safe = body.replace(/[\\$`]/g, "\\$&");
  const filled = safe.replace(/\0(\d+)\0/g, (_, at) => {
    const { name, type } = files[Number(at)];
    return `data:${type};base64,$(base64 < ${quoted(name)} | tr -d '\\n')`;
  });
  return { flag: "@- <<JSON", document: `${filled}\nJSON\n` };
}
