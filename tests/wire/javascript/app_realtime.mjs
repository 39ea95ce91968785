// Realtime routes of an app with fal's JavaScript client, one line of JSON for each thing.
// usage: node app_realtime.mjs SETUP URL APP, where the module SETUP has pointed the client at
// Darkroom, URL is Darkroom's origin and APP is the app's id.
import { argv, exit } from "node:process";
import { pathToFileURL } from "node:url";

import { fal } from "@fal-ai/client";

// The client's WebSockets go to fal's own host; only this moves them.
const Native = globalThis.WebSocket;
globalThis.WebSocket = class extends Native {
  constructor(url) {
    super(String(url).replace("wss://fal.run/", `${argv[3].replace("http", "ws")}/run/`));
  }
};

await import(pathToFileURL(argv[2]));

const report = (name, value) => console.log(JSON.stringify({ name, value }));

function session(options = {}) {
  const heard = [];
  let wake = () => {};
  const hear = (kind) => (value) => {
    heard.push({ kind, value });
    wake();
  };
  const connection = fal.realtime.connect(argv[4], {
    throttleInterval: 0,
    onResult: hear("result"),
    onError: hear("error"),
    ...options,
  });
  const next = async () => {
    while (heard.length === 0) await new Promise((resolve) => (wake = resolve));
    return heard.shift();
  };
  return { ...connection, next };
}

{
  const draw = session();
  draw.send({ prompt: "image", raw: new Uint8Array([1, 2, 3]) });
  report("drawn", (await draw.next()).value);
  draw.send({ prompt: "x", seed: -1 });
  const wrong = await draw.next();
  report("wrong", { kind: wrong.kind, said: wrong.value.message });
  draw.close();
  const again = session();
  again.send({ prompt: "after" });
  report("after", (await again.next()).value);
  again.close();
}
{
  const talk = session({ path: "/talk" });
  talk.send({ prompt: "a" });
  const first = (await talk.next()).value.number;
  talk.send({ prompt: "b" });
  report("talked", [first, (await talk.next()).value.number]);
  talk.close();
}
exit(0);
