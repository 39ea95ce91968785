// View of operators: what runs, what waits, and what may be changed. Only keys with the scope `operator` see it.

import { WeightsPart } from "../account/weights.js";
import { AuditPart } from "./audit.js";
import { EntriesPart } from "./entries.js";
import { HealthPart } from "./health.js";
import { KeysPart } from "./keys.js";
import { PartsView } from "./parts_view.js";
import { PoolsPart } from "./pools.js";
import { QueuePart } from "./queue.js";
import { ResourcesPart } from "./resources.js";
import { ShadowsPart } from "./shadows.js";
import { StoragePart } from "./storage.js";
import { UsagePart } from "./usage.js";
import { WebhooksPart } from "./webhooks.js";

/** Parts of the view by their name in the address, see `PartsView`. */
const PARTS = {
  pools: { name: "Pools", open: (desk) => new PoolsPart(desk) },
  queue: { name: "Queue", open: (desk) => new QueuePart(desk) },
  models: { name: "Models", open: (desk) => new EntriesPart(desk) },
  keys: { name: "Keys", open: (desk) => new KeysPart(desk) },
  weights: { name: "Weights", open: (desk) => new WeightsPart(desk) },
  resources: { name: "Resources", open: (desk) => new ResourcesPart(desk) },
  usage: { name: "Usage", open: (desk) => new UsagePart(desk) },
  shadows: { name: "Shadows", open: (desk) => new ShadowsPart(desk) },
  storage: { name: "Storage", open: (desk) => new StoragePart(desk) },
  webhooks: { name: "Webhooks", open: (desk) => new WebhooksPart(desk) },
  health: { name: "Health", open: (desk) => new HealthPart(desk) },
  audit: { name: "Audit", open: (desk) => new AuditPart(desk) },
};
const NEEDS = "operator";

/** Fills `host` with the view. */
export function open(host, page) {
  const parts = Object.entries(PARTS).map(([part, given]) => [part, { ...given, needs: NEEDS }]);
  return new PartsView(host, page, {
    view: "operator",
    title: "Operate",
    refused: "This part is for operators: it needs a key with the scope operator.",
    parts: Object.fromEntries(parts),
  });
}
