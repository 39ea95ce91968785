// Texts for states, wait reasons and stages.

const REASONS = {
  busy: "Every replica is busy.",
  cold_start: "A replica is starting.",
  no_replica: "There is no replica yet.",
  limit: "The limit of running requests is reached.",
  following: "An identical request is already queued or running.",
  paused: "An operator has paused this model.",
};

const STAGES = {
  fetching: "Fetching the input files",
  downloading: "Downloading the weights",
  installing: "Installing the packages",
  loading: "Loading the weights",
  compiling: "Compiling the model",
  warming_up: "Warming up",
  running: "Running",
  encoding_text: "Encoding the prompt",
  denoising: "Denoising",
  decoding: "Decoding",
  encoding_media: "Writing the file",
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

/** True if a request is not over. */
export function isActive({ state }) {
  return state === "queued" || state === "running";
}

/** Text for a queued request: its position, the wait reason, and the estimated start. */
export function waitingWords(position, { reason, detail, share, starts_at: startsAt } = {}) {
  const place = position > 0 ? `Requests before this one: ${position}.` : "Next in line.";
  const asItIs = ["limit", "following", "no_replica"].includes(reason);
  const doing = detail ? (asItIs ? detail : `A replica is ${detail}.`) : "";
  const done = typeof share === "number" ? `${Math.round(100 * share)} % of that is done.` : "";
  const start = startsAt ? `Starts in about ${roughly(Date.parse(startsAt) - Date.now())}.` : "";
  return [place, doing || REASONS[reason] || "", done, start].filter(Boolean).join(" ");
}

/** Text for a time in milliseconds from now; at least 1 s, because two clocks may differ. */
function roughly(milliseconds) {
  const left = Math.max(1, Math.round(milliseconds / 1000));
  return left < 90 ? `${left} s` : `${Math.round(left / 60)} min`;
}

/** Text for a running request: its stage, step, speed and remaining time. */
export function runningWords(progress = {}) {
  const { stage, step, steps, attempt, cancel_requested: stopping } = progress;
  if (stopping) return "Stopping at the next step.";
  const name = STAGES[stage] ?? (stage ? stage.replaceAll("_", " ") : "Starting");
  const place = steps > 0 ? ` · ${howFar(stage, step, steps)}` : "";
  const again = attempt > 1 ? ` · attempt ${attempt}` : "";
  return name + place + pace(progress) + again;
}

/** Stages after a generation's steps, each with steps of its own. */
const LAST_STAGES = new Set(["decoding", "encoding_media", "uploading"]);

/** How far a running request is, from 0 to 1; null: not known. */
export function partOf({ stage, step, steps }) {
  if (LAST_STAGES.has(stage)) return 1;
  return steps > 0 ? Math.min(1, step / steps) : null;
}

/** Stages whose steps are bytes. */
const BYTE_STAGES = new Set(["downloading", "loading"]);

function pace({ stage, rate, left_s: left }) {
  if (!rate || typeof left !== "number") return "";
  const speed = rate >= 1 ? `${rate.toFixed(1)} steps/s` : `${(1 / rate).toFixed(1)} s per step`;
  const words = BYTE_STAGES.has(stage) ? "" : ` · ${speed}`;
  return `${words} · ${shortSeconds(Math.max(1, Math.ceil(left)))} left`;
}

function howFar(stage, step, steps) {
  if (!BYTE_STAGES.has(stage)) return `step ${step} of ${steps}`;
  return bytesOf(step, steps);
}

const UNITS = [
  { name: "B", bytes: 1, digits: 0 },
  { name: "KB", bytes: 1e3, digits: 0 },
  { name: "MB", bytes: 1e6, digits: 1 },
  { name: "GB", bytes: 1e9, digits: 1 },
];
const unitOf = (value) => UNITS.findLast((unit) => value >= unit.bytes) ?? UNITS[0];
const inUnit = (value, unit) => (value / unit.bytes).toFixed(unit.digits);

/** Bytes that are there of all of them. */
export function bytesOf(part, whole) {
  const unit = unitOf(whole);
  return `${inUnit(part, unit)} of ${inUnit(whole, unit)} ${unit.name}`;
}

/** `text` with a capital at its beginning. */
export function capitalized(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function seconds(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "";
  const whole = Math.round(value);
  if (whole >= 90) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${value < 9.95 ? value.toFixed(1) : whole} s`;
}

/** Seconds without a decimal if that is zero. */
export function shortSeconds(value) {
  return seconds(value).replace(".0", "");
}

export function bytes(value) {
  if (typeof value !== "number") return "";
  const unit = unitOf(value);
  return `${inUnit(value, unit)} ${unit.name}`;
}

/** Amount of money with two decimals, or with more if it is small, and its currency. */
export function money(amount, currency) {
  const small = amount > 0 && amount < 0.1;
  const digits = small ? Math.min(9, 2 - Math.floor(Math.log10(amount))) : 2;
  const text = small ? amount.toFixed(digits).replace(/0+$/, "") : amount.toFixed(2);
  return `${/\.\d$/.test(text) ? `${text}0` : text} ${currency}`;
}

/** Time of day with seconds for a timestamp of today; otherwise date and time. */
export function clock(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  const name = day(iso);
  return name === "Today" ? timeOf(at, true) : `${name}, ${timeOf(at, true)}`;
}

/** Time of day without seconds. */
export function shortClock(iso) {
  return iso ? timeOf(new Date(iso), false) : "";
}

function timeOf(at, seconds) {
  const parts = { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined };
  return at.toLocaleTimeString([], { ...parts, hourCycle: "h23" });
}

/** Date of a timestamp in this browser's time zone, as 2026-01-31. */
export function dateOf(iso) {
  const at = new Date(iso);
  const two = (number) => String(number).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** Name of the day of a timestamp: today, yesterday, tomorrow, or its date. */
export function day(iso, now = new Date()) {
  const at = new Date(iso);
  const midnight = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate());
  const ago = Math.round((midnight(now) - midnight(at)) / 86_400_000);
  if (ago === 0) return "Today";
  if (ago === 1) return "Yesterday";
  if (ago === -1) return "Tomorrow";
  const year = at.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return at.toLocaleDateString([], { day: "numeric", month: "long", year });
}
