// API keys of a tenant: created, rotated and revoked.

import { shown } from "../interface/ask.js";
import { copyText } from "../interface/copy.js";
import { element } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { clock, day } from "../interface/words.js";

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

/** List of a tenant's keys. `changed()` looks again. A key that is no operator's offers only its own
 * scopes, and keys of its own tenant. */
export class KeyList {
  #desk;
  #changed;
  #tenant = null;
  #own = null;
  #of = element("h3", {});
  #keys = this.#keyTable();

  constructor(desk, changed) {
    this.#desk = desk;
    this.#changed = changed;
    const create = element(
      "button",
      { type: "button", class: "main", click: () => this.#create() },
      "Create a key …",
    );
    this.node = element(
      "section",
      { "aria-label": "API keys" },
      this.#of,
      this.#keys.node,
      create,
    );
  }

  /** `own`: the key in use, see `Caller.look`. */
  show(tenant, keys, own) {
    this.#tenant = tenant;
    this.#own = own;
    this.#keys.show(keys);
    this.#of.textContent = `Keys of ${tenant}`;
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

  async #create() {
    const { grants } = this.#own;
    const isOperator = grants.includes("operator");
    const mine = Object.entries(SCOPES).filter(([name]) => isOperator || grants.includes(name));
    const scopes = mine.map(([name, label]) => ({
      ...{ name, label, type: "checkbox", value: name === "api" },
    }));
    const tenant = { name: "tenant", label: "Tenant", value: this.#tenant, required: true };
    const created = await this.#desk.ask(
      {
        title: "Create a key",
        words: "Make one key for each program or person.",
        action: "Create it",
        fields: [
          { name: "alias", label: "Name", help: "Such as: the web app." },
          ...(isOperator ? [tenant] : []),
          { name: "days", label: "Days until it expires", type: "number", help: "Empty: never." },
          {
            name: "endpoints",
            label: "Only these endpoints",
            value: this.#own.endpoints.join(" "),
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
    this.#changed();
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
    this.#changed();
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
    this.#changed();
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
  const words = "Only its digest is stored, so it cannot be shown again.";
  const children = [element("p", {}, words), program, element("div", { class: "buttons" }, copy)];
  shown("Save this key now", children, { outside: false });
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

function statePill(key, own) {
  const { key_id: id, revoked_at: revoked, successor } = key;
  const current = successor === null ? "valid" : "rotated";
  const state = revoked ? "revoked" : isOver(key) ? "expired" : current;
  const name = state === "valid" ? "ok" : state;
  const words = id === own.key_id ? "this one" : state;
  return element("span", { class: `pill ${name}` }, words);
}
