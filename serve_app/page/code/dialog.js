// Dialog that shows a request as JSON, which can be changed, and as a program.

import { open, makeClosable } from "../interface/dialog.js";
import { byId } from "../interface/element.js";
import { Program } from "./program.js";

/** Dialog with the tabs of a call. `page` has its `address`, and `apply(endpoint, input)`, which fills
 * the form. */
export class ProgramDialog {
  #page;
  #dialog = byId("code");
  #call = null;
  #program;

  constructor(page) {
    this.#page = page;
    this.#program = new Program({
      read: () => this.#call,
      apply: async (endpoint, input) => {
        page.address.correct({ code: null }); // going back would undo a change of the model
        this.#dialog.close();
        await page.apply(endpoint, input);
      },
    });
    this.#dialog.append(this.#program.node);
    makeClosable(this.#dialog, { outside: false }); // JSON may be typed in it
    this.#dialog.addEventListener("close", () => {
      if (!this.#dialog.open) page.address.leave("code"); // the event may be late
    });
  }

  /** Closes the dialog, or opens it again with what it showed last. */
  follow(code) {
    if (code === null) this.#dialog.close();
    else if (this.#call === null) this.#page.address.correct({ code: null });
    else this.show(this.#call);
  }

  /** Shows the call of `endpoint`, whose `category` says in which languages it can be called. */
  show(call) {
    if (this.#page.address.now.code === null) this.#page.address.go({ code: "1", request: null });
    this.#call = call;
    this.#program.show();
    open(this.#dialog);
  }
}
