// What a user of fal's JavaScript client does, one line of JSON for each on standard output.
// usage: node calls.mjs SETUP WAY, where the module SETUP has pointed the client at Darkroom, by
// WAY: `middleware` or `fetch`.
import { argv } from "node:process";
import { pathToFileURL } from "node:url";

import { fal } from "@fal-ai/client";

await import(pathToFileURL(argv[2]));
const PROBE = "test/probe";

async function report(name, call) {
  let line;
  try {
    line = { value: await call() };
  } catch (error) {
    line = { error: { name: error.name, status: error.status, body: error.body, said: String(error) } };
  }
  console.log(JSON.stringify({ name, ...line }));
}

await report("run", async () => (await fal.run(PROBE, { input: { echo: { a: "é" } } })).data);
await report("subscribe", async () => {
  const updates = [];
  const ids = [];
  const result = await fal.subscribe(PROBE, {
    input: { echo: 9, sleep_s: 0.3 },
    logs: true,
    onEnqueue: (id) => ids.push(id),
    onQueueUpdate: (update) => updates.push(update.status),
  });
  return { ...result.data, ids, requestId: result.requestId, last: updates.at(-1) };
});
await report("streamed status", async () => {
  const updates = [];
  const result = await fal.subscribe(PROBE, {
    mode: "streaming",
    input: { echo: 10, sleep_s: 0.3 },
    onQueueUpdate: (update) => updates.push(update.status),
  });
  return { ...result.data, last: updates.at(-1) };
});
await report("queue", async () => {
  const { request_id: requestId } = await fal.queue.submit(PROBE, {
    input: { echo: 11 },
    priority: "low",
  });
  await fal.queue.subscribeToStatus(PROBE, { requestId, pollInterval: 50 });
  const status = await fal.queue.status(PROBE, { requestId, logs: true });
  const result = await fal.queue.result(PROBE, { requestId });
  return { status: status.status, logged: status.logs.length > 0, ...result.data };
});
await report("cancel", async () => {
  const { request_id: requestId } = await fal.queue.submit(PROBE, { input: { sleep_s: 60 } });
  await fal.queue.cancel(PROBE, { requestId });
  await fal.queue.subscribeToStatus(PROBE, { requestId, pollInterval: 50 });
  return (await fal.queue.result(PROBE, { requestId })).data;
});
await report("wrong field", async () =>
  fal.run("fal-ai/flux/schnell", { input: { prompt: "x", num_inference_steps: 99 } }),
);
await report("failed", async () =>
  fal.subscribe(PROBE, { input: { fail: "pipeline_failed", message: "No paint." } }),
);
await report("upload", async () => {
  const url = await fal.storage.upload(new Blob(["abc"], { type: "image/png" }));
  const answer = await fetch(url);
  return { url, type: answer.headers.get("content-type"), content: await answer.text() };
});
await report("nested upload", async () => {
  const input = {
    echo: { image: new Blob(["one"], { type: "image/png" }), list: [new File(["two"], "b.mp4")] },
  };
  const { image, list } = (await fal.subscribe(PROBE, { input })).data.echo;
  return { one: await (await fetch(image)).text(), two: await (await fetch(list[0])).text(), list };
});
await report("private upload", async () => {
  const lifecycle = { initialAcl: { default: "forbid" } };
  const url = await fal.storage.upload(new Blob(["abc"], { type: "image/png" }), { lifecycle });
  const [signed, bare] = [await fetch(url), await fetch(url.split("?")[0])];
  return { signed: signed.status, text: await signed.text(), bare: bare.status };
});
async function streamed(endpoint, options) {
  const seen = [];
  const stream = await fal.stream(endpoint, options);
  stream.on("data", (event) => seen.push(event));
  try {
    return { last: await stream.done(), seen, requestId: stream.requestId };
  } catch (error) {
    return { seen, error: { name: error.name, status: error.status, said: String(error) } };
  }
}
await report("stream", async () => streamed(PROBE, { input: { echo: 12, sleep_s: 0.5 } }));
await report("iterated stream", async () => {
  const seen = [];
  const stream = await fal.stream(PROBE, { input: { echo: 13, sleep_s: 0.2 } });
  for await (const event of stream) seen.push(event);
  return { seen };
});
if (argv[3] === "fetch") {
  // This one passes by the middleware: it would go to fal.
  await report("stream with a token", async () =>
    streamed(PROBE, { input: { echo: 14 }, connectionMode: "client" }),
  );
}
await report("wrong stream", async () =>
  streamed("fal-ai/flux/schnell", { input: { prompt: "x", num_inference_steps: 99 } }),
);
await report("failed stream", async () =>
  streamed(PROBE, { input: { sleep_s: 1.5, fail: "pipeline_failed", message: "No paint." } }),
);
await report("aborted stream", async () => {
  const stream = await fal.stream(PROBE, { input: { sleep_s: 60 } });
  await new Promise((resolve) => stream.on("data", resolve));
  const requestId = stream.requestId;
  stream.abort();
  await fal.queue.subscribeToStatus(PROBE, { requestId, pollInterval: 50 });
  return (await fal.queue.result(PROBE, { requestId })).data;
});
