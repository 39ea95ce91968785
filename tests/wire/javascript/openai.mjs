// What a user of OpenAI's JavaScript client does. One JSON object on standard output.
// usage: node openai.mjs URL KEY
import { argv } from "node:process";

import OpenAI, { toFile } from "openai";

const [, , url, apiKey] = argv;
const client = new OpenAI({ baseURL: `${url}/openai/v1`, apiKey, maxRetries: 0 });
const start = (base64) => Buffer.from(base64, "base64").subarray(0, 2).toString("hex");

const drawn = await client.images.generate({
  model: "dall-e-3",
  prompt: "a JPEG",
  n: 2,
  size: "1024x1024",
  style: "natural",
});
const pixel =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const edited = await client.images.edit({
  model: "fal-ai/fast-sdxl",
  prompt: "a JPEG",
  image: await toFile(Buffer.from(pixel, "base64"), "red.png", { type: "image/png" }),
});
const stream = await client.images.generate({
  model: "fal-ai/flux/schnell",
  prompt: "a JPEG",
  stream: true,
  partial_images: 1,
});
const events = [];
for await (const event of stream) events.push(event.type);

let video = await client.videos.create({ model: "test/videos", prompt: "x" });
while (["queued", "in_progress"].includes(video.status)) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  video = await client.videos.retrieve(video.id);
}
const content = await (await client.videos.downloadContent(video.id)).text();

const models = [];
for await (const model of client.models.list()) models.push(model.id);
let refused = null;
try {
  await client.images.generate({ model: "fal-ai/flux/schnell", prompt: "x", n: 99 });
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status, param: error.param };
}
console.log(
  JSON.stringify({
    drawn: drawn.data.map((each) => start(each.b64_json)),
    edited: edited.data.map((each) => start(each.b64_json)),
    last: events.at(-1),
    video: { status: video.status, content },
    models,
    refused,
  }),
);
