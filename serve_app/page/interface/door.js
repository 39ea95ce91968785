// Form that asks for the API key, or for a sign-in.

import { byId } from "./element.js";
import { keyIn } from "../client/key.js";

/** Key form. `enter(key)` is called with a well-formed key; `back()` when the stored key should be
 * used; `forget()` when it should be forgotten. `signIn`: a `SignIn`. */
export class Door {
  #enter;
  #signIn;

  constructor({ enter, back, forget, signIn }) {
    this.#enter = enter;
    this.#signIn = signIn;
    byId("sign-in").addEventListener("click", () => this.#begin());
    byId("sign-out").addEventListener("click", async () => {
      await signIn.end();
      forget();
    });
    byId("key-back").addEventListener("click", back);
    byId("key-forget").addEventListener("click", forget);
    byId("door-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try();
    });
  }

  /** Opens the form. `why` says why the key was refused, or why the page asks; `kept` shows the
   * buttons for a stored key; `key` is filled in. */
  open({ why = "", kept = false, key = "" } = {}) {
    const { person } = this.#signIn;
    byId("key-back").hidden = !kept;
    byId("key-forget").hidden = !kept || person !== null;
    byId("sign-out").hidden = !kept || person === null;
    byId("sign-out").textContent = `Sign out ${person ?? ""}`;
    this.#signIn.isOffered().then((offered) => (byId("sign-in").hidden = !offered));
    document.documentElement.classList.add("locked");
    byId("key").value = key;
    this.say(why);
    byId("key").focus();
  }

  close() {
    document.documentElement.classList.remove("locked");
    byId("key").value = "";
  }

  /** Opens the page with `key`, as if it had been pasted. */
  use(key) {
    this.#signIn.forget();
    this.say("");
    this.#enter(key);
  }

  /** Ends the sign-in with which the provider sent the browser back. */
  async comeBack(answer) {
    this.open();
    try {
      this.#enter(await this.#signIn.finish(answer));
    } catch (error) {
      this.say(error.message);
    }
  }

  get isOpen() {
    return document.documentElement.classList.contains("locked");
  }

  say(problem) {
    byId("key-problem").textContent = problem;
    byId("key-problem").hidden = problem === "";
    byId("key").setAttribute("aria-invalid", String(problem !== ""));
  }

  async #begin() {
    this.say("");
    try {
      await this.#signIn.begin();
    } catch (error) {
      this.say(error.message);
    }
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
