// API keys of the tenant of the key in use.

import { element } from "../interface/element.js";
import { KeyList } from "../operator/key_list.js";

/** Part of the keys. */
export class OwnKeysPart {
  #desk;
  #keys;

  constructor(desk) {
    this.#desk = desk;
    this.#keys = new KeyList(desk);
    this.node = element("div", {}, this.#keys.node);
  }

  async look() {
    const own = await this.#desk.caller.look();
    await this.#keys.look(own.tenant, own);
  }
}
