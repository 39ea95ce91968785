// Writes the current call as a program in Python, JavaScript or curl.

import * as json from "../client/json.js";

export const LANGUAGES = { python: "Python", javascript: "JavaScript", curl: "curl" };

const WRITERS = { python, javascript, curl };

/** Program that sends `input` to `endpoint` of the Darkroom at `base` (without a final slash). Data
 * URIs become files that it reads; it takes the key from the environment. */
export function codeFor(language, { endpoint, input, base }) {
  return WRITERS[language](endpoint, input, base);
}

/** Placeholder for a data URI in an input. Each language reads the file in its own way. */
class LocalFile {
  constructor(name, type) {
    this.name = name;
    this.type = type;
  }
}

/** `input` with `LocalFile` objects instead of data URIs. */
function withFiles(input, name = "input") {
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

function python(endpoint, input, base) {
  const spell = (value) => {
    if (value instanceof LocalFile) return `fal_client.encode_file(${JSON.stringify(value.name)})`;
    if (value === null || value === undefined) return "None";
    return typeof value === "boolean" ? (value ? "True" : "False") : null;
  };
  return `# pip install fal-client; set FAL_KEY to the key, as \`darkroom env\` prints it
import fal_client
import fal_client.client as client

here = ${JSON.stringify(base)}
client.RUN_URL_FORMAT, client.QUEUE_URL_FORMAT = f"{here}/run/", f"{here}/queue/"
client.REST_URL, client.CDN_URL = f"{here}/rest", f"{here}/cdn"

result = fal_client.subscribe(
    ${JSON.stringify(endpoint)},
    arguments=${literal(withFiles(input), { spell, indent: 4, tail: "," }, 4)},
)
print(result)
`;
}

function javascript(endpoint, input, base) {
  let reads = "";
  let warning = "";
  const spell = (value) => {
    if (typeof value === "bigint") {
      warning = `// JavaScript rounds whole numbers over 2^53: ${value} will be sent as another number.\n`;
    }
    if (!(value instanceof LocalFile)) return null;
    reads = 'import { readFileSync } from "node:fs";\n';
    return `"data:${value.type};base64," + readFileSync(${JSON.stringify(value.name)}, "base64")`;
  };
  const body = literal(withFiles(input), { spell, indent: 2, tail: "," }, 2);
  return `// npm install @fal-ai/client; set FAL_KEY to the key, as \`darkroom env\` prints it
${reads}import { fal } from "@fal-ai/client";

const base = ${JSON.stringify(base)};
const here = (url) =>
  url
    .replace("https://queue.fal.run/", \`\${base}/queue/\`)
    .replace("https://fal.run/", \`\${base}/run/\`)
    .replace("https://rest.fal.ai/", \`\${base}/rest/\`);

fal.config({
  credentials: process.env.FAL_KEY,
  requestMiddleware: async (request) => ({ ...request, url: here(request.url) }),
});

${warning}const { data } = await fal.subscribe(${JSON.stringify(endpoint)}, {
  input: ${body},
});
console.log(data);
`;
}

function curl(endpoint, input, base) {
  const files = [];
  const spell = (value) => {
    if (!(value instanceof LocalFile)) return null;
    files.push(value);
    return `"\0${files.length - 1}\0"`;
  };
  const body = literal(withFiles(input), { spell, indent: 2, tail: "" });
  const address = quoted(`${base}/${endpoint}`);
  const head = `# Set FAL_KEY to the key: eval "$(darkroom env)"
curl ${address} \\
  -H "Authorization: Key $FAL_KEY" \\
  -H "Content-Type: application/json" \\
`;
  if (files.length === 0) return `${head}  -d ${quoted(body)}\n`;
  const safe = body.replace(/[\\$`]/g, "\\$&");
  const filled = safe.replace(/\0(\d+)\0/g, (_, at) => {
    const { name, type } = files[Number(at)];
    return `data:${type};base64,$(base64 < ${quoted(name)} | tr -d '\\n')`;
  });
  return `${head}  -d @- <<JSON\n${filled}\nJSON\n`;
}

/**
 * `value` as a literal in `style`. `spell` writes values that need the language's own syntax, or
 * returns null; `indent` is in spaces; `tail` follows the last item.
 */
function literal(value, style, margin = 0) {
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

/** `text` as one word of a POSIX shell. */
function quoted(text) {
  return /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
