// Audit log: what operators did, and failed logins.

import { h } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { clock } from "../interface/words.js";
import { Pages, Part, section } from "./desk.js";

/** Part of the audit log. */
export class AuditPart extends Part {
  #table = new LiveTable({
    label: "Audit log",
    empty: "Nothing was done yet.",
    key: ({ id }) => id,
    columns: [
      { name: "Act", cell: ({ action }) => action },
      { name: "Time", cell: ({ at }) => clock(at) },
      { name: "On", wide: true, cell: ({ subject }) => subject },
      { name: "By key", cell: ({ actor }) => (actor ? h.code(actor) : "—") },
      { name: "From", cell: ({ address }) => address || "—" },
      { name: "Detail", wide: true, cell: ({ detail }) => detailWords(detail) },
    ],
  });
  #acts = new Pages(this.desk, "Show older acts", {
    path: () => "v1/audit?limit=50",
    items: "acts",
    show: (acts) => this.#table.show(acts),
  });
  node = h.div(
    section(
      "Audit log",
      "What operators did, newest first, and logins that failed.",
      this.#table.node,
      this.#acts.more,
    ),
  );

  look() {
    return this.#acts.look();
  }
}

function detailWords(detail) {
  return Object.entries(detail)
    .filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(" · ");
}
