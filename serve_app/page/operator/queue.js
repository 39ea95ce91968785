// What waits and what runs, of all tenants, and the endpoints that are paused or draining.

import { endpointPath } from "../client/watch.js";
import { openNew } from "../interface/dialog.js";
import { button, h, labelled, select, tell } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { clock, waitingWords } from "../interface/words.js";
import { offer, Part, pill, section, span } from "./desk.js";
import { History } from "./history.js";

const PAGE = 50;
const MOST_IN_A_CALL = 500;
const SHOWN_FROM_S = 1; // each statement is a transaction of some milliseconds

const ORDERS = {
  pause: { words: "Pause: accept requests, and let them wait", done: "is paused" },
  drain: { words: "Drain: refuse new requests, and serve those that wait", done: "is draining" },
};

const PRIORITIES = ["high", "normal", "low"].map((each) => [each, each]);

/** Part of the queue. */
export class QueuePart extends Part {
  everyMs = 1000;
  #notice = h.p({ class: "notice", hidden: true });
  #lanes = new LiveTable(LANE_TABLE);
  #tenant = select([], { change: () => this.#showFirst() });
  #endpoint = select([], { change: () => this.#showFirst() });
  #more = button("Show more", () => this.#showMore(), { hidden: true });
  #most = PAGE;
  #models = null; // all, read once
  #waiting = new LiveTable({
    label: "Waiting",
    empty: "No request waits.",
    key: ({ request_id: id }) => id,
    columns: [
      { name: "Request", cell: ({ request_id: id }) => h.code(id) },
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
  #running = new LiveTable({
    label: "Running",
    empty: "No request runs.",
    key: ({ request_id: id }) => id,
    columns: [
      { name: "Request", cell: ({ request_id: id }) => h.code(id) },
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
  #halts = new LiveTable({
    label: "Paused endpoints",
    empty: "No endpoint is paused or draining.",
    key: ({ endpoint_id: id }) => id,
    columns: [
      { name: "Endpoint", cell: ({ endpoint_id: id }) => id },
      { name: "State", cell: ({ kind }) => pill(kind) },
      { name: "Since", cell: ({ at }) => clock(at) },
      { name: "By key", cell: ({ actor }) => h.code(actor) },
    ],
    actions: (row) => [{ name: "Resume", call: () => this.#resume(row) }],
  });
  #ownTenant = null;
  #history = new History(this.desk, ["queued", "wait_s"]);
  node = h.div(
    this.#notice,
    section(
      "Lanes",
      "Requests of a tenant in a pool. Tenants share the time of the pool.",
      this.#lanes.node,
    ),
    section(
      "Waiting",
      "The longest wait first.",
      h.div(
        { class: "tools" },
        h.div(labelled("Tenant", this.#tenant)),
        h.div(labelled("Endpoint", this.#endpoint)),
      ),
      this.#waiting.node,
      this.#more,
    ),
    section("Running", "", this.#running.node),
    this.#history.node,
    section(
      "Paused endpoints",
      "",
      this.#halts.node,
      button("Pause or drain an endpoint …", () => this.#halt()),
    ),
  );

  async look() {
    const [queue, waiting, own, models] = await Promise.all([
      this.desk.call("GET", "v1/queue"),
      this.#wait(),
      this.desk.page.caller.look(),
      this.#models ?? this.desk.page.models.list().catch(() => null),
    ]);
    this.#models = models;
    this.#ownTenant = own.tenant;
    this.#lanes.show(queue.lanes);
    this.#waiting.show(waiting.requests);
    this.#more.hidden = waiting.next_after === null;
    const of = (name) => waiting.requests.map((each) => each[name]);
    offerNames(this.#tenant, "All tenants", [...queue.lanes.map((lane) => lane.tenant), ...of("tenant")]);
    offerNames(this.#endpoint, "All endpoints", [...(models ?? []).map(({ id }) => id), ...of("endpoint_id")]);
    this.#running.show(queue.leases);
    this.#halts.show(queue.halts);
    await this.#history.look();
    const { oldest_transaction: oldest } = queue;
    const isShown = oldest !== null && oldest.age_s >= SHOWN_FROM_S;
    tell(this.#notice, isShown ? transactionWords(oldest) : "");
  }

  /** As many of the chosen requests as are shown, from the one that has waited longest. */
  async #wait() {
    const query = new URLSearchParams();
    if (this.#tenant.value !== "") query.set("tenant", this.#tenant.value);
    if (this.#endpoint.value !== "") query.set("endpoint_id", this.#endpoint.value);
    const requests = [];
    while (true) {
      query.set("limit", String(Math.min(this.#most - requests.length, MOST_IN_A_CALL)));
      const page = await this.desk.call("GET", `v1/queue/requests?${query}`);
      requests.push(...page.requests);
      const { next_after: next } = page;
      if (next === null || requests.length >= this.#most) return { requests, next_after: next };
      query.set("after", String(next));
    }
  }

  #showFirst() {
    this.#most = PAGE;
    this.desk.look();
  }

  #showMore() {
    this.#most += PAGE;
    this.desk.look();
  }

  /** Actions that end a request. That of another tenant may also fail, with a reason for it. */
  #ends(id, tenant) {
    const cancel = { name: "Cancel", danger: true, call: () => this.#cancel(id, tenant) };
    const fail = { name: "Fail", danger: true, call: () => this.#fail(id, tenant) };
    return tenant === this.#ownTenant ? [cancel] : [cancel, fail];
  }

  async #why({ request_id: id, tenant }) {
    await this.desk.run(async () => {
      const query = `tenant=${encodeURIComponent(tenant)}`;
      const { waiting } = await this.desk.call("GET", `v1/requests/${id}?${query}`);
      const words =
        waiting === null ? "It waits no longer." : waitingWords(waiting.position, waiting);
      openNew("Why it waits", h.p(words));
    });
  }

  async #prioritise({ request_id: id, tenant, priority }) {
    await this.desk.ask({
      title: "Change the priority of this request?",
      words: `It moves among the requests of ${tenant} as if it had been submitted so.`,
      action: "Change it",
      fields: [{ name: "level", label: "Priority", choices: PRIORITIES, value: priority }],
      submit: async ({ level }) => {
        await this.desk.call("PUT", `v1/requests/${id}/priority?priority=${level}`);
        return `The request has ${level} priority.`;
      },
      done: (words) => words,
    });
  }

  async #requeue(id) {
    await this.desk.ask({
      title: "Queue this request again?",
      words:
        "Its replica loses it, and it returns to its old place in the queue, with its last snapshot.",
      action: "Queue it again",
      submit: () => this.desk.call("PUT", `v1/requests/${id}/requeue`),
      done: ({ state }) => `The request is ${state}.`,
    });
  }

  async #cancel(id, tenant) {
    const own = tenant === this.#ownTenant;
    const path = `v1/requests/${id}/cancel?tenant=${encodeURIComponent(tenant)}`;
    await this.desk.ask({
      title: "Cancel this request?",
      words: own
        ? "It ends without a result."
        : `It ends without a result. The tenant ${tenant}, whose request it is, sees that it was cancelled.`,
      action: "Cancel the request",
      danger: true,
      submit: () => this.desk.call("PUT", path),
      done: ({ verdict }) => `The request: ${verdict.replaceAll("_", " ")}.`,
    });
  }

  async #fail(id, tenant) {
    await this.desk.ask({
      title: "End this request as failed?",
      words: `It belongs to the tenant ${tenant}, who sees the reason.`,
      action: "End it",
      danger: true,
      fields: [{ name: "reason", label: "Reason" }],
      submit: ({ reason }) =>
        this.desk.call("PUT", `v1/requests/${id}/fail?reason=${encodeURIComponent(reason)}`),
      done: ({ state }) => `The request is ${state}.`,
    });
  }

  async #halt() {
    const models = await this.desk.page.models.list().catch(() => []);
    const choices = Object.entries(ORDERS).map(([order, { words }]) => [order, words]);
    await this.desk.ask({
      title: "Pause or drain an endpoint",
      words: "Running requests continue.",
      action: "Apply",
      fields: [
        { name: "endpoint", label: "Endpoint", choices: models.map(({ id }) => [id, id]) },
        { name: "order", label: "Order", choices },
      ],
      submit: async ({ endpoint, order }) => {
        await this.desk.call("PUT", `v1/endpoints/${endpointPath(endpoint)}/${order}`);
        return `${endpoint} ${ORDERS[order].done}.`;
      },
      done: (words) => words,
    });
  }

  async #resume({ endpoint_id: id }) {
    const path = `v1/endpoints/${endpointPath(id)}/resume`;
    await this.desk.run(() => this.desk.call("PUT", path), `${id} is resumed.`);
  }
}

/** Offers `names` beside all, and the one that is chosen. */
function offerNames(control, all, names) {
  const known = new Set([...names, control.value].filter((name) => name !== ""));
  offer(control, [["", all], ...[...known].sort().map((name) => [name, name])]);
}

const LANE_TABLE = {
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
};

function transactionWords({ age_s: age, state, application, pid }) {
  const owner = `${application || "unnamed"}, process ${pid}`;
  return `A transaction of the database has been open for ${span(age)} (${state}; ${owner}). The queue gets slower until it ends.`;
}
