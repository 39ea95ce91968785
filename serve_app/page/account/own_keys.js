// API keys of the tenant of the key in use.

import { h } from "../interface/element.js";
import { Part } from "../operator/desk.js";
import { KeyList } from "../operator/key_list.js";

/** Part of the keys. */
export class OwnKeysPart extends Part {
  #keys = new KeyList(this.desk);
  node = h.div(this.#keys.node);

  async look() {
    const own = await this.desk.page.caller.look();
    await this.#keys.look(own.tenant, own);
  }
}
