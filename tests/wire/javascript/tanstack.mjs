// What a user of TanStack AI does with its adapters for fal, in a shell that `darkroom env` has set up. A line
// of JSON on standard output for each call.
// usage: node tanstack.mjs
import { generateImage, generateSpeech, generateTranscription, generateVideo, getVideoJobStatus } from "@tanstack/ai";
import { falImage, falSpeech, falTranscription, falVideo } from "@tanstack/ai-fal";

const say = (name, value) => console.log(JSON.stringify({ name, value }));

const drawn = await generateImage({ adapter: falImage("fal-ai/flux/schnell"), prompt: "a JPEG", numberOfImages: 2 });
say("images", await Promise.all(drawn.images.map(async ({ url }) => (await fetch(url)).headers.get("content-type"))));
const spoken = await generateSpeech({ adapter: falSpeech("fal-ai/dia-tts"), text: "Good morning." });
say("speech", Buffer.from(spoken.audio, "base64").toString());
const audio = `data:audio/wav;base64,${Buffer.from("RIFF").toString("base64")}`;
say("transcript", (await generateTranscription({ adapter: falTranscription("fal-ai/whisper"), audio })).text);
const adapter = falVideo("fal-ai/wan-t2v");
const { jobId } = await generateVideo({ adapter, prompt: "a fox" });
let job;
do {
  await new Promise((resolve) => setTimeout(resolve, 50));
  job = await getVideoJobStatus({ adapter, jobId });
} while (job.status !== "completed" && job.status !== "failed");
say("video", job.url ? await (await fetch(job.url)).text() : job);
