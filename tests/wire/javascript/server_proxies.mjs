// fal's proxies for web servers, in a shell that `darkroom env` has set up: the server keeps the key, and a
// page's client without one calls it. A line of JSON on standard output for each framework.
// usage: node server_proxies.mjs
import { createServer } from "node:http";

import * as falForExpress from "@fal-ai/server-proxy/express";
import { createRouteHandler } from "@fal-ai/server-proxy/hono";
import { createProxy } from "@fal-ai/server-proxy/remix";
import { createRequestHandler } from "@fal-ai/server-proxy/svelte";
import { getRequestListener, serve } from "@hono/node-server";
import express from "express";
import { Hono } from "hono";

import { called } from "./page_client.mjs";

const ROUTE = falForExpress.route;

/** Servers by framework, each listening on a free port of loopback. */
const servers = {
  express() {
    const app = express();
    app.use(express.json());
    app.all(ROUTE, falForExpress.handler);
    return app.listen(0, "127.0.0.1");
  },
  hono() {
    const app = new Hono();
    const handler = createRouteHandler();
    app.get(ROUTE, handler).post(ROUTE, handler).put(ROUTE, handler);
    return serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" });
  },
  // What these two frameworks call is a function of a standard request.
  svelte() {
    const handlers = createRequestHandler();
    const listener = getRequestListener((request) => handlers[request.method]({ request }));
    return createServer(listener).listen(0, "127.0.0.1");
  },
  remix() {
    const { action, loader } = createProxy({ json: (body, init) => Response.json(body, init) });
    const listener = getRequestListener((request) => (request.method === "GET" ? loader : action)({ request }));
    return createServer(listener).listen(0, "127.0.0.1");
  },
};

for (const [name, start] of Object.entries(servers)) {
  const server = start();
  if (!server.listening) await new Promise((resolve) => server.once("listening", resolve));
  const value = await called(`http://127.0.0.1:${server.address().port}${ROUTE}`);
  console.log(JSON.stringify({ name, value }));
  server.close();
  server.closeAllConnections();
}
