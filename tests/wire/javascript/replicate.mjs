// What a user of Replicate's JavaScript client does. One JSON object on standard output.
// usage: node replicate.mjs URL KEY
import { argv } from "node:process";

import Replicate from "replicate";

const [, , url, auth] = argv;
const baseUrl = `${url}/replicate/v1`;
const replicate = new Replicate({ auth, baseUrl });
const FLUX = "black-forest-labs/flux-schnell";

const output = await replicate.run(FLUX, {
  input: { prompt: "a JPEG", num_outputs: 2, aspect_ratio: "16:9" },
});
const images = [];
for (const image of output) {
  const start = Buffer.from(await (await image.blob()).arrayBuffer()).subarray(0, 2);
  images.push({ start: start.toString("hex"), scheme: image.url().protocol });
}

const begun = await replicate.predictions.create({ model: FLUX, input: { prompt: "x" } });
const ended = await replicate.wait(begun, { interval: 50 });
const listed = [];
for await (const page of replicate.paginate(replicate.predictions.list)) {
  listed.push(...page.map(({ id }) => id));
}
const slow = await replicate.predictions.create({
  model: "test/images",
  input: { prompt: "x", sleep_s: 60 },
});
const canceled = await replicate.wait(await replicate.predictions.cancel(slow.id), { interval: 50 });

const events = [];
for await (const event of replicate.stream("test/images", { input: { prompt: "x" } })) {
  events.push(event.event);
}
const file = await replicate.files.create(new Blob(["abc"], { type: "text/plain" }));
const withFile = await replicate.predictions.create({
  model: "test/images",
  input: { prompt: "x", image: new Blob(["abc"], { type: "image/png" }) },
});
const model = await replicate.models.get("black-forest-labs", "flux-schnell");
const search = await replicate.models.search("schnell flux");
const deployed = await replicate.deployments.predictions.create("fal-ai", "flux-schnell", {
  input: { prompt: "x" },
  wait: true,
});
const deployments = await replicate.deployments.list();
const collections = await replicate.collections.list();
const hardware = await replicate.hardware.list();
let refused = null;
try {
  await replicate.run(FLUX, { input: { prompt: "x", num_outputs: 99 } });
} catch (error) {
  refused = { status: error.response.status, said: error.message };
}
console.log(
  JSON.stringify({
    images,
    ended: ended.status,
    listed: listed.includes(begun.id),
    canceled: canceled.status,
    events,
    file: file.size,
    given: withFile.input.image.replace(url, ""),
    model: `${model.owner}/${model.name}`,
    search: search.results.map(({ owner, name }) => `${owner}/${name}`),
    deployed: deployed.status,
    found: [deployments.results.length, collections.results.length, hardware.length],
    refused,
  }),
);
