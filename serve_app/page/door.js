// Form that asks for the API key.

import { byId } from "./element.js";
import { keyIn } from "./key.js";

/** Key form. `enter(key)` is called with a well-formed key; `forget()` when the stored key should be
 * forgotten. */
export class Door {
  #enter;

  constructor({ enter, forget }) {
    this.#enter = enter;
    byId("key-back").addEventListener("click", () => this.close());
    byId("key-forget").addEventListener("click", forget);
    byId("door-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try();
    });
  }

  /** Opens the form. `why` says why the key was refused; `kept` shows the buttons for a stored key. */
  open({ why = "", kept = false } = {}) {
    byId("key-back").hidden = !kept;
    byId("key-forget").hidden = !kept;
    byId("door").hidden = false;
    byId("work").hidden = true;
    byId("key-button").hidden = true;
    this.say(why);
    byId("key").focus();
  }

  close() {
    byId("door").hidden = true;
    byId("work").hidden = false;
    byId("key-button").hidden = false;
    byId("key").value = "";
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
    this.say("");
    this.#enter(key);
  }
}
