// The page's address: chosen model and open dialog, so that Back, Forward and links work.

/** Address after the `#`: `{view, model, request, code, tool}`, of which a missing one is null, and what the
 * view adds. `moved()` is called after Back, Forward, a link, or a change by hand. */
export class Address {
  constructor(moved) {
    addEventListener("popstate", moved);
  }

  get now() {
    const given = new URLSearchParams(location.hash.slice(1));
    const none = { view: null, model: null, request: null, code: null, tool: null };
    return { ...none, ...Object.fromEntries(given) };
  }

  /** Changes parts of the address, as a new entry of the history. */
  go(change) {
    const next = this.#with(change);
    if (next !== location.hash) history.pushState({ opened: true }, "", next);
  }

  /** Changes parts of the address in the current entry of the history. */
  correct(change) {
    history.replaceState(history.state, "", this.#with(change));
  }

  /** Leaves the part `name` of the address, which a dialog had when it was open. */
  leave(name) {
    if ((this.now[name] ?? null) === null) return;
    if (history.state?.opened === true) history.back();
    else this.correct({ [name]: null });
  }

  #with(change) {
    const parts = Object.entries({ ...this.now, ...change }).filter(([, value]) => value !== null);
    return `#${parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
  }
}

/** Takes what signs in out of the address, and out of the browser's history: the token of a one-time
 * link (`#link=…`), or a key (`#key=…`). Null without them. */
export function takeLink() {
  const given = new URLSearchParams(location.hash.slice(1));
  const [token, key] = [given.get("link"), given.get("key")];
  if (token === null && key === null) return null;
  given.delete("link");
  given.delete("key");
  const rest = given.toString();
  history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
  return { token, key };
}
