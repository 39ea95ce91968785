// What waits and what runs, of all tenants, and the endpoints that are paused or draining.

import { endpointPath } from "../client/watch.js";
import { element } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { shown } from "../interface/ask.js";
import { clock, waitingWords } from "../interface/words.js";
import { section, span } from "./desk.js";

const MOST_WAITING = 50;
const SHOWN_FROM_S = 1; // each statement is a transaction of some milliseconds

const ORDERS = {
  pause: { words: "Pause: accept requests, and let them wait", done: "is paused" },
  drain: { words: "Drain: refuse new requests, and serve those that wait", done: "is draining" },
};

const PRIORITIES = ["high", "normal", "low"].map((each) => [each, each]);

/** Part of the queue. `changed()` is set by the view: it looks again. */
export class QueuePart {
  everyMs = 2000;
  changed = () => {};
  #desk;
  #notice = element("p", { class: "notice", hidden: true });
  #lanes = laneTable();
  #waiting;
  #running;
  #halts;
  #ownTenant = null;

  constructor(desk) {
    this.#desk = desk;
    this.#waiting = this.#waitingTable();
    this.#running = this.#runningTable();
    this.#halts = this.#haltTable();
    const button = element(
      "button",
      { type: "button", class: "quiet", click: () => this.#halt() },
      "Pause or drain an endpoint …",
    );
    this.node = element(
      "div",
      {},
      this.#notice,
      section(
        "Lanes",
        "Requests of a tenant in a pool. Tenants share the time of the pool.",
        this.#lanes.node,
      ),
      section("Waiting", `The newest ${MOST_WAITING} of all tenants.`, this.#waiting.node),
      section("Running", "", this.#running.node),
      section("Paused endpoints", "", this.#halts.node, button),
    );
  }

  async look() {
    const query = `tenant=${encodeURIComponent("*")}&state=queued&limit=${MOST_WAITING}`;
    const [queue, page, own] = await Promise.all([
      this.#desk.call("GET", "v1/queue"),
      this.#desk.call("GET", `v1/requests?${query}`),
      this.#desk.caller.look(),
    ]);
    this.#ownTenant = own.tenant;
    this.#lanes.show(queue.lanes);
    this.#waiting.show(page.requests);
    this.#running.show(queue.leases);
    this.#halts.show(queue.halts);
    const { oldest_transaction: oldest } = queue;
    this.#notice.hidden = oldest === null || oldest.age_s < SHOWN_FROM_S;
    if (!this.#notice.hidden) this.#notice.textContent = transactionWords(oldest);
  }

  #waitingTable() {
    return new LiveTable({
      label: "Waiting",
      empty: "No request waits.",
      key: ({ request_id: id }) => id,
      columns: [
        { name: "Request", cell: ({ request_id: id }) => element("code", {}, id) },
        { name: "Tenant", cell: ({ tenant }) => tenant },
        { name: "Endpoint", cell: ({ endpoint_id: id }) => id },
        { name: "Priority", cell: ({ priority }) => priority },
        { name: "Submitted", cell: ({ created_at: at }) => clock(at) },
        { name: "Attempts", number: true, cell: ({ attempt }) => String(attempt) },
      ],
      actions: (row) => [
        { name: "Why", call: () => this.#why(row) },
        { name: "Priority", call: () => this.#prioritise(row) },
        ...this.#ends(row.request_id, row.tenant),
      ],
    });
  }

  #runningTable() {
    return new LiveTable({
      label: "Running",
      empty: "No request runs.",
      key: ({ request_id: id }) => id,
      columns: [
        { name: "Request", cell: ({ request_id: id }) => element("code", {}, id) },
        { name: "Tenant", cell: ({ tenant }) => tenant },
        { name: "Endpoint", cell: ({ endpoint }) => endpoint },
        { name: "Replica", cell: ({ replica_id: id, pool }) => `${id} in ${pool}` },
        { name: "Attempt", number: true, cell: ({ attempt }) => String(attempt) },
        { name: "For", number: true, cell: ({ age_s: age }) => span(age) },
      ],
      actions: ({ request_id: id, tenant }) => [
        { name: "Requeue", call: () => this.#requeue(id) },
        ...this.#ends(id, tenant),
      ],
    });
  }

  #haltTable() {
    return new LiveTable({
      label: "Paused endpoints",
      empty: "No endpoint is paused or draining.",
      key: ({ endpoint_id: id }) => id,
      columns: [
        { name: "Endpoint", cell: ({ endpoint_id: id }) => id },
        { name: "State", cell: ({ kind }) => element("span", { class: `pill ${kind}` }, kind) },
        { name: "Since", cell: ({ at }) => clock(at) },
        { name: "By key", cell: ({ actor }) => element("code", {}, actor) },
      ],
      actions: (row) => [{ name: "Resume", call: () => this.#resume(row) }],
    });
  }

  /** Actions that end a request. Only those of the key's own tenant can be cancelled. */
  #ends(id, tenant) {
    const own = tenant === this.#ownTenant;
    return [
      own
        ? { name: "Cancel", danger: true, call: () => this.#cancel(id) }
        : { name: "Fail", danger: true, call: () => this.#fail(id, tenant) },
    ];
  }

  async #why({ request_id: id, tenant }) {
    await this.#desk.run(async () => {
      const query = `tenant=${encodeURIComponent(tenant)}`;
      const { waiting } = await this.#desk.call("GET", `v1/requests/${id}?${query}`);
      const words =
        waiting === null ? "It waits no longer." : waitingWords(waiting.position, waiting);
      shown("Why it waits", [element("p", {}, words)]);
    });
  }

  async #prioritise({ request_id: id, tenant, priority }) {
    await this.#desk.ask(
      {
        title: "Change the priority of this request?",
        words: `It moves among the requests of ${tenant} as if it had been submitted so.`,
        action: "Change it",
        fields: [{ name: "level", label: "Priority", choices: PRIORITIES, value: priority }],
        submit: async ({ level }) => {
          await this.#desk.call("PUT", `v1/requests/${id}/priority?priority=${level}`);
          return `The request has ${level} priority.`;
        },
      },
      (words) => words,
    );
    this.changed();
  }

  async #requeue(id) {
    await this.#desk.ask(
      {
        title: "Queue this request again?",
        words:
          "Its replica loses it, and it returns to its old place in the queue, with its last snapshot.",
        action: "Queue it again",
        submit: () => this.#desk.call("PUT", `v1/requests/${id}/requeue`),
      },
      ({ state }) => `The request is ${state}.`,
    );
    this.changed();
  }

  async #cancel(id) {
    await this.#desk.ask(
      {
        title: "Cancel this request?",
        words: "It ends without a result.",
        action: "Cancel the request",
        danger: true,
        submit: () => this.#desk.call("PUT", `v1/requests/${id}/cancel`),
      },
      ({ verdict }) => `The request: ${verdict.replaceAll("_", " ")}.`,
    );
    this.changed();
  }

  async #fail(id, tenant) {
    await this.#desk.ask(
      {
        title: "End this request as failed?",
        words: `It belongs to the tenant ${tenant}, who sees the reason.`,
        action: "End it",
        danger: true,
        fields: [{ name: "reason", label: "Reason" }],
        submit: ({ reason }) =>
          this.#desk.call("PUT", `v1/requests/${id}/fail?reason=${encodeURIComponent(reason)}`),
      },
      ({ state }) => `The request is ${state}.`,
    );
    this.changed();
  }

  async #halt() {
    const models = await this.#desk.page.models.list().catch(() => []);
    const choices = Object.entries(ORDERS).map(([order, { words }]) => [order, words]);
    await this.#desk.ask(
      {
        title: "Pause or drain an endpoint",
        words: "Running requests continue.",
        action: "Do it",
        fields: [
          { name: "endpoint", label: "Endpoint", choices: models.map(({ id }) => [id, id]) },
          { name: "order", label: "Order", choices },
        ],
        submit: async ({ endpoint, order }) => {
          await this.#desk.call("PUT", `v1/endpoints/${endpointPath(endpoint)}/${order}`);
          return `${endpoint} ${ORDERS[order].done}.`;
        },
      },
      (words) => words,
    );
    this.changed();
  }

  async #resume({ endpoint_id: id }) {
    const path = `v1/endpoints/${endpointPath(id)}/resume`;
    await this.#desk.run(() => this.#desk.call("PUT", path), `${id} is resumed.`);
    this.changed();
  }
}

function laneTable() {
  return new LiveTable({
    label: "Lanes",
    empty: "No request waits or runs.",
    key: ({ pool, tenant }) => `${pool} ${tenant}`,
    columns: [
      { name: "Tenant", cell: ({ tenant }) => tenant },
      { name: "Pool", cell: ({ pool }) => pool },
      { name: "Queued", number: true, cell: ({ queued }) => String(queued) },
      { name: "Running", number: true, cell: ({ running }) => String(running) },
      { name: "Oldest", number: true, cell: ({ oldest_s: oldest }) => span(oldest) },
    ],
  });
}

function transactionWords({ age_s: age, state, application, pid }) {
  const owner = `${application || "unnamed"}, process ${pid}`;
  return `A transaction of the database has been open for ${span(age)} (${state}; ${owner}). The queue gets slower until it ends.`;
}
