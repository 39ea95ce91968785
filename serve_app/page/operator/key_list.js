// API keys of a tenant: created, rotated and revoked.

import { copyButton } from "../interface/copy.js";
import { openNew } from "../interface/dialog.js";
import { button, h } from "../interface/element.js";
import { pill } from "./desk.js";
import { ResourceTable } from "./resource_table.js";

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
const DAY_S = 86_400;

/** List of a tenant's keys. A key that is no operator's offers only its own
 * scopes, and keys of its own tenant. */
export class KeyList {
  #desk;
  #tenant = null;
  #own = null;
  #of = h.h3();
  #keys;

  constructor(desk) {
    this.#desk = desk;
    this.#keys = new ResourceTable(desk, "key", {
      cells: { state: (key) => statePill(key, this.#own) },
      actions: (key) => this.#rotation(key),
      deletable: (key) => isInForce(key) && key.key_id !== this.#own.key_id,
    });
    const create = button("Create a key …", () => this.#create(), { class: "main" });
    this.node = h.section({ "aria-label": "API keys" }, this.#of, this.#keys.node, create);
  }

  /** `own`: the key in use, see `Caller.look`. */
  async look(tenant, own) {
    this.#tenant = tenant;
    this.#own = own;
    this.#of.textContent = `Keys of ${tenant}`;
    await this.#keys.look(`?tenant=${encodeURIComponent(tenant)}`);
  }

  #rotation(key) {
    if (!isInForce(key) || key.successor !== null || key.person !== null) return [];
    return [{ name: "Rotate", call: () => this.#rotate(key) }];
  }

  async #create() {
    const { grants } = this.#own;
    const isOperator = grants.includes("operator");
    const mine = Object.entries(SCOPES).filter(([name]) => isOperator || grants.includes(name));
    const scopes = mine.map(([name, label]) => ({
      ...{ name, label, type: "checkbox", value: name === "api" },
    }));
    const tenant = { name: "tenant", label: "Tenant", value: this.#tenant, required: true };
    const created = await this.#desk.ask({
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
      done: ({ key_id: id }) => `The key ${id} is created.`,
    });
    if (created !== null) showSecret(created.key);
  }

  async #rotate({ key_id: id, alias }) {
    const created = await this.#desk.ask({
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
      done: ({ key_id: fresh }) => `The key ${fresh} replaces ${id}.`,
    });
    if (created !== null) showSecret(created.key);
  }
}

function newKey({ alias, tenant, days, endpoints, ...scopes }) {
  const lasts = days === "" ? null : Number(days) * DAY_S;
  const chosen = Object.keys(SCOPES).filter((name) => scopes[name]);
  const only = endpoints.split(/[\s,]+/).filter((each) => each !== "");
  return { alias, tenant, scopes: chosen, expires_in_s: lasts, endpoints: only };
}

/** Shows a new key: only its digest is stored, so this is the only time. */
function showSecret(key) {
  const program = h.pre({ tabindex: 0, class: "secret" }, key);
  const copy = copyButton(() => program, { class: "main" });
  const words = "Only its digest is stored, so it cannot be shown again.";
  const children = [h.p(words), program, h.div({ class: "buttons" }, copy)];
  openNew("Save this key now", children, { outside: false });
  copy.focus();
}

function isInForce({ state }) {
  return state === "valid";
}

function statePill({ key_id: id, state, successor }, own) {
  const current = state === "valid" && successor !== null ? "rotated" : state;
  return pill(current, id === own.key_id ? "this one" : current);
}
