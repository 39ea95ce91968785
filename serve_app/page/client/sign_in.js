// Sign-in of people at a provider. Nothing of it is shown where there is none.

import { keep, keepText, read, readText, TAB } from "./storage.js";

const PLACE = "darkroom.sign-in";
const PERSON = "darkroom.person";

/** Sign-in that this tab has begun, and the person whose key the browser holds. */
export class SignIn {
  #api;

  constructor(api) {
    this.#api = api;
  }

  /** What the provider sent back with the browser, removed from the address; null without it. */
  takeAnswer() {
    const given = new URLSearchParams(location.search);
    if (!given.has("state") || !(given.has("code") || given.has("error"))) return null;
    history.replaceState(history.state, "", location.pathname + location.hash);
    return given;
  }

  /** True if people can sign in here; false also while Darkroom does not answer. */
  isOffered() {
    return this.#api.call("GET", "v1/sign-in").then(
      ({ available }) => available,
      () => false,
    );
  }

  /** Sends the browser to the provider. Throws like `Api.call`. */
  async begin() {
    const { url, state, secret } = await this.#api.call("POST", "v1/sign-in");
    keep(PLACE, { state, secret }, TAB);
    location.assign(url);
  }

  /** Key of the person who came back with `answer`. Throws an error with words for the person. */
  async finish(answer) {
    const begun = read(PLACE, TAB);
    keepText(PLACE, null, TAB);
    const [code, state] = [answer.get("code"), answer.get("state")];
    if (begun === null || begun.state !== state)
      throw new Error("This sign-in did not begin in this tab. Sign in again.");
    if (code === null)
      throw new Error("The provider did not sign you in. Try again, or use an API key.");
    const body = { code, state, secret: begun.secret };
    const { key, person } = await this.#api.call("POST", "v1/sign-in/finish", body);
    this.remember(person);
    return key;
  }

  /** Key of a one-time link, which ends with it. Throws like `Api.call`. */
  async take(token) {
    const { key } = await this.#api.call("POST", "v1/sign-in/links/take", { token });
    return key;
  }

  /** Remembers whose key is in use; null: of nobody. */
  remember(person) {
    keepText(PERSON, person);
  }

  /** Name of the person whose key is in use; null if it is no key of a sign-in. */
  get person() {
    return readText(PERSON);
  }

  /** Ends the session at the server, if it answers, and forgets the person. If the operator wants
   * it, the browser goes on to the provider, to end the session there too. */
  async end() {
    this.remember(null);
    const ended = await this.#api.call("DELETE", "v1/sign-in").catch(() => null);
    if (ended?.provider_logout_url) location.assign(ended.provider_logout_url);
  }
}
