// Progress of a workflow.

import { runningWords, waitingWords } from "../interface/words.js";

const OVER = new Set(["succeeded", "skipped"]);

/** Text for the steps of a workflow that runs, and how far it is, from 0 to 1. */
export function standing(progress) {
  const { steps } = progress.workflow;
  const over = steps.filter(({ state }) => OVER.has(state)).length;
  const words = progress.cancel_requested
    ? runningWords(progress)
    : `${over} of ${steps.length} steps are done.${waitWords(steps)}`;
  return [words, over / steps.length];
}

/** Why one of the steps waits. */
function waitWords(steps) {
  const step = steps.find(({ reason }) => reason);
  if (step === undefined) return "";
  const { node_id: name, queue_position: position, detail } = step;
  return ` ${name}: ${position === null ? detail : waitingWords(position, step)}`;
}
