// fal's client as a page has it, without a key, behind a proxy for web servers. A line of JSON on standard
// output for each proxy.
// usage: node page_client.mjs URL …
import { pathToFileURL } from "node:url";

import { createFalClient } from "@fal-ai/client";

/** What the client of a page gets by this proxy. */
export async function called(url) {
  const fal = createFalClient({ proxyUrl: { url, when: "always" } });
  const input = { prompt: "a JPEG", num_images: 2 };
  const run = await fal.run("fal-ai/flux/schnell", { input });
  const { request_id: requestId } = await fal.queue.submit("fal-ai/flux/schnell", { input });
  let status;
  do status = (await fal.queue.status("fal-ai/flux/schnell", { requestId })).status;
  while (status !== "COMPLETED");
  const { data } = await fal.queue.result("fal-ai/flux/schnell", { requestId });
  // That for Express passes the answer on without its status, so that the client takes it for a result.
  const wrong = fal.run("fal-ai/flux/schnell", { input: { num_images: 99 } });
  const { detail } = await wrong.then(({ data }) => data, ({ body }) => body);
  return { run: run.data.images.length, queued: data.images.length, refused: detail.map(({ loc }) => loc.at(-1)) };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const name of process.argv.slice(2)) console.log(JSON.stringify({ name, value: await called(name) }));
}
