// Files that were dropped or pasted beside the inputs of the form.

import { say } from "../interface/toast.js";
import { descriptionIn } from "./metadata.js";
import { showOrigin } from "./origin.js";

const KIND = /^(?:image|video|audio)(?=\/)/;

/** Shows what made the first of `files`, if it says so. Another image, video or audio file becomes an
 * input, with those that came with it. `page` has `models`, the served ones and others, and `act`, whose
 * `useAsInput` gets the file. */
export async function receive([file, ...others], { models, act }) {
  const found = await descriptionIn(file).catch(() => null); // who uses it says that it is not readable
  const kind = KIND.exec(file.type)?.[0];
  const use = kind === undefined ? null : () => act.useAsInput(asResult(file, kind, others));
  if (found === null && use !== null) return use();
  showOrigin(file, found, { models, act, use });
  if (others.length) say(`Of ${others.length + 1} files only the first one is shown: ${file.name}.`);
}

/** The file as results are described, with itself as `local`; who shows it makes its URL. */
function asResult(file, kind, others) {
  return { type: file.type, kind, name: file.name, local: file, others };
}
