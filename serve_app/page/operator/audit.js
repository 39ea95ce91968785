// Audit log: what operators did, and failed logins.

import { element } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { clock } from "../interface/words.js";
import { section } from "./desk.js";

const PAGE = 50;

/** Part of the audit log. */
export class AuditPart {
  everyMs = null;
  changed = () => {};
  #desk;
  #acts = [];
  #next = null;
  #table = actTable();
  #more;

  constructor(desk) {
    this.#desk = desk;
    const older = () => desk.run(() => this.#load(this.#next));
    this.#more = element(
      "button",
      { type: "button", class: "quiet", click: older },
      "Show older acts",
    );
    this.node = element(
      "div",
      {},
      section(
        "Audit log",
        "What operators did, newest first, and logins that failed.",
        this.#table.node,
        this.#more,
      ),
    );
  }

  async look() {
    this.#acts = [];
    await this.#load(null);
  }

  async #load(before) {
    const from = before === null ? "" : `&before=${before}`;
    const page = await this.#desk.call("GET", `v1/audit?limit=${PAGE}${from}`);
    this.#acts.push(...page.acts);
    this.#next = page.next_before;
    this.#more.hidden = this.#next === null;
    this.#table.show(this.#acts);
  }
}

function actTable() {
  return new LiveTable({
    label: "Audit log",
    empty: "Nothing was done yet.",
    key: ({ id }) => id,
    columns: [
      { name: "Act", cell: ({ action }) => action },
      { name: "Time", cell: ({ at }) => clock(at) },
      { name: "On", wide: true, cell: ({ subject }) => subject },
      { name: "By key", cell: ({ actor }) => (actor ? element("code", {}, actor) : "—") },
      { name: "From", cell: ({ address }) => address || "—" },
      { name: "Detail", wide: true, cell: ({ detail }) => detailWords(detail) },
    ],
  });
}

function detailWords(detail) {
  return Object.entries(detail)
    .filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(" · ");
}
