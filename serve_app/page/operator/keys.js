// Tenants with their limits, and the API keys of one of them.

import { shown } from "../interface/ask.js";
import { copyText } from "../interface/copy.js";
import { element } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { bytes, clock, day } from "../interface/words.js";
import { section } from "./desk.js";

const SCOPES = {
  api: "api: submit, read and cancel the tenant's requests",
  priority: "priority: submit with high priority",
  admin: "admin: operate this installation, and see all tenants",
};
const DAY_MS = 86_400_000;

/** Part of the keys. `changed()` is set by the view: it looks again. */
export class KeysPart {
  everyMs = null;
  changed = () => {};
  #desk;
  #tenants = tenantTable((tenant) => this.#choose(tenant));
  #keys;
  #of = element("h3", {});
  #tenant = null;
  #own = null;

  constructor(desk) {
    this.#desk = desk;
    this.#keys = this.#keyTable();
    const create = element(
      "button",
      { type: "button", class: "main", click: () => this.#create() },
      "Create a key …",
    );
    this.node = element(
      "div",
      {},
      section(
        "Tenants",
        "A tenant exists as soon as it has a key. Limits are settings.",
        this.#tenants.node,
      ),
      element("section", { "aria-label": "API keys" }, this.#of, this.#keys.node, create),
    );
  }

  async look() {
    this.#own = await this.#desk.caller.look();
    this.#tenant ??= this.#own.tenant;
    const of = this.#tenant;
    const [{ tenants }, { keys }] = await Promise.all([
      this.#desk.call("GET", "v1/tenants"),
      this.#desk.call("GET", `v1/keys?tenant=${encodeURIComponent(of)}`),
    ]);
    if (of !== this.#tenant) return;
    this.#tenants.show(tenants);
    this.#keys.show(keys);
    this.#of.textContent = `Keys of ${of}`;
  }

  #choose(tenant) {
    this.#tenant = tenant;
    this.changed();
  }

  #keyTable() {
    return new LiveTable({
      label: "API keys",
      empty: "This tenant has no keys.",
      key: ({ key_id: id }) => id,
      columns: [
        { name: "Key", cell: keyName },
        { name: "Scopes", cell: ({ scopes }) => scopes.join(", ") },
        { name: "Created", cell: ({ created_at: at }) => day(at) },
        { name: "Expires", cell: ({ expires_at: at }) => (at === null ? "never" : clock(at)) },
        { name: "State", cell: (key) => statePill(key, this.#own) },
      ],
      actions: (key) =>
        key.revoked_at === null && key.key_id !== this.#own.key_id
          ? [{ name: "Revoke", danger: true, call: () => this.#revoke(key) }]
          : [],
    });
  }

  async #create() {
    const scopes = Object.entries(SCOPES).map(([name, label]) => ({
      ...{ name, label, type: "checkbox", value: name === "api" },
    }));
    const created = await this.#desk.ask(
      {
        title: "Create a key",
        words: "Make one key for each program or person.",
        action: "Create it",
        fields: [
          { name: "alias", label: "Name", help: "Such as: the web app." },
          { name: "tenant", label: "Tenant", value: this.#tenant, required: true },
          { name: "days", label: "Days until it expires", type: "number", help: "Empty: never." },
          ...scopes,
        ],
        submit: (values) => this.#desk.call("POST", "v1/keys", newKey(values)),
      },
      ({ key_id: id }) => `The key ${id} is created.`,
    );
    if (created === null) return;
    showSecret(created.key);
    this.changed();
  }

  async #revoke({ key_id: id, alias }) {
    await this.#desk.ask(
      {
        title: "Revoke this key?",
        words: `Programs that use ${alias || id} are refused within seconds. This cannot be undone.`,
        action: "Revoke it",
        danger: true,
        submit: () => this.#desk.call("DELETE", `v1/keys/${encodeURIComponent(id)}`),
      },
      `The key ${id} is revoked.`,
    );
    this.changed();
  }
}

function newKey({ alias, tenant, days, ...scopes }) {
  const end = days === "" ? null : new Date(Date.now() + Number(days) * DAY_MS).toISOString();
  const chosen = Object.keys(SCOPES).filter((name) => scopes[name]);
  return { alias, tenant, scopes: chosen, expires_at: end };
}

/** Shows a new key: only its digest is stored, so this is the only time. */
function showSecret(key) {
  const copy = element("button", { type: "button", class: "main" }, "Copy");
  const program = element("pre", { tabindex: 0, class: "secret" }, key);
  copy.addEventListener("click", async () => {
    await copyText(program);
    copy.textContent = "Copied";
  });
  shown(
    "Save this key now",
    element("p", {}, "Only its digest is stored, so it cannot be shown again."),
    program,
    element("div", { class: "buttons" }, copy),
  );
  copy.focus();
}

function keyName({ key_id: id, alias }) {
  return [alias || "Without a name", element("span", { class: "facts" }, element("code", {}, id))];
}

function statePill({ key_id: id, revoked_at: revoked, expires_at: end }, own) {
  const state = revoked
    ? "revoked"
    : end !== null && Date.parse(end) < Date.now()
      ? "expired"
      : "valid";
  const name = state === "valid" ? "ok" : state;
  const words = id === own.key_id ? "this one" : state;
  return element("span", { class: `pill ${name}` }, words);
}

function tenantTable(choose) {
  const limit = (name, words, without) => (tenant) =>
    tenant[name] === null ? without : words(tenant[name]);
  return new LiveTable({
    label: "Tenants",
    empty: "There are no tenants.",
    key: ({ tenant }) => tenant,
    columns: [
      { name: "Tenant", cell: ({ tenant }) => tenant },
      { name: "Valid keys", number: true, cell: ({ valid_keys: count }) => String(count) },
      { name: "Weight", number: true, cell: ({ weight }) => String(weight) },
      { name: "Most running", number: true, cell: limit("max_running", String, "any") },
      { name: "Most queued", number: true, cell: limit("max_waiting", String) },
      { name: "Uploaded files", number: true, cell: uploadWords },
      {
        name: "Requests kept",
        number: true,
        cell: limit("retention_days", (days) => `${days} days`, "for ever"),
      },
    ],
    actions: ({ tenant }) => [{ name: "Keys", call: () => choose(tenant) }],
  });
}

function uploadWords({ uploads_bytes: size, max_uploads_bytes: most }) {
  return `${bytes(size)} of ${bytes(most)}`;
}
