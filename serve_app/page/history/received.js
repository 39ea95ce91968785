// Files that were dropped or pasted beside the inputs of the form.

import { descriptionIn } from "./metadata.js";
import { showOrigin } from "./origin.js";

const KIND = /^(?:image|video|audio)(?=\/)/;

/** Shows what made `file`, if it says so. Another image, video or audio file becomes an input. `page`
 * has `models`, the served ones and others, and `act`, whose `useAsInput` gets the file. */
export async function receive(file, { models, act }) {
  const found = await descriptionIn(file).catch(() => null); // who uses it says that it is not readable
  const kind = KIND.exec(file.type)?.[0];
  const use = kind === undefined ? null : () => act.useAsInput(asResult(file, kind));
  if (found === null && use !== null) use();
  else showOrigin(file, found, { models, act, use });
}

/** The file as results are described, with itself as `local`. */
function asResult(file, kind) {
  return { url: URL.createObjectURL(file), type: file.type, kind, name: file.name, local: file };
}
