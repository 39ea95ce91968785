// What a user of Vercel's AI SDK does for videos, speech and transcripts with its provider for fal, which
// calls fal's own hosts whatever its `baseURL` is: in a shell that `darkroom env` has set up. A line of JSON
// on standard output for each call.
// usage: node ai_sdk_fal_media.mjs
import { fal } from "@ai-sdk/fal";
import {
  experimental_generateVideo as generateVideo,
  generateSpeech,
  transcribe,
} from "ai";

const text = (bytes) => Buffer.from(bytes).toString();
const say = (name, value) => console.log(JSON.stringify({ name, value }));
// Its guard takes no file from a private address, but one inside the answer.
const providerOptions = { fal: { sync_mode: true } };

const made = await generateVideo({ model: fal.video("fal-ai/wan-t2v"), prompt: "a fox", providerOptions });
say("video", text(made.video.uint8Array));
const spoken = await generateSpeech({ model: fal.speech("fal-ai/dia-tts"), text: "Good morning.", providerOptions });
say("speech", text(spoken.audio.uint8Array));
const heard = await transcribe({ model: fal.transcription("whisper"), audio: Buffer.from("RIFF") });
say("transcript", { text: heard.text, language: heard.language, segments: heard.segments });
