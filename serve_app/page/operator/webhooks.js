// Deliveries of webhooks: what was sent, what failed, and again.

import { openNew } from "../interface/dialog.js";
import { button, h, labelled, select } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { clock } from "../interface/words.js";
import { offer, Pages, Part, pill, section } from "./desk.js";

const STATES = { "": "Any state", pending: "Pending", delivered: "Delivered", dead: "Given up" };

/** Part of the webhooks. */
export class WebhooksPart extends Part {
  #look = { change: () => this.desk.look() };
  #tenant = select([], this.#look);
  #state = select(Object.entries(STATES), this.#look);
  #table = new LiveTable({
    label: "Deliveries",
    empty: "No webhook was sent.",
    key: ({ request_id: id }) => id,
    columns: [
      { name: "Request", cell: ({ request_id: id }) => h.code(id) },
      { name: "To", wide: true, cell: ({ url }) => url },
      { name: "State", cell: ({ state }) => pill(state, STATES[state]) },
      { name: "Tries", number: true, cell: ({ tries }) => String(tries) },
      { name: "Last answer", wide: true, cell: answerWords },
      { name: "Created", cell: ({ created_at: at }) => clock(at) },
    ],
    actions: (row) => [
      { name: "Log", call: () => this.#log(row) },
      { name: "Send again", call: () => this.#again(row) },
    ],
  });
  #deliveries = new Pages(this.desk, "Show older ones", {
    path: () => {
      const query = new URLSearchParams({ tenant: this.#tenant.value, limit: "50" });
      if (this.#state.value !== "") query.set("state", this.#state.value);
      return `v1/webhooks?${query}`;
    },
    items: "webhooks",
    show: (webhooks) => this.#table.show(webhooks),
  });
  node = h.div(
    h.div(
      { class: "tools" },
      h.div(labelled("Tenant", this.#tenant)),
      h.div(labelled("State", this.#state)),
      button("Look again", () => this.desk.look()),
    ),
    section(
      "Deliveries",
      "Of ended requests, the newest first.",
      this.#table.node,
      this.#deliveries.more,
    ),
    section(
      "Receivers",
      "",
      h.div(
        { class: "buttons" },
        button("Send a test …", () => this.#test()),
        button("Rotate the signing key …", () => this.#rotate()),
      ),
    ),
  );

  async look() {
    const [{ tenants }, own] = await Promise.all([
      this.desk.call("GET", "v1/tenants"),
      this.desk.page.caller.look(),
    ]);
    const isFirst = this.#tenant.value === "";
    offer(this.#tenant, tenants.map(({ tenant }) => [tenant, tenant]));
    if (isFirst) this.#tenant.value = own.tenant;
    await this.#deliveries.look();
  }

  #path({ request_id: id }) {
    return `v1/requests/${encodeURIComponent(id)}/webhook`;
  }

  get #query() {
    return `?tenant=${encodeURIComponent(this.#tenant.value)}`;
  }

  async #log(row) {
    await this.desk.run(async () => {
      const { log, url } = await this.desk.call("GET", `${this.#path(row)}${this.#query}`);
      const tries = log.map(
        ({ at, took_s: took, ...answer }) =>
          `${clock(at)} · ${answerWords(answer)} · ${Math.round(took * 1000)} ms`,
      );
      openNew("Tries of this webhook", [
        h.p({ class: "help" }, url),
        log.length === 0
          ? h.p("It was not tried yet.")
          : h.ol(
              { class: "tries" },
              tries.map((words) => h.li(words)),
            ),
      ]);
    });
  }

  async #again(row) {
    await this.desk.ask({
      title: "Send this webhook again?",
      words: `${row.url} gets the same body and the same webhook-id once more.`,
      action: "Send it again",
      submit: () => this.desk.call("PUT", `${this.#path(row)}/redeliver${this.#query}`),
      done: "The webhook is sent again.",
    });
  }

  async #test() {
    await this.desk.ask({
      title: "Send a test",
      words: "The receiver gets one signed webhook now.",
      action: "Send it",
      fields: [{ name: "url", label: "URL", type: "url", required: true }],
      submit: ({ url }) => this.desk.call("POST", "v1/webhooks/test", { url }),
      done: ({ delivered, took_s: took, ...answer }) =>
        `${delivered ? "The receiver took it" : "The receiver did not take it"}: ` +
        `${answerWords(answer)}, after ${Math.round(took * 1000)} ms.`,
    });
  }

  async #rotate() {
    await this.desk.ask({
      title: "Rotate the signing key?",
      words:
        "A new key is announced now, and signs webhooks from 25 hours on. Receivers need not do anything.",
      action: "Rotate it",
      submit: () => this.desk.call("PUT", "v1/webhooks/rotate"),
      done: ({ keys }) => `A new signing key is announced. There are ${keys.length} keys now.`,
    });
  }
}

function answerWords({ status, error }) {
  return (
    [status === null ? "" : `HTTP ${status}`, error ?? ""].filter(Boolean).join(": ") || "none yet"
  );
}
