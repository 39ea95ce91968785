// What a user of Vercel's AI SDK does for images with its provider for Replicate. One JSON object on
// standard output.
// usage: node ai_sdk_replicate.mjs URL KEY
import { argv } from "node:process";

import { createReplicate } from "@ai-sdk/replicate";
import { generateImage } from "ai";

const [, , url, apiToken] = argv;
const replicate = createReplicate({ baseURL: `${url}/replicate/v1`, apiToken });
const model = replicate.image("black-forest-labs/flux-schnell");

const { images } = await generateImage({ model, prompt: "a JPEG", aspectRatio: "16:9" });
let refused = null;
try {
  const providerOptions = { replicate: { num_inference_steps: 40 } };
  await generateImage({ model, prompt: "x", providerOptions, maxRetries: 0 });
} catch (error) {
  refused = { status: error.statusCode, said: error.responseBody };
}
const seen = images.map((each) => ({ mediaType: each.mediaType, bytes: each.uint8Array.length }));
console.log(JSON.stringify({ images: seen, refused }));
