// Tenants with their limits, and the API keys of one of them.

import { button, h } from "../interface/element.js";
import { bytes, capitalized } from "../interface/words.js";
import { askBudget, budgetWords } from "./budget.js";
import { Part, pill, section } from "./desk.js";
import { KeyList } from "./key_list.js";
import { ResourceTable } from "./resource_table.js";

const ID = "Lower-case letters, digits, - and _, such as: studio-a.";
const FILES = [
  ["", "as by the settings"],
  ["public", "public: anyone who knows a URL reads new files"],
  ["private", "private: new files need a key or a signed URL"],
];

/** Part of the keys. */
export class KeysPart extends Part {
  #tenant = null;
  #own = null;
  #keys = new KeyList(this.desk);
  #tenants = new ResourceTable(this.desk, "tenant", {
    cells: { tenant: tenantName },
    more: [{ name: "Budget", cell: ({ budget }) => budgetWords(budget) }],
    actions: (tenant) => this.#tenantActions(tenant),
  });
  node = h.div(
    section(
      "Tenants",
      "Limits that are set here come before those of the settings.",
      this.#tenants.node,
      button("Create a tenant …", () => this.#createTenant()),
    ),
    this.#keys.node,
  );

  async look() {
    this.#own = await this.desk.page.caller.look();
    this.#tenant ??= this.#own.tenant;
    await Promise.all([this.#tenants.look(), this.#keys.look(this.#tenant, this.#own)]);
  }

  #choose(tenant) {
    this.#tenant = tenant;
    this.desk.look();
  }

  #tenantActions(shown) {
    const { tenant, disabled_at: disabled } = shown;
    const actions = [
      { name: "Keys", call: () => this.#choose(tenant) },
      { name: "Change", call: () => this.#change(shown) },
      { name: "Budget", call: () => this.#changeBudget(shown) },
    ];
    if (disabled !== null) {
      actions.push({ name: "Enable", call: () => this.#enable(tenant) });
    } else if (tenant !== this.#own.tenant) {
      // Its own would lock this key out.
      actions.push({ name: "Disable", danger: true, call: () => this.#disable(tenant) });
    }
    return actions;
  }

  async #createTenant() {
    await this.desk.ask({
      title: "Create a tenant",
      words: "Its keys see only its own requests, files and usage.",
      action: "Create it",
      fields: [
        { name: "tenant", label: "Id", help: ID, required: true },
        { name: "name", label: "Name for people" },
      ],
      submit: (values) => this.desk.call("POST", "v1/tenants", values),
      done: ({ tenant }) => `The tenant ${tenant} is created.`,
    });
  }

  async #change({ tenant, name, limits }) {
    const people = { name: "name", label: "Name for people", value: name, required: true };
    const fields = Object.entries(limits).map(([limit, { value, source }]) => ({
      name: limit,
      label: capitalized(limit.replaceAll("_", " ")),
      ...(limit === "files" ? { choices: FILES } : { type: "number" }),
      value: source === "api" ? value : "",
      help: limitHelp(limit, value, source),
    }));
    await this.desk.ask({
      title: `Change ${tenant}`,
      words: "Limits are in force within seconds. An empty one is that of the settings.",
      action: "Change it",
      fields: [people, ...fields],
      submit: ({ name: wanted, ...given }) =>
        this.desk.call("PATCH", `v1/tenants/${encodeURIComponent(tenant)}`, {
          name: wanted,
          limits: Object.fromEntries(
            Object.entries(given).map(([limit, text]) => [limit, limitValue(limit, text)]),
          ),
        }),
      done: `The tenant ${tenant} is changed.`,
    });
  }

  async #changeBudget(tenant) {
    await askBudget(this.desk, tenant);
    this.desk.look();
  }

  async #disable(tenant) {
    const label = "Cancel what is queued";
    await this.desk.ask({
      title: `Disable ${tenant}?`,
      words: "Its keys are refused within seconds, and nothing of it starts. What runs ends.",
      action: "Disable it",
      danger: true,
      fields: [{ name: "cancel", label, type: "checkbox", value: false }],
      submit: ({ cancel }) =>
        this.desk.call("PUT", `v1/tenants/${encodeURIComponent(tenant)}/disable`, {
          cancel_queued: cancel,
        }),
      done: `The tenant ${tenant} is disabled.`,
    });
  }

  async #enable(tenant) {
    await this.desk.ask({
      title: `Enable ${tenant}?`,
      words: "Its keys work again, and what is queued runs.",
      action: "Enable it",
      submit: () => this.desk.call("PUT", `v1/tenants/${encodeURIComponent(tenant)}/enable`),
      done: `The tenant ${tenant} is enabled.`,
    });
  }
}

function limitValue(limit, text) {
  if (text === "") return null;
  return limit === "files" ? text : Number(text);
}

function limitHelp(limit, value, source) {
  if (source === "api") return "Set here.";
  const size = limit.endsWith("_bytes") && value !== null ? ` (${bytes(value)})` : "";
  const words = value === null ? "no limit" : `${value.toLocaleString("en")}${size}`;
  return source === "file" ? `By the settings of this tenant: ${words}.` : `By default: ${words}.`;
}

function tenantName({ tenant, disabled_at: disabled }) {
  if (disabled === null) return tenant;
  return h.span(tenant, " ", pill("revoked", "disabled"));
}
