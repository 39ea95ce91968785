// Form that asks for the API key.

import { byId } from "./element.js";
import { keyIn } from "../client/key.js";

/** Key form. `enter(key)` is called with a well-formed key; `back()` when the stored key should be
 * used; `forget()` when it should be forgotten. */
export class Door {
  #enter;

  constructor({ enter, back, forget }) {
    this.#enter = enter;
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
    byId("key-back").hidden = !kept;
    byId("key-forget").hidden = !kept;
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
    this.say("");
    this.#enter(key);
  }

  get isOpen() {
    return document.documentElement.classList.contains("locked");
  }

  say(problem) {
    byId("key-problem").textContent = problem;
    byId("key-problem").hidden = problem === "";
    byId("key").setAttribute("aria-invalid", String(problem !== ""));
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
