// Has fal's names lead to the port ALIASES_PORT of this machine, as aliases in DNS would have them
// lead to port 443.
const tls = require("node:tls");

const connect = tls.connect;
tls.connect = (options, ...more) => {
  if (!/(^|\.)fal\.(run|ai|media)$/.test(options.host ?? "")) return connect(options, ...more);
  const here = { host: "127.0.0.1", port: Number(process.env.ALIASES_PORT) };
  return connect({ ...options, servername: options.host, ...here }, ...more);
};
