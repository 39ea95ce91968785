// Programs that use fal's own clients.

import { literal, LocalFile, pythonLiteral, withFiles } from "./literal.js";

export function python(endpoint, input, base) {
  const file = ({ name }) => `fal_client.encode_file(${JSON.stringify(name)})`;
  return `# pip install fal-client; curl -O ${base}/page/fal_plain_http.py
# Set FAL_KEY to the key, as \`darkroom env\` prints it.
import fal_client
import fal_plain_http

fal_plain_http.use(${JSON.stringify(base)})

result = fal_client.subscribe(
    ${JSON.stringify(endpoint)},
    arguments=${pythonLiteral(input, file)},
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

fal.config({
  credentials: process.env.FAL_KEY,
  proxyUrl: { url: ${JSON.stringify(`${base}/fal/proxy`)}, when: "always" },
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
    .replace("fal.config(", `${types}\nfal.config(`)
    .replace("const { data } = await", "const { data } = (await")
    .replace(/\}\);\nconsole.log\(data\);\n$/, "})) as { data: Output };\nconsole.log(data);\n");
}
