// View of a tenant: what it used, and its API keys.

import { PartsView } from "../operator/parts_view.js";
import { UsagePart } from "../operator/usage.js";
import { OwnKeysPart } from "./own_keys.js";

/** Fills `host` with the view. */
export function open(host, page) {
  host.classList.add("operator"); // it looks alike
  return new PartsView(host, page, {
    view: "account",
    title: "Account",
    refused: "This part needs a key with the scope usage or tenant-admin.",
    parts: {
      usage: { name: "Usage", needs: "usage", open: (desk) => new UsagePart(desk, { own: true }) },
      keys: { name: "Keys", needs: "tenant-admin", open: (desk) => new OwnKeysPart(desk) },
    },
  });
}
