// Submits once and writes the id of the request.
// usage: node submit.mjs SETUP PROMPT [IDEMPOTENCY_KEY]
import { argv } from "node:process";
import { pathToFileURL } from "node:url";

import { fal } from "@fal-ai/client";

const [, , setup, prompt, key] = argv;
await import(pathToFileURL(setup));
const headers = key ? { "Idempotency-Key": key } : {};
const { request_id: requestId } = await fal.queue.submit("test/probe", { input: { prompt }, headers });
console.log(requestId);
