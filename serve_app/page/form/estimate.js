// Line below the form: when a request with this input would start, how long it would take, and what it
// would cost.

import { Refused } from "../client/api.js";
import * as json from "../client/json.js";
import { byId } from "../interface/element.js";
import { fieldsOf } from "./schema.js";
import { capitalized, money, seconds, waitingWords } from "../interface/words.js";

const PAUSE_MS = 500; // after the last change
const AGAIN_MS = 15_000; // after a stream that has ended

/** Texts longer than this are not sent: a file in the input says nothing about the times. */
const LONG = 20_000;

/** Keeps the line up to date by a stream, which is opened anew when the form changes. `read()` returns
 * `{endpoint, input}`, or null without a model or while the line is not shown. */
export class EstimateLine {
  #api;
  #read;
  #line;
  #timer = null;
  #control = null; // ends the stream
  #asked = ""; // what the stream is about

  constructor(api, read, form = byId("form"), line = byId("estimate")) {
    this.#api = api;
    this.#read = read;
    this.#line = line;
    for (const name of ["input", "change"]) form.addEventListener(name, () => this.soon());
    document.addEventListener("visibilitychange", () => this.soon(0));
  }

  /** Asks after a moment, and follows the answer until the line is gone. */
  soon(pause = PAUSE_MS) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#follow(), pause);
  }

  async #follow() {
    const planned = document.hidden || !this.#line.isConnected ? null : this.#read();
    const asked = planned === null ? "" : json.write(planned);
    if (asked === this.#asked) return; // a field was left as it was
    this.#asked = asked;
    this.#control?.abort();
    if (planned === null) this.#line.textContent = "";
    else await this.#show(planned);
  }

  async #show({ endpoint, input }) {
    const control = new AbortController();
    const body = { endpoint_id: endpoint, input: light(input) };
    this.#control = control;
    let again = true;
    try {
      for await (const estimate of this.#api.stream("v1/estimate", control, body))
        if (this.#control === control) this.#line.textContent = estimateWords(estimate);
    } catch (error) {
      // An input that is not complete has no estimate, and another line shows lost contact.
      again = !(error instanceof Refused) || error.passing;
      if (this.#control === control) this.#line.textContent = "";
    }
    if (this.#control !== control || !again) return;
    this.#asked = "";
    this.soon(AGAIN_MS);
  }
}

/** What to ask about an input of `model`; null while a required field is empty. */
export function estimable({ id, input: schema }, input) {
  const fields = schema === null ? [] : fieldsOf(schema);
  const lacks = ({ name, required }) => required && [undefined, null, ""].includes(input[name]);
  return fields.some(lacks) ? null : { endpoint: id, input };
}

/** The input with a short data URI in place of each long text. */
function light(input) {
  const text = json.write(input);
  if (text.length <= LONG) return input;
  return JSON.parse(text, (_, value) =>
    typeof value === "string" && value.length > LONG
      ? (/^data:[^,]{0,100},/.exec(value)?.[0] ?? value.slice(0, LONG))
      : value,
  );
}

/** Text for an answer of `/v1/estimate`. */
export function estimateWords({ waiting, queue_position: position, runs_s: runs, weights, price }) {
  const loads = ["cold", "warm"].includes(weights) && waiting?.reason !== "cold_start";
  const takes = runs > 0 ? `takes about ${seconds(runs)}` : "";
  const both = [takes, costWords(price)].filter(Boolean).join(" and ");
  const parts = [
    waiting ? waitingWords(position, waiting) : "",
    both && `${capitalized(both)}.`,
    loads ? "The weights are loaded first." : "",
  ];
  return parts.filter(Boolean).join(" ");
}

/** Cost in words; empty without a price, or if the input does not say how much it makes. */
function costWords({ cost, currency, unit } = {}) {
  if (!(cost > 0)) return "";
  return `costs ${unit === "gpu_seconds" ? "about " : ""}${money(cost, currency)}`;
}
