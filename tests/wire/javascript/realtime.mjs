// Realtime with fal's JavaScript client, one line of JSON for each thing on standard output.
// usage: node realtime.mjs SETUP URL KEY, where the module SETUP has pointed the client at Darkroom
// and URL is Darkroom's origin.
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
const hexOf = (bytes) => Buffer.from(bytes).toString("hex");

function session(endpoint, options = {}) {
  const heard = [];
  let wake = () => {};
  const hear = (kind) => (value) => {
    heard.push({ kind, value });
    wake();
  };
  const connection = fal.realtime.connect(endpoint, {
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
  const probe = session("test/probe", { maxBuffering: 3 });
  probe.send({ echo: { a: "é" }, request_id: "r-1", seed: undefined });
  report("first", (await probe.next()).value);
  probe.send({ artifacts: 1, content: "abc" });
  const { images } = (await probe.next()).value;
  report("image", hexOf(images[0].content));
  probe.send({ echo: new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]) });
  report("bytes", (await probe.next()).value.echo);
  probe.send({ artifacts: -1 });
  const wrong = await probe.next();
  report("wrong", { kind: wrong.kind, said: wrong.value.message });
  probe.send({ echo: 2 });
  report("after", (await probe.next()).value.echo);
  probe.close();
}
{
  let tokens = 0;
  const flaky = session("test/probe", {
    // The first token is no good: the client learns so, and asks for another.
    tokenProvider: async (app) => {
      tokens += 1;
      if (tokens === 1) return "no.good.token";
      const answer = await fetch(`${argv[3]}/rest/tokens/`, {
        method: "POST",
        headers: { authorization: `Key ${argv[4]}`, "content-type": "application/json" },
        body: JSON.stringify({ allowed_apps: [app] }),
      });
      return answer.json();
    },
  });
  flaky.send({ echo: 3 });
  const refused = await flaky.next();
  report("refused", { kind: refused.kind, said: refused.value.message });
  flaky.send({ echo: 4 });
  report("again", { tokens, heard: await flaky.next() });
  flaky.close();
}
exit(0);
