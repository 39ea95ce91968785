// What a user of Vercel's AI SDK does for speech and transcripts by its provider for OpenAI, and for videos
// by its provider for Replicate. One JSON object on standard output.
// usage: node ai_sdk_media.mjs URL KEY
import { argv } from "node:process";

import { createOpenAI } from "@ai-sdk/openai";
import { createReplicate } from "@ai-sdk/replicate";
import {
  experimental_generateVideo as generateVideo,
  generateSpeech,
  transcribe,
} from "ai";

const [, , url, key] = argv;
const openai = createOpenAI({ baseURL: `${url}/openai/v1`, apiKey: key });
const replicate = createReplicate({ baseURL: `${url}/replicate/v1`, apiToken: key });
const text = (bytes) => Buffer.from(bytes).toString();

const { audio } = await generateSpeech({
  model: openai.speech("tts-1"),
  text: "Good morning.",
  outputFormat: "wav", // all that this endpoint makes
});
const heard = await transcribe({ model: openai.transcription("whisper-1"), audio: Buffer.from("RIFF") });
const { video } = await generateVideo({ model: replicate.video("fal-ai/wan-t2v"), prompt: "a fox" });
console.log(
  JSON.stringify({
    speech: text(audio.uint8Array),
    heard: { text: heard.text, language: heard.language },
    video: text(video.uint8Array),
  }),
);
