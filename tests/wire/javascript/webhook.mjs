// Submits with a webhook and writes the id of the request.
// usage: node webhook.mjs SETUP WEBHOOK_URL
import { argv } from "node:process";
import { pathToFileURL } from "node:url";

import { fal } from "@fal-ai/client";

const [, , setup, webhookUrl] = argv;
await import(pathToFileURL(setup));
const submit = { input: { echo: "é" }, webhookUrl };
const { request_id: requestId } = await fal.queue.submit("test/probe", submit);
console.log(requestId);
