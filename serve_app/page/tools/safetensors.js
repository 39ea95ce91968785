// Metadata of safetensors files: what a LoRA says about itself.

const LENGTH_BYTES = 8; // at the start of the file: the size of the JSON header that follows
const MOST_BYTES = 2 * 1024 * 1024;
const MOST_WORDS = 12;

/** Trigger words of the LoRA in a local `file`; as those that the server reads of an uploaded one. */
export async function wordsOf(file) {
  const start = new DataView(await file.slice(0, LENGTH_BYTES).arrayBuffer());
  if (start.byteLength < LENGTH_BYTES) return [];
  const length = Number(start.getBigUint64(0, true));
  if (length > MOST_BYTES) return [];
  const text = await file.slice(LENGTH_BYTES, LENGTH_BYTES + length).text();
  const metadata = objectIn(text).__metadata__ ?? {};
  const phrase = metadata["modelspec.trigger_phrase"]?.trim();
  const words = phrase ? phrase.split(",") : tags(objectIn(metadata.ss_tag_frequency));
  return [...new Set(words.map((each) => each.trim()).filter(Boolean))].slice(0, MOST_WORDS);
}

/** Captions of the training, the most frequent first. */
function tags(folders) {
  const counts = new Map();
  for (const folder of Object.values(folders))
    for (const [tag, count] of Object.entries(folder)) counts.set(tag, (counts.get(tag) ?? 0) + count);
  return [...counts].sort(([, one], [, other]) => other - one).map(([tag]) => tag);
}

function objectIn(text) {
  try {
    const found = JSON.parse(text);
    return found !== null && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}
