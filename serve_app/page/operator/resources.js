// Resources that need no part of their own: all that their declarations say.

import { element } from "../interface/element.js";
import { section } from "./desk.js";
import { ResourceTable, capitalized } from "./resource_table.js";

/** Part of the resources. */
export class ResourcesPart {
  node = element("div", {});
  #desk;
  #tables = new Map(); // by the name of their kind

  constructor(desk) {
    this.#desk = desk;
  }

  async look() {
    const [kinds, { grants }] = await Promise.all([
      this.#desk.resources(),
      this.#desk.caller.look(),
    ]);
    for (const { name, plural, about, scope } of kinds.values()) {
      const isSeen = about !== "" && (scope === "" || grants.includes(scope));
      if (isSeen && !this.#tables.has(name)) {
        const table = new ResourceTable(this.#desk, name);
        this.#tables.set(name, table);
        this.node.append(section(capitalized(plural), `${capitalized(about)}.`, table.node));
      }
    }
    await Promise.all([...this.#tables.values()].map((table) => table.look()));
  }
}
