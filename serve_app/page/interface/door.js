// Form that asks for the API key, or for a sign-in.

import { effect } from "../vendored/signals.js";
import { byId, tell } from "./element.js";
import { say } from "./toast.js";
import { Unreachable } from "../client/api.js";
import { keyIn } from "../client/key.js";

const WRONG_KEY =
  "This key is not valid here. Copy the whole key, and check that it belongs to this Darkroom.";
const ENDED_KEY = "The key is no longer valid. Paste another one.";
const ENDED_SESSION = "Your sign-in has ended. Sign in again.";
const OTHER_KEY = "The link that you followed has another key than this browser. Open it to use it.";
const SIGNED_IN =
  "This browser has a key that works, so the link was not used. Choose API key → Forget this key first to use it.";

/** Key form. `enter(key)` is called with a well-formed key; `back()` when the stored key should be
 * used; `forget()` when it should be forgotten; `asked()` before the user opens the form. `signIn`: a
 * `SignIn`; `kept`: a `KeptKey`; `locked`: the signal that it is open. */
export class Door {
  #page;
  #token = null; // of a one-time link, while the stored key is tried

  constructor(page) {
    const { back, forget, asked, signIn, locked } = page;
    this.#page = page;
    effect(() => document.documentElement.classList.toggle("locked", locked.value));
    byId("key-button").addEventListener("click", () => {
      asked();
      this.open({ kept: true });
    });
    byId("sign-in").addEventListener("click", () => this.#begin());
    byId("sign-out").addEventListener("click", async () => {
      await signIn.end();
      forget();
    });
    byId("key-back").addEventListener("click", back);
    document.addEventListener("keydown", ({ key }) => {
      if (key === "Escape" && this.isOpen && !byId("key-back").hidden) back();
    });
    byId("key-forget").addEventListener("click", forget);
    byId("door-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try();
    });
  }

  /** Opens the form. `why` says why the key was refused, or why the page asks; `kept` shows the
   * buttons for a stored key; `key` is filled in. */
  open({ why = "", kept = false, key = "" } = {}) {
    const { person } = this.#page.signIn;
    byId("key-back").hidden = !kept;
    byId("key-forget").hidden = !kept || person !== null;
    byId("sign-out").hidden = !kept || person === null;
    byId("sign-out").textContent = `Sign out ${person ?? ""}`;
    this.#page.signIn.isOffered().then((offered) => (byId("sign-in").hidden = !offered));
    this.#page.locked.value = true;
    byId("key").value = key;
    this.say(why);
    byId("key").focus();
  }

  close() {
    if (this.#token !== null) say(SIGNED_IN);
    this.#token = null;
    this.#page.locked.value = false;
    byId("key").value = "";
  }

  /** Opens the form because the server has refused the key with `error`; `kept` as in `open`. */
  refuse(error, kept) {
    if (error.status === 401 && this.#token !== null) this.#takeKey();
    else this.open({ why: error.status === 401 ? WRONG_KEY : error.message, kept });
  }

  /** Opens the form because the key in use, or the sign-in, is valid no more. */
  end() {
    this.open({ why: this.#page.signIn.person === null ? ENDED_KEY : ENDED_SESSION });
  }

  /** Uses a link that signs in, see `takeLink`. */
  follow({ token, key }) {
    if (token === null) this.#followKey(key);
    else this.#followOnce(token);
  }

  /** Uses the token of a one-time link, unless the browser's own key still works. Then the link stays
   * valid: otherwise any link could make the page work for somebody else. */
  #followOnce(token) {
    this.#page.asked();
    this.#token = token;
    if (this.#page.kept.value === null) this.#takeKey();
    else this.#page.back();
  }

  async #takeKey() {
    const token = this.#token;
    this.#token = null;
    try {
      this.use(await this.#page.signIn.take(token));
    } catch (error) {
      const again = error instanceof Unreachable ? " Open the link again." : "";
      this.open({ why: `${error.message}${again}` });
    }
  }

  /** Uses the key of a link. It replaces a stored key only when the user agrees. */
  #followKey(given) {
    const found = keyIn(given);
    const { value } = this.#page.kept;
    this.#page.asked();
    if (value !== null && value !== found)
      this.open({ why: OTHER_KEY, kept: true, key: found ?? given });
    else if (found === null) this.open({ why: "The key in this link is not complete." });
    else this.use(found);
  }

  /** Opens the page with `key`, as if it had been pasted. */
  use(key) {
    this.#page.signIn.remember(null);
    this.say("");
    this.#page.enter(key);
  }

  /** Ends the sign-in with which the provider sent the browser back. */
  comeBack(answer) {
    const { signIn, enter } = this.#page;
    this.open();
    signIn.finish(answer).then(enter, (error) => this.say(error.message));
  }

  get isOpen() {
    return this.#page.locked.peek();
  }

  say(problem) {
    tell(byId("key-problem"), problem);
    byId("key").setAttribute("aria-invalid", String(problem !== ""));
  }

  async #begin() {
    this.say("");
    await this.#page.signIn.begin().catch((error) => this.say(error.message));
  }

  #try() {
    const key = keyIn(byId("key").value);
    if (key === null) {
      this.say(
        "This is not a Darkroom key. A key looks like dk_0123…:4567…: an id, a colon and a secret.",
      );
      return;
    }
    this.use(key);
  }
}
