// Line below the form: when a request with this input would start, how long it would take, and what it
// would cost.

import { Refused } from "../client/api.js";
import * as json from "../client/json.js";
import { byId } from "../interface/element.js";
import { Refresh } from "../interface/refresh.js";
import { fieldsOf } from "./schema.js";
import { money, seconds, waitingWords } from "../interface/words.js";

const PAUSE_MS = 500; // after the last change
const FRESH_MS = 15_000; // the queue changes without the form

/** Texts longer than this are not sent: a file in the input says nothing about the times. */
const LONG = 20_000;

/** Keeps the line up to date. `read()` returns `{endpoint, input}`, or null without a model or while the
 * line is not shown. */
export class EstimateLine {
  #api;
  #read;
  #line;
  #timer = null;
  #refresh;
  #refused = false; // until the input changes

  constructor(api, changes, read, form = byId("form"), line = byId("estimate")) {
    this.#api = api;
    this.#read = read;
    this.#line = line;
    this.#refresh = new Refresh(() => this.#ask(), FRESH_MS, changes, ["requests", "replicas"]);
    for (const name of ["input", "change"]) form.addEventListener(name, () => this.soon());
  }

  /** Asks after a moment, and from then on until the line is gone. */
  soon(pause = PAUSE_MS) {
    this.#refused = false;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#refresh.stop();
      this.#refresh.start();
    }, pause);
  }

  async #ask() {
    if (!this.#line.isConnected) {
      this.#refresh.stop(); // the page of a model was left
      return null;
    }
    const given = this.#refused ? null : this.#read();
    if (given === null) {
      this.#line.textContent = "";
      return null;
    }
    try {
      const body = { endpoint_id: given.endpoint, input: light(given.input) };
      const estimate = await this.#api.call("POST", "v1/estimate", body);
      this.#line.textContent = estimateWords(estimate);
      return FRESH_MS; // the start comes nearer
    } catch (error) {
      // An input that is not complete has no estimate, and another line shows lost contact.
      this.#refused = error instanceof Refused && !error.passing;
      this.#line.textContent = "";
      return FRESH_MS;
    }
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
    both && `${both[0].toUpperCase()}${both.slice(1)}.`,
    loads ? "The weights are loaded first." : "",
  ];
  return parts.filter(Boolean).join(" ");
}

/** Cost in words; empty without a price, or if the input does not say how much it makes. */
function costWords({ cost, currency, unit } = {}) {
  if (!(cost > 0)) return "";
  return `costs ${unit === "gpu_seconds" ? "about " : ""}${money(cost, currency)}`;
}
