// Resources that need no part of their own: all that their declarations say.

import { h } from "../interface/element.js";
import { capitalized } from "../interface/words.js";
import { Part, section } from "./desk.js";
import { ResourceTable } from "./resource_table.js";

/** Part of the resources. */
export class ResourcesPart extends Part {
  node = h.div();
  #tables = new Map(); // by the name of their kind

  async look() {
    const { desk } = this;
    const [kinds, { grants }] = await Promise.all([desk.resources(), desk.page.caller.look()]);
    for (const { name, plural, about, scope } of kinds.values()) {
      const isSeen = about !== "" && (scope === "" || grants.includes(scope));
      if (isSeen && !this.#tables.has(name)) {
        const table = new ResourceTable(desk, name);
        this.#tables.set(name, table);
        this.node.append(section(capitalized(plural), `${capitalized(about)}.`, table.node));
      }
    }
    await Promise.all([...this.#tables.values()].map((table) => table.look()));
  }
}
