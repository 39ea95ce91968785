// View of a tenant: what it used, its API keys, and its weights.

import { PartsView } from "../operator/parts_view.js";
import { ResourcesPart } from "../operator/resources.js";
import { UsagePart } from "../operator/usage.js";
import { OwnKeysPart } from "./own_keys.js";
import { WeightsPart } from "./weights.js";

/** Fills `host` with the view. */
export function open(host, page) {
  host.classList.add("operator"); // it looks alike
  return new PartsView(host, page, {
    view: "account",
    title: "Account",
    refused: "This part needs a key with the scope usage, files or tenant-admin.",
    parts: {
      usage: { name: "Usage", needs: "usage", open: (desk) => new UsagePart(desk, { own: true }) },
      keys: { name: "Keys", needs: "tenant-admin", open: (desk) => new OwnKeysPart(desk) },
      resources: { name: "Resources", needs: "files", open: (desk) => new ResourcesPart(desk) },
      weights: { name: "Weights", needs: "files", open: (desk) => new WeightsPart(desk) },
    },
  });
}
