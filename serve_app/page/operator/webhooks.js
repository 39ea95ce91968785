// Deliveries of webhooks: what was sent, what failed, and again.

import { shown } from "../interface/ask.js";
import { button, element } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { clock } from "../interface/words.js";
import { labelled, options, section, select } from "./desk.js";

const PAGE = 50;
const STATES = { "": "Any state", pending: "Pending", delivered: "Delivered", dead: "Given up" };

/** Part of the webhooks. */
export class WebhooksPart {
  #desk;
  #tenant = select([], () => this.#desk.look());
  #state = select(Object.entries(STATES), () => this.#desk.look());
  #table = new LiveTable({
    label: "Deliveries",
    empty: "No webhook was sent.",
    key: ({ request_id: id }) => id,
    columns: [
      { name: "Request", cell: ({ request_id: id }) => element("code", {}, id) },
      { name: "To", wide: true, cell: ({ url }) => url },
      {
        name: "State",
        cell: ({ state }) => element("span", { class: `pill ${state}` }, STATES[state] ?? state),
      },
      { name: "Tries", number: true, cell: ({ tries }) => String(tries) },
      { name: "Last answer", wide: true, cell: answerWords },
      { name: "Created", cell: ({ created_at: at }) => clock(at) },
    ],
    actions: (row) => [
      { name: "Log", call: () => this.#log(row) },
      { name: "Send again", call: () => this.#again(row) },
    ],
  });
  #more;
  #found = [];
  #next = null;

  constructor(desk) {
    this.#desk = desk;
    this.#more = button("Show older ones", () => desk.run(() => this.#load(this.#next)));
    this.node = element(
      "div",
      {},
      element(
        "div",
        { class: "tools" },
        labelled("Tenant", this.#tenant),
        labelled("State", this.#state),
        button("Look again", () => this.#desk.look()),
      ),
      section("Deliveries", "Of ended requests, the newest first.", this.#table.node, this.#more),
      section(
        "Receivers",
        "",
        element(
          "div",
          { class: "buttons" },
          button("Send a test …", () => this.#test()),
          button("Rotate the signing key …", () => this.#rotate()),
        ),
      ),
    );
  }

  async look() {
    const [{ tenants }, own] = await Promise.all([
      this.#desk.call("GET", "v1/tenants"),
      this.#desk.caller.look(),
    ]);
    const names = tenants.map(({ tenant }) => tenant);
    const chosen = names.includes(this.#tenant.value) ? this.#tenant.value : own.tenant;
    this.#tenant.replaceChildren(...options(names.map((name) => [name, name])));
    this.#tenant.value = chosen;
    this.#found = [];
    await this.#load(null);
  }

  async #load(before) {
    const query = new URLSearchParams({ tenant: this.#tenant.value, limit: String(PAGE) });
    if (this.#state.value !== "") query.set("state", this.#state.value);
    if (before !== null) query.set("before", before);
    const page = await this.#desk.call("GET", `v1/webhooks?${query}`);
    this.#found.push(...page.webhooks);
    this.#next = page.next_before;
    this.#more.hidden = this.#next === null;
    this.#table.show(this.#found);
  }

  #path({ request_id: id }) {
    return `v1/requests/${encodeURIComponent(id)}/webhook`;
  }

  get #query() {
    return `?tenant=${encodeURIComponent(this.#tenant.value)}`;
  }

  async #log(row) {
    await this.#desk.run(async () => {
      const { log, url } = await this.#desk.call("GET", `${this.#path(row)}${this.#query}`);
      const tries = log.map(
        ({ at, took_s: took, ...answer }) =>
          `${clock(at)} · ${answerWords(answer)} · ${Math.round(took * 1000)} ms`,
      );
      shown("Tries of this webhook", [
        element("p", { class: "help" }, url),
        log.length === 0
          ? element("p", {}, "It was not tried yet.")
          : element(
              "ol",
              { class: "tries" },
              tries.map((words) => element("li", {}, words)),
            ),
      ]);
    });
  }

  async #again(row) {
    await this.#desk.ask({
      title: "Send this webhook again?",
      words: `${row.url} gets the same body and the same webhook-id once more.`,
      action: "Send it again",
      submit: () => this.#desk.call("PUT", `${this.#path(row)}/redeliver${this.#query}`),
      done: "The webhook is sent again.",
    });
  }

  async #test() {
    await this.#desk.ask({
      title: "Send a test",
      words: "The receiver gets one signed webhook now.",
      action: "Send it",
      fields: [{ name: "url", label: "URL", type: "url", required: true }],
      submit: ({ url }) => this.#desk.call("POST", "v1/webhooks/test", { url }),
      done: ({ delivered, took_s: took, ...answer }) =>
        `${delivered ? "The receiver took it" : "The receiver did not take it"}: ` +
        `${answerWords(answer)}, after ${Math.round(took * 1000)} ms.`,
    });
  }

  async #rotate() {
    await this.#desk.ask({
      title: "Rotate the signing key?",
      words:
        "A new key is announced now, and signs webhooks from 25 hours on. Receivers need not do anything.",
      action: "Rotate it",
      submit: () => this.#desk.call("PUT", "v1/webhooks/rotate"),
      done: ({ keys }) => `A new signing key is announced. There are ${keys.length} keys now.`,
    });
  }
}

function answerWords({ status, error }) {
  return (
    [status === null ? "" : `HTTP ${status}`, error ?? ""].filter(Boolean).join(": ") || "none yet"
  );
}
