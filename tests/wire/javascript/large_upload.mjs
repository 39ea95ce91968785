// A file that fal's JavaScript client uploads in parts; what became of it on standard output.
// usage: node large_upload.mjs SETUP, where the module SETUP has pointed the client at Darkroom.
import { argv } from "node:process";
import { pathToFileURL } from "node:url";

import { fal } from "@fal-ai/client";

await import(pathToFileURL(argv[2]));
const piece = new Uint8Array(1024 * 1024).map((_, at) => at % 251);
const file = new File(Array(91).fill(piece), "video.webm", { type: "video/webm" });
const url = await fal.storage.upload(file, { lifecycle: { expiresIn: "1d" } });
const head = await fetch(url, { method: "HEAD" });
const from = 10 * piece.length - 2;
const range = { headers: { range: `bytes=${from}-${from + 3}` } };
const seam = [...new Uint8Array(await (await fetch(url, range)).arrayBuffer())];
const wanted = [from, from + 1, from + 2, from + 3].map((at) => (at % piece.length) % 251);
console.log(JSON.stringify({ url, size: Number(head.headers.get("content-length")), seam, wanted }));
