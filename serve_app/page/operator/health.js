// Health of the installation: its checks, machines, disk and database.

import { withCode } from "../form/help.js";
import { button, factRows, h } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { bytes, clock } from "../interface/words.js";
import { Part, pill, section } from "./desk.js";
import { samplesOf } from "./samples.js";

/** Part of the health. */
export class HealthPart extends Part {
  #figures = h.dl({ class: "tiles" });
  #checks = checkTable("Checks", "There are no checks.");
  #doctor = checkTable("Doctor", "Examining …");
  #events = new LiveTable(EVENT_TABLE);
  #tables = new LiveTable(SIZE_TABLE);
  node = h.div(
    this.#figures,
    section(
      "Checks",
      "What Darkroom depends on.",
      this.#checks.node,
      button("Check again", () => this.desk.look()),
    ),
    section(
      "Doctor",
      withCode(
        "What `darkroom doctor` finds on the machine that answered. Run it there to check also the proxy, ports, " +
          "certificates and weights; `darkroom doctor storage` tries every call of the storage.",
      ),
      this.#doctor.node,
    ),
    section(
      "Starts and ends",
      "Of replicas and parts of the server, of the last seven days, and of quarantines of nodes, newest first.",
      this.#events.node,
    ),
    section("Database", "The largest tables. Measured once a minute.", this.#tables.node),
  );

  async look() {
    const [status, samples] = await Promise.all([
      this.desk.call("GET", "v1/status"),
      this.desk.page.api.text("metrics").then(samplesOf),
    ]);
    const checks = Object.entries(status.checks).map(([name, result]) =>
      result === "ok" ? { name, ok: true, message: "" } : { name, ok: false, message: result },
    );
    const pools = Object.entries(status.unplaceable).map(([name, message]) => ({
      name: `pool ${name}`,
      ok: false,
      message,
    }));
    const wrong = [...checks, ...pools].filter(({ ok }) => !ok);
    this.#checks.show([...checks, ...pools]);
    this.#events.show(status.events);
    const tables = sizesOf(samples);
    this.#tables.show(tables.slice(0, 8));
    const sum = tables.reduce((total, { size }) => total + size, 0);
    const [disk] = samples.filter(({ name }) => name === "darkroom_disk_free_bytes");
    const show = (state) =>
      this.#figures.replaceChildren(
        ...factRows({
          State: state,
          "Free disk": disk === undefined ? "—" : bytes(disk.value),
          Database: tables.length === 0 ? "—" : bytes(sum),
          Models: String(status.endpoints),
        }),
      );
    show(stateOf(wrong.length, "Examining …"));
    const { findings, problems } = await this.desk.call("GET", "v1/doctor");
    this.#doctor.show(findings);
    show(stateOf(wrong.length + problems, "Healthy"));
  }
}

function stateOf(problems, without) {
  return problems === 0 ? without : `${problems} problem${problems === 1 ? "" : "s"}`;
}

function sizesOf(samples) {
  const of = (wanted) => samples.filter(({ name }) => name === wanted);
  const rows = new Map(of("darkroom_table_rows").map(({ labels, value }) => [labels.table, value]));
  return of("darkroom_table_bytes")
    .map(({ labels, value }) => ({
      name: labels.table,
      size: value,
      rows: rows.get(labels.table) ?? 0,
    }))
    .sort((one, other) => other.size - one.size);
}

function checkTable(label, empty) {
  return new LiveTable({
    label,
    empty,
    key: ({ name }) => name,
    columns: [
      { name: "Check", cell: ({ name }) => name.replaceAll("_", " ") },
      { name: "Result", cell: ({ ok }) => (ok ? pill("ok") : pill("bad", "problem")) },
      { name: "Message", wide: true, cell: ({ message }) => withCode(message) },
    ],
  });
}

const EVENT_TABLE = {
  label: "Starts and ends",
  empty: "Nothing started or ended.",
  key: ({ at, name, event }) => `${at} ${name} ${event}`,
  columns: [
    { name: "Event", cell: ({ kind, event }) => `${kind} ${event}` },
    { name: "Time", cell: ({ at }) => clock(at) },
    { name: "Process", cell: ({ name }) => h.code(name) },
    { name: "Pool", cell: ({ pool }) => pool || "—" },
    { name: "Node", cell: ({ node }) => node || "—" },
    {
      name: "Reason",
      wide: true,
      cell: ({ reason, version }) =>
        [version && `version ${version}`, reason].filter(Boolean).join(" · ") || "—",
    },
  ],
};

const SIZE_TABLE = {
  label: "Database",
  empty: "Nothing was measured yet.",
  key: ({ name }) => name,
  columns: [
    { name: "Table", cell: ({ name }) => name },
    { name: "Rows, about", number: true, cell: ({ rows }) => rows.toLocaleString("en") },
    { name: "Size", number: true, cell: ({ size }) => bytes(size) },
  ],
};
