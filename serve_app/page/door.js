// Asking for the API key.

import { byId } from "./element.js";
import { keyIn } from "./key.js";

/** Shows the question. `enter(key)` is called with a key that looks like one; `forget()` when the
 * kept one should be forgotten. */
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

  /** `why` is a sentence for somebody whose key does not work; with `kept` there is a way back. */
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
        "This is no key of Darkroom: it looks like dk_0123…:4567…, an id, a colon and a secret.",
      );
      return;
    }
    this.say("");
    this.#enter(key);
  }
}
