// What a person reads of states, reasons and stages.

const REASONS = {
  busy: "Every replica is busy.",
  cold_start: "A replica is starting.",
  no_replica: "No replica is there yet.",
};

const STAGES = {
  fetching: "Fetching the picture",
  downloading: "Downloading the weights",
  loading: "Loading the weights",
  warming_up: "Warming up",
  encoding_text: "Reading the prompt",
  denoising: "Developing",
  decoding: "Fixing the picture",
  encoding_media: "Making the file",
  uploading: "Storing the file",
};

export const STATES = {
  queued: "Waiting",
  running: "Running",
  succeeded: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
  expired: "Expired",
};

/** Of a queued request: its place, and the reason of the wait. */
export function waitingWords(position, { reason, detail } = {}) {
  const place = position > 0 ? `${position} before this one.` : "Next in line.";
  const doing = detail ? `A replica is ${detail}.` : "";
  return [place, doing || REASONS[reason] || ""].filter(Boolean).join(" ");
}

/** Of a running request: its stage and its step. */
export function runningWords({ stage, step, steps, attempt, cancel_requested: stopping } = {}) {
  if (stopping) return "Stopping at the next step.";
  const name = STAGES[stage] ?? (stage ? stage.replaceAll("_", " ") : "Starting");
  const place = steps > 0 ? ` · ${howFar(stage, step, steps)}` : "";
  const again = attempt > 1 ? ` · attempt ${attempt}` : "";
  return name + place + again;
}

function howFar(stage, step, steps) {
  if (stage !== "downloading") return `step ${step} of ${steps}`;
  return `${(step / 1e9).toFixed(1)} of ${(steps / 1e9).toFixed(1)} GB`;
}

export function seconds(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "";
  if (value >= 90) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
}

export function bytes(value) {
  if (typeof value !== "number") return "";
  if (value < 1000) return `${value} B`;
  return value < 1e6 ? `${Math.round(value / 1e3)} KB` : `${(value / 1e6).toFixed(1)} MB`;
}

/** A moment of today as its time, an older one with its day. */
export function clock(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return at.toDateString() === new Date().toDateString()
    ? time
    : `${at.toLocaleDateString()} ${time}`;
}
