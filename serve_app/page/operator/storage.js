// What is stored: by kind and tenant, where, and how long.

import { withCode } from "../form/help.js";
import { factRows, h } from "../interface/element.js";
import { LiveTable } from "../interface/live_table.js";
import { bytes, bytesOf, clock } from "../interface/words.js";
import { Part, section, span } from "./desk.js";

const KINDS = {
  image: "Images",
  video: "Videos",
  audio: "Audio",
  other: "Other results",
  thumbnail: "Thumbnails",
  upload: "Uploads",
  draft: "Drafts",
  weights: "Weights",
};
const DAY_S = 86_400;

/** Part of the storage. */
export class StoragePart extends Part {
  #figures = h.dl({ class: "tiles" });
  #measured = h.p({ class: "help" });
  #kinds = new LiveTable(KIND_TABLE);
  #tenants = new LiveTable(TENANT_TABLE);
  #locations = new LiveTable(PLACE_TABLE);
  #kept = h.ul({ class: "lines" });
  node = h.div(
    this.#figures,
    this.#measured,
    section("By kind", "", this.#kinds.node),
    section("By tenant", "", this.#tenants.node),
    section(
      "Places",
      withCode(
        "`darkroom storage lifecycle` prints and installs the rules of a bucket; `darkroom fsck` compares the files " +
          "with the records.",
      ),
      this.#locations.node,
    ),
    section("How long it is kept", "By the settings. Tenants can have other times.", this.#kept),
  );

  async look() {
    const use = await this.desk.call("GET", "v1/storage");
    const { kinds, tenants, disk, unwanted, overdue, locations, kept_days: kept } = use;
    const sum = (name) => kinds.reduce((total, each) => total + each[name], 0);
    const whole = sum("bytes");
    this.#figures.replaceChildren(
      ...factRows({
        Stored: bytes(whole),
        Files: sum("files").toLocaleString("en"),
        "Free disk": disk === null ? "—" : bytesOf(disk.free_bytes, disk.bytes),
        "To be deleted": unwantedWords(unwanted, overdue),
      }),
    );
    this.#measured.textContent =
      `By the records of the database, at ${clock(use.measured_at)}. Snapshots of running requests and ` +
      "open uploads are not counted.";
    this.#kinds.show(kinds.map((each) => ({ ...each, whole })));
    this.#tenants.show(tenants);
    this.#locations.show(locations.map((each) => ({ ...each, isOnly: locations.length === 1 })));
    this.#kept.replaceChildren(...keptLines(kept).map((line) => h.li(line)));
  }
}

function tenantWords({ id, tenants, isOnly }) {
  if (id) return tenants.join(", ");
  return isOnly ? "all" : "all others";
}

function unwantedWords(unwanted, overdue) {
  const late = overdue > 0 ? `, ${overdue.toLocaleString("en")} overdue` : "";
  return `${unwanted.toLocaleString("en")}${late}`;
}

function keptLines({ requests, prompts, files, drafts }) {
  const lines = [
    ["Requests", requests],
    ["Their prompts", prompts],
    ["Their files", files],
    ["Drafts", drafts],
  ];
  return lines.map(([name, days]) => `${name}: ${days === null ? "for ever" : span(days * DAY_S)}`);
}

const KIND_TABLE = {
  label: "By kind",
  empty: "Nothing is stored.",
  key: ({ kind }) => kind,
  columns: [
    { name: "Kind", cell: ({ kind }) => KINDS[kind] ?? kind },
    { name: "Files", number: true, cell: ({ files }) => files.toLocaleString("en") },
    { name: "Size", number: true, cell: ({ bytes: size }) => bytes(size) },
    { name: "Share", cell: ({ kind, bytes: size, whole }) => share(KINDS[kind], size, whole) },
  ],
};

function share(name, size, whole) {
  const value = whole > 0 ? size / whole : 0;
  const bar = h.progress({ max: 1, value, "aria-label": `Share: ${name}` });
  return h.span({ class: "share" }, bar, `${Math.round(100 * value)} %`);
}

const TENANT_TABLE = {
  label: "By tenant",
  empty: "Nothing is stored.",
  key: ({ tenant }) => tenant,
  columns: [
    { name: "Tenant", cell: ({ tenant }) => tenant || "shared by tenants" },
    { name: "Files", number: true, cell: ({ files }) => files.toLocaleString("en") },
    { name: "Size", number: true, cell: ({ bytes: size }) => bytes(size) },
    {
      name: "Kinds",
      wide: true,
      cell: ({ kinds }) =>
        kinds.map(({ kind, bytes: size }) => `${KINDS[kind] ?? kind} ${bytes(size)}`).join(" · "),
    },
  ],
};

const PLACE_TABLE = {
  label: "Places",
  empty: "",
  key: ({ id }) => id,
  columns: [
    { name: "Place", cell: ({ id }) => id || "this Darkroom's own" },
    { name: "Type", cell: ({ type }) => (type === "s3" ? "S3 bucket" : "folder") },
    { name: "Where", wide: true, cell: ({ place }) => (place ? h.code(place) : "") },
    { name: "Tenants", wide: true, cell: tenantWords },
  ],
};
