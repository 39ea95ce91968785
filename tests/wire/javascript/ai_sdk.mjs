// What a user of Vercel's AI SDK does for images. One JSON object on standard output.
// usage: node ai_sdk.mjs URL KEY
import { argv } from "node:process";

import { createFal } from "@ai-sdk/fal";
import { generateImage } from "ai";

const [, , baseURL, apiKey] = argv;
const fal = createFal({ baseURL, apiKey });
const model = fal.image("fal-ai/flux/schnell");

const { images } = await generateImage({ model, prompt: "a JPEG", size: "512x512", n: 2 });
let refused = null;
try {
  const providerOptions = { fal: { numInferenceSteps: 40 } };
  await generateImage({ model, prompt: "x", providerOptions, maxRetries: 0 });
} catch (error) {
  refused = { status: error.statusCode, said: error.responseBody };
}
const seen = images.map((each) => ({ mediaType: each.mediaType, bytes: each.uint8Array.length }));
console.log(JSON.stringify({ images: seen, refused }));
