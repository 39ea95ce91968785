// What a user of ComfyUI's JavaScript package does. One JSON object on standard output.
// usage: node comfy.mjs URL KEY
import { argv, env } from "node:process";

import { Comfy } from "@comfyorg/sdk";

const [, , url, apiKey] = argv;
env.COMFY_BASE_URL = `${url}/comfyui`;
const client = new Comfy({ apiKey });

const flow = client.workflows.fromJson({
  1: { class_type: "Hold", inputs: {} },
  2: { class_type: "SaveImage", inputs: {} },
});
const asset = client.assets.fromBytes(new TextEncoder().encode("a picture"), { filename: "x.png" });
flow.setInput("1", "image", asset);
const job = await client.submit(flow);
const events = [];
let last;
for await (const event of job.events()) {
  events.push(event.kind);
  last = event.status ?? last;
}
const [output] = (await job.result()).getOutputs("2");
const bytes = await output.toBytes();
const content = Buffer.from(bytes).toString();
const uploaded = await fetch(`${env.COMFY_BASE_URL}/api/v2/assets/${asset.id}/content`, {
  headers: { Authorization: `Bearer ${apiKey}` },
});
const missing = await client.jobs.get("nothing").catch((error) => error.constructor.name);
console.log(
  JSON.stringify({
    events,
    last,
    output: { name: output.name, content },
    uploaded: await uploaded.text(),
    missing,
  }),
);
