// Filters of the gallery: as parts of the page's address, and as parameters of `/v1/requests`.

const KINDS = ["image", "video", "audio"];
const MOST_CHARACTERS = 200; // of a search

/** States by the filter that stands for them. */
export const STATES_OF = {
  results: ["succeeded", "running", "queued", "failed"],
  done: ["succeeded"],
  active: ["running", "queued"],
  failed: ["failed", "expired"],
  cancelled: ["cancelled"],
};

/** Filters that show every result. Null: not set. */
export const NONE = {
  q: null,
  kind: null,
  state: null,
  endpoint: null,
  since: null,
  until: null,
  favourite: null,
};

/** Filters in the parts of an address. What cannot be understood counts as not set. */
export function filtersIn(address) {
  const given = (name, fits) => {
    const value = address[name];
    return typeof value === "string" && fits(value) ? value : null;
  };
  return {
    q: given("q", (value) => value.trim() !== "")?.slice(0, MOST_CHARACTERS) ?? null,
    kind: given("kind", (value) => KINDS.includes(value)),
    state: given("state", (value) => value !== "results" && value in STATES_OF),
    endpoint: given("endpoint", (value) => value !== ""),
    since: given("since", isDate),
    until: given("until", isDate),
    favourite: given("favourite", (value) => value === "1"),
  };
}

/** True if a filter is set. */
export function isFiltered(filters) {
  return Object.values(filters).some((value) => value !== null);
}

/** Path of a page of requests. `before`: the end of the page before it. `from`: the time of the newest
 * one wanted, as the server gave it. */
export function pathOf(filters, limit, { before = null, from = null } = {}) {
  const { q, kind, endpoint, since, until, favourite } = filters;
  const asked = new URLSearchParams({ limit });
  for (const state of STATES_OF[filters.state ?? "results"]) asked.append("state", state);
  if (q !== null) asked.set("q", q);
  if (kind !== null) asked.set("kind", kind);
  if (endpoint !== null) asked.set("endpoint_id", endpoint);
  if (since !== null) asked.set("since", midnight(since).toISOString());
  if (until !== null) asked.set("until", midnight(until, 1).toISOString()); // with that day
  if (from !== null) asked.set("until", new Date(Date.parse(from) + 1).toISOString());
  if (favourite !== null) asked.set("favourite", "true");
  if (before !== null) asked.set("before", before);
  return `v1/requests?${asked}`;
}

/** Path of the counts by day, of what the filters by state, model and kind let through. */
export function daysPathOf({ state, kind, endpoint }) {
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  const asked = new URLSearchParams({ timezone: timeZone });
  for (const each of STATES_OF[state ?? "results"]) asked.append("state", each);
  if (kind !== null) asked.set("kind", kind);
  if (endpoint !== null) asked.set("endpoint_id", endpoint);
  return `v1/requests/days?${asked}`;
}

/** Midnight at which a date begins, `later` days after it. */
export function midnight(date, later = 0) {
  const [year, month, day] = date.split("-").map(Number);
  return new Date(year, month - 1, day + later);
}

function isDate(value) {
  return /^\d{4}-\d\d-\d\d$/.test(value) && !Number.isNaN(midnight(value).getTime());
}
