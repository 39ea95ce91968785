// Loaded before s3rver, whose PUT answers before the object's file is there: a GET right after it
// may find nothing.
"use strict";

const { createHash } = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { Readable, Transform } = require("node:stream");
const { pipeline } = require("node:stream/promises");

const Store = require("s3rver/lib/stores/filesystem");

Store.prototype.putObject = async function putObject({ bucket, key, metadata, content }) {
  const file = this.getResourcePath(bucket, key, "object");
  await fs.promises.mkdir(path.dirname(file), { recursive: true });
  const hash = createHash("md5");
  let size = 0;
  const measure = new Transform({
    transform(chunk, _, done) {
      hash.update(chunk);
      size += chunk.length;
      done(null, chunk);
    },
  });
  const source = Buffer.isBuffer(content) ? Readable.from([content]) : content;
  await pipeline(source, measure, fs.createWriteStream(file));
  const md5 = hash.digest("hex");
  await this.putMetadata(bucket, key, metadata, md5);
  return { size, md5 };
};
