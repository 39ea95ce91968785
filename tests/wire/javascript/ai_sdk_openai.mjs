// What a user of Vercel's AI SDK does for images with its provider for OpenAI. One JSON object on
// standard output.
// usage: node ai_sdk_openai.mjs URL KEY
import { argv } from "node:process";

import { createOpenAI } from "@ai-sdk/openai";
import { generateImage } from "ai";

const [, , url, apiKey] = argv;
const openai = createOpenAI({ baseURL: `${url}/openai/v1`, apiKey });
const model = openai.image("fal-ai/flux/schnell");

const { images } = await generateImage({
  model,
  prompt: "a JPEG",
  size: "512x512",
  n: 2,
  providerOptions: { openai: { style: "natural" } },
});
let refused = null;
try {
  await generateImage({ model, prompt: "x", size: "1x1", maxRetries: 0 });
} catch (error) {
  refused = { status: error.statusCode, said: error.responseBody };
}
const seen = images.map((each) => ({ mediaType: each.mediaType, bytes: each.uint8Array.length }));
console.log(JSON.stringify({ images: seen, refused }));
