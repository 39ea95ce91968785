// Programs that use the clients of other services, and the configuration of assistants.

import { LocalFile, pythonLiteral, withFiles } from "./literal.js";

const OWN_FIELDS = ["prompt", "num_images", "sync_mode"]; // of Darkroom, which OpenAI's client has otherwise

/** OpenAI's client. Fields that OpenAI does not have are in `extra_body`. */
export function openai(endpoint, input, base, category) {
  const isVideo = category === "text-to-video";
  const isEdit = category === "image-to-image";
  const own = isEdit ? [...OWN_FIELDS, "image_url", "image_urls"] : OWN_FIELDS;
  const { prompt = "", num_images: count } = input;
  const rest = Object.fromEntries(Object.entries(input).filter(([name]) => !own.includes(name)));
  const lines = [`model=${JSON.stringify(endpoint)},`, `prompt=${JSON.stringify(prompt)},`];
  if (isEdit) lines.push(`image=${images(input)},`);
  if (count !== undefined) lines.push(`n=${count},`);
  if (!isVideo) lines.push('response_format="url",');
  if (Object.keys(rest).length) lines.push(`extra_body=${pythonLiteral(rest, dataUri)},`);
  const call = `(\n${lines.map((line) => `    ${line}\n`).join("")})`;
  const made = `result = client.images.${isEdit ? "edit" : "generate"}${call}
for image in result.data:
    print(image.url)`;
  const video = `video = client.videos.create_and_poll${call}
if video.error:
    raise SystemExit(video.error.message)
client.videos.download_content(video.id).write_to_file("video.mp4")
print("video.mp4")`;
  return `# pip install openai; set FAL_KEY to the key, as \`darkroom env\` prints it
import os
${importsOf(rest)}${isEdit && hasAddress(input) ? "from urllib.request import urlopen\n" : ""}
from openai import OpenAI

client = OpenAI(api_key=os.environ["FAL_KEY"], base_url=${JSON.stringify(`${base}/openai/v1`)})
${isVideo ? video : made}
`;
}

/** Images of an input as files that OpenAI's client sends: one, or a list. */
function images({ image_url: one, image_urls: several = [] }) {
  const first = one === undefined ? [] : [withFiles(one, "image_url")];
  const files = [...first, ...withFiles(several, "image")].map((each) =>
    each instanceof LocalFile ? opened(each) : `("image", urlopen(${JSON.stringify(each)}).read())`,
  );
  if (files.length > 1) return `[${files.join(", ")}]`;
  return files[0] ?? opened({ name: "image.png" });
}

function hasAddress({ image_url: one = "data:", image_urls: several = [] }) {
  return [one, ...several].some((each) => !each.startsWith("data:"));
}

function opened({ name }) {
  return `open(${JSON.stringify(name)}, "rb")`;
}

/** Replicate's client, which gets the files themselves. */
export function replicate(endpoint, input, base) {
  const [owner, ...name] = endpoint.split("/");
  const model = `${owner}/${name.join("-")}`;
  return `# pip install replicate; set FAL_KEY to the key, as \`darkroom env\` prints it
import os

import replicate

client = replicate.Client(
    api_token=os.environ["FAL_KEY"], base_url=${JSON.stringify(`${base}/replicate`)}
)
output = client.run(
    ${JSON.stringify(model)},
    input=${pythonLiteral(input, opened)},
)
for number, file in enumerate(output if isinstance(output, list) else [output]):
    ending = file.url.partition(";")[0].rpartition("/")[2].rpartition(".")[2]
    with open(f"output_{number}.{ending}", "wb") as saved:
        saved.write(file.read())
    print(saved.name)
`;
}

/** Configuration of assistants that use Darkroom by the Model Context Protocol. */
export function mcp(_endpoint, _input, base) {
  const url = `${base}/mcp`;
  const headers = { Authorization: "Bearer ${env:FAL_KEY}" };
  const cursor = JSON.stringify({ mcpServers: { darkroom: { url, headers } } }, null, 2);
  return `# Claude Code. Set FAL_KEY to a key: darkroom keys create assistant
claude mcp add --transport http darkroom ${url} --header "Authorization: Bearer $FAL_KEY"

# Cursor, in ~/.cursor/mcp.json
${cursor}
`;
}

/** A local file as a data URI in Python. */
function dataUri({ name, type }) {
  const content = `base64.b64encode(open(${JSON.stringify(name)}, "rb").read()).decode()`;
  return `"data:${type};base64," + ${content}`;
}

function importsOf(input) {
  return /"data:/.test(JSON.stringify(input, (_, each) => (typeof each === "bigint" ? 0 : each)))
    ? "import base64\n"
    : "";
}
