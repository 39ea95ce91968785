// Streams and realtime with fal's JavaScript client, which nothing in this program has pointed
// anywhere: one line of JSON for each thing on standard output.
import { exit } from "node:process";

import { fal } from "@fal-ai/client";

const PROBE = "test/probe";
const report = (name, value) => console.log(JSON.stringify({ name, value }));

async function last(options) {
  const stream = await fal.stream(PROBE, options);
  return (await stream.done()).echo;
}

report("stream", await last({ input: { echo: 5, sleep_s: 0.2 } }));
report("stream with a token", await last({ input: { echo: 6 }, connectionMode: "client" }));
report(
  "realtime",
  await new Promise((resolve) => {
    const heard = [];
    const send = (echo) => connection.send({ echo, request_id: `r-${echo}` });
    const connection = fal.realtime.connect(PROBE, {
      throttleInterval: 0,
      onResult: (result) => {
        heard.push([result.echo, result.request_id]);
        if (heard.length === 2) resolve(heard);
        else send(8); // while it connects, the client keeps the newest input only
      },
      onError: (error) => resolve(String(error)),
    });
    send(7);
  }),
);
exit(0);
