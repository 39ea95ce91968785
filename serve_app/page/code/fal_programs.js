// Programs that use fal's own clients.

import { literal, LocalFile, withFiles } from "./literal.js";

export function python(endpoint, input, base) {
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

export function javascript(endpoint, input, base) {
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

/** The JavaScript program with the types of its output. */
export function typescript(endpoint, input, base) {
  const types = `interface Made {
  url: string;
  content_type?: string;
  width?: number;
  height?: number;
}

interface Output {
  images?: Made[];
  image?: Made;
  video?: Made;
  audio?: Made;
  seed?: number;
}
`;
  return javascript(endpoint, input, base)
    .replace("const base =", `${types}\nconst base =`)
    .replace("(url) =>", "(url: string): string =>")
    .replace("const { data } = await", "const { data } = (await")
    .replace(/\}\);\nconsole.log\(data\);\n$/, "})) as { data: Output };\nconsole.log(data);\n");
}
