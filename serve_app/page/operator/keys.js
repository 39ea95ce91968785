// Tenants with their limits, and the API keys of one of them.

import { shown } from "../interface/ask.js";
import { copyText } from "../interface/copy.js";
import { element } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { bytes, clock, day } from "../interface/words.js";
import { section } from "./desk.js";

const FILES = [
  ["", "as by the settings"],
  ["public", "public: anyone who knows a URL reads new files"],
  ["private", "private: new files need a key or a signed URL"],
];

const SCOPES = {
  api: "api: submit, read and cancel requests, files and usage",
  submit: "submit: only submit and estimate requests",
  read: "read: only read requests and results",
  cancel: "cancel: only cancel and delete requests",
  files: "files: only upload and delete files, and share results",
  usage: "usage: only read what was used",
  priority: "priority: submit with high priority",
  "tenant-admin": "tenant-admin: manage the keys of the tenant",
  operator: "operator: operate this installation, and manage all tenants",
  admin: "admin: everything",
};
const OVERLAP_HOURS = 24;
const HOUR_S = 3600;
const DAY_MS = 86_400_000;

/** Part of the keys. `changed()` is set by the view: it looks again. */
export class KeysPart {
  everyMs = null;
  changed = () => {};
  #desk;
  #tenants;
  #keys;
  #of = element("h3", {});
  #tenant = null;
  #own = null;

  constructor(desk) {
    this.#desk = desk;
    this.#keys = this.#keyTable();
    this.#tenants = tenantTable((tenant) => this.#tenantActions(tenant));
    const createTenant = element(
      "button",
      { type: "button", click: () => this.#createTenant() },
      "Create a tenant …",
    );
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
        "Limits that are set here come before those of the settings.",
        this.#tenants.node,
        createTenant,
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
        { name: "Scopes", cell: rights },
        { name: "Created", cell: ({ created_at: at }) => day(at) },
        { name: "Expires", cell: ({ expires_at: at }) => (at === null ? "never" : clock(at)) },
        { name: "Last used", cell: ({ last_used_at: at }) => (at === null ? "never" : clock(at)) },
        { name: "State", cell: (key) => statePill(key, this.#own) },
      ],
      actions: (key) => this.#keyActions(key),
    });
  }

  #keyActions(key) {
    if (key.revoked_at !== null || isOver(key)) return [];
    const rotate = { name: "Rotate", call: () => this.#rotate(key) };
    const revoke = { name: "Revoke", danger: true, call: () => this.#revoke(key) };
    return [
      ...(key.successor === null && key.person === null ? [rotate] : []),
      ...(key.key_id === this.#own.key_id ? [] : [revoke]),
    ];
  }

  #tenantActions(shown) {
    const { tenant, disabled_at: disabled } = shown;
    const actions = [
      { name: "Keys", call: () => this.#choose(tenant) },
      { name: "Change", call: () => this.#change(shown) },
    ];
    if (disabled !== null) {
      actions.push({ name: "Enable", call: () => this.#enable(tenant) });
    } else if (tenant !== this.#own.tenant) {
      // Its own would lock this key out.
      actions.push({ name: "Disable", danger: true, call: () => this.#disable(tenant) });
    }
    return actions;
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
          {
            name: "endpoints",
            label: "Only these endpoints",
            help: "Separated by spaces, such as fal-ai/flux/*. Empty: all.",
          },
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

  async #rotate({ key_id: id, alias }) {
    const created = await this.#desk.ask(
      {
        title: "Rotate this key?",
        words: `A new key gets the rights of ${alias || id}, which ends after an overlap.`,
        action: "Rotate it",
        fields: [
          {
            name: "hours",
            label: "Hours in which the old key still works",
            type: "number",
            value: OVERLAP_HOURS,
            required: true,
          },
        ],
        submit: ({ hours }) =>
          this.#desk.call("POST", `v1/keys/${encodeURIComponent(id)}/rotate`, {
            overlap_s: Number(hours) * HOUR_S,
          }),
      },
      ({ key_id: fresh }) => `The key ${fresh} replaces ${id}.`,
    );
    if (created === null) return;
    showSecret(created.key);
    this.changed();
  }

  async #createTenant() {
    await this.#desk.ask(
      {
        title: "Create a tenant",
        words: "Its keys see only its own requests, files and usage.",
        action: "Create it",
        fields: [
          { name: "tenant", label: "Id", help: "Such as: studio-a.", required: true },
          { name: "name", label: "Name for people" },
        ],
        submit: (values) => this.#desk.call("POST", "v1/tenants", values),
      },
      ({ tenant }) => `The tenant ${tenant} is created.`,
    );
    this.changed();
  }

  async #change({ tenant, name, limits }) {
    const people = { name: "name", label: "Name for people", value: name, required: true };
    const fields = Object.entries(limits).map(([limit, { value, source }]) => ({
      name: limit,
      label: limitName(limit),
      ...(limit === "files" ? { choices: FILES } : { type: "number" }),
      value: source === "api" ? value : "",
      help: limitHelp(value, source),
    }));
    await this.#desk.ask(
      {
        title: `Change ${tenant}`,
        words: "Limits are in force within seconds. An empty one is that of the settings.",
        action: "Change it",
        fields: [people, ...fields],
        submit: ({ name: wanted, ...given }) =>
          this.#desk.call("PATCH", `v1/tenants/${encodeURIComponent(tenant)}`, {
            name: wanted,
            limits: Object.fromEntries(
              Object.entries(given).map(([limit, text]) => [
                limit,
                limitValue(limit, text),
              ]),
            ),
          }),
      },
      `The tenant ${tenant} is changed.`,
    );
    this.changed();
  }

  async #disable(tenant) {
    const label = "Cancel what is queued";
    await this.#desk.ask(
      {
        title: `Disable ${tenant}?`,
        words: "Its keys are refused within seconds, and nothing of it starts. What runs ends.",
        action: "Disable it",
        danger: true,
        fields: [{ name: "cancel", label, type: "checkbox", value: false }],
        submit: ({ cancel }) =>
          this.#desk.call("PUT", `v1/tenants/${encodeURIComponent(tenant)}/disable`, {
            cancel_queued: cancel,
          }),
      },
      `The tenant ${tenant} is disabled.`,
    );
    this.changed();
  }

  async #enable(tenant) {
    await this.#desk.ask(
      {
        title: `Enable ${tenant}?`,
        words: "Its keys work again, and what is queued runs.",
        action: "Enable it",
        submit: () => this.#desk.call("PUT", `v1/tenants/${encodeURIComponent(tenant)}/enable`),
      },
      `The tenant ${tenant} is enabled.`,
    );
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

function newKey({ alias, tenant, days, endpoints, ...scopes }) {
  const end = days === "" ? null : new Date(Date.now() + Number(days) * DAY_MS).toISOString();
  const chosen = Object.keys(SCOPES).filter((name) => scopes[name]);
  const only = endpoints.split(/[\s,]+/).filter((each) => each !== "");
  return { alias, tenant, scopes: chosen, expires_at: end, endpoints: only };
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

function keyName({ key_id: id, alias, person }) {
  const name = person ?? (alias || "Without a name");
  return [name, element("span", { class: "facts" }, element("code", {}, id))];
}

function rights({ scopes, endpoints }) {
  if (endpoints.length === 0) return scopes.join(", ");
  const only = element("span", { class: "facts" }, `only ${endpoints.join(", ")}`);
  return [scopes.join(", "), only];
}

function isOver({ expires_at: end }) {
  return end !== null && Date.parse(end) < Date.now();
}

function limitValue(limit, text) {
  if (text === "") return null;
  return limit === "files" ? text : Number(text);
}

function limitName(limit) {
  const words = limit.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

function limitHelp(value, source) {
  if (source === "api") return "Set here.";
  const words = value === null ? "no limit" : String(value);
  return source === "file" ? `By the settings of this tenant: ${words}.` : `By default: ${words}.`;
}

function statePill(key, own) {
  const { key_id: id, revoked_at: revoked, successor } = key;
  const current = successor === null ? "valid" : "rotated";
  const state = revoked ? "revoked" : isOver(key) ? "expired" : current;
  const name = state === "valid" ? "ok" : state;
  const words = id === own.key_id ? "this one" : state;
  return element("span", { class: `pill ${name}` }, words);
}

function tenantTable(actions) {
  const limit = (name, words, without) => (tenant) =>
    tenant[name] === null ? without : words(tenant[name]);
  return new LiveTable({
    label: "Tenants",
    empty: "There are no tenants.",
    key: ({ tenant }) => tenant,
    columns: [
      { name: "Tenant", cell: tenantName },
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
    actions,
  });
}

function tenantName({ tenant, name, disabled_at: disabled }) {
  const words = [tenant];
  if (name !== tenant) words.push(element("span", { class: "facts" }, name));
  if (disabled !== null) words.push(element("span", { class: "pill revoked" }, "disabled"));
  return words;
}

function uploadWords({ uploads_bytes: size, max_uploads_bytes: most }) {
  return `${bytes(size)} of ${bytes(most)}`;
}
