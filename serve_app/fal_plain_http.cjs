// Sends calls to fal's hosts to a Darkroom, in Node.js versions that cannot use a proxy themselves.
// `darkroom env` loads it with --require. FAL_PLAIN_HTTP: origin of the Darkroom.
"use strict";

const FAL = /(^|\.)(fal\.run|fal\.ai|fal\.media|falrun\.com)$/i;
const PROXY = "/fal/proxy";
const TARGET = "x-fal-target-url";
const ADVICE = "Use fetch, or Node.js 22.21, 24.5 or later.";

const base = process.env.FAL_PLAIN_HTTP;

function isFal(url) {
  try {
    return FAL.test(new URL(url).hostname.replace(/\.$/, ""));
  } catch {
    return false;
  }
}

/** `fetch` that sends fal's calls to Darkroom, with the same method, headers and body. */
function redirecting(fetch) {
  return function fetchFromDarkroom(input, init) {
    const url = typeof input === "object" && "url" in input ? input.url : String(input);
    if (!isFal(url)) return fetch(input, init);
    const asked = new Request(input, init);
    const headers = new Headers(asked.headers);
    headers.set(TARGET, url);
    const { method, body, signal, redirect } = asked;
    const streamed = body === null ? {} : { body, duplex: "half" };
    return fetch(base + PROXY, { method, headers, signal, redirect, ...streamed });
  };
}

/** Host of the arguments of `https.request`: a URL, or options. */
function hostOf([first, second]) {
  if (typeof first === "string") return new URL(first).hostname;
  const options = first instanceof URL ? first : { ...first, ...(second ?? {}) };
  return String(options.hostname ?? options.host ?? "").replace(/:\d+$/, "");
}

/** `call` that refuses fal's hosts: it would send the key to fal. */
function refusing(call, name) {
  return function refusingFal(...given) {
    const host = hostOf(given).replace(/\.$/, "");
    if (FAL.test(host)) {
      throw new Error(`Not sent to ${host}: ${name} cannot be sent to Darkroom here. ${ADVICE}`);
    }
    return call.apply(this, given);
  };
}

if (base) {
  globalThis.fetch = redirecting(globalThis.fetch);
  for (const scheme of ["http", "https"]) {
    const module = require(`node:${scheme}`);
    for (const name of ["request", "get"]) {
      module[name] = refusing(module[name], `${scheme}.${name}`);
    }
  }
  require("node:module").syncBuiltinESMExports();
  const Socket = globalThis.WebSocket;
  if (Socket !== undefined) {
    globalThis.WebSocket = class extends Socket {
      constructor(url, ...more) {
        if (isFal(url)) throw new Error(`Not sent to ${url}: WebSocket. ${ADVICE}`);
        super(url, ...more);
      }
    };
  }
}
