// LoRAs and fine-tunes that the tenant registers: the list with their states, adding and removing.

import { Uploads } from "../client/uploads.js";
import { button, h } from "../interface/element.js";
import { Part, section } from "../operator/desk.js";
import { ResourceTable } from "../operator/resource_table.js";

const KINDS = [
  ["", "found from its tensors"],
  ["lora", "LoRA"],
  ["finetune", "fine-tune"],
];
const FINAL = ["ready", "refused"];

/** Part of the weights. */
export class WeightsPart extends Part {
  everyMs = 3000; // what is fetched and checked moves on
  #sent = new Map(); // name → key of an upload, which is deleted when the weights are checked
  #uploads = new Uploads(this.desk.page.api);
  #table = new ResourceTable(this.desk, "set of weights", {
    deletable: ({ tenant }) => tenant === this.#own, // others are published by another tenant
  });
  node = h.div(
    section(
      "Weights",
      "LoRAs and fine-tunes of your own. They are checked against their base before they are used.",
      button("Register weights …", () => this.#add(), { class: "main" }),
      this.#table.node,
    ),
  );

  async look() {
    this.#own = (await this.desk.page.caller.look()).tenant;
    const { weights } = await this.#table.look();
    await this.#clean(weights);
  }

  #own = null;

  /** Deletes the uploads of weights that have been checked: their bytes are stored as weights. */
  async #clean(weights) {
    for (const { name, state } of weights) {
      const key = this.#sent.get(name);
      if (key === undefined || !FINAL.includes(state)) continue;
      this.#sent.delete(name);
      await this.desk.call("DELETE", `v1/uploads/${key}`).catch(() => {}); // it expires anyway
    }
  }

  async #add() {
    let models = [];
    if (!(await this.desk.run(async () => (models = await this.desk.page.models.list())))) return;
    const bases = models.filter(({ away }) => away === "").map(({ id }) => [id, id]);
    await this.desk.ask({
      title: "Register weights",
      words:
        "A safetensors file, or a repository of the hub. Requests name a LoRA as weights:NAME; a " +
        "fine-tune needs an endpoint.",
      action: "Register them",
      fields: [
        { name: "name", label: "Name", help: "Lower case, such as: style.", required: true },
        { name: "base", label: "Model that they are for", choices: bases },
        { name: "file", label: "File", type: "file" },
        {
          name: "source",
          label: "Or a URL or repository",
          help: "https://…, owner/name or owner/name/file.safetensors, with @revision if you like.",
        },
        { name: "kind", label: "Kind", choices: KINDS },
        {
          name: "endpoint",
          label: "Private endpoint",
          help: "A name such as portraits. Empty: none.",
        },
      ],
      submit: (values, report) => this.#register(values, report),
      done: ({ name }) => `The weights ${name} are being checked.`,
    });
  }

  async #register({ file, source, kind, endpoint, ...given }, report) {
    if ((file === null) === (source === ""))
      throw new Error("Choose either a file, or a URL or repository.");
    const sent = (part) => report(`${Math.round(part * 100)} % of the file is uploaded.`);
    const url = file === null ? source : await this.#uploads.send(file, sent);
    const added = await this.desk.call("POST", "v1/weights", {
      ...given,
      source: url,
      kind: kind === "" ? null : kind,
      endpoint: endpoint === "" ? null : endpoint,
    });
    if (file !== null) {
      const { pathname } = new URL(url);
      this.#sent.set(added.name, pathname.slice(pathname.indexOf("/files/") + "/files/".length));
    }
    return added;
  }
}
