// State of the page that several parts show. Each part reads it in an effect, so that none is older than
// another.

import { computed, signal } from "../vendored/signals.js";
import { Changes } from "./changes.js";

/** Models, before they are listed. */
export const UNKNOWN = [];

export class Store {
  /** Darkroom answers. */
  contact = signal(true);
  /** The form for the key covers the page. */
  locked = signal(false);
  /** Scopes of the key. */
  grants = signal([]);
  /** Models, without their schemas. */
  models = signal(UNKNOWN);
  /** Those that can be used here. */
  served = computed(() => this.models.value.filter(({ away }) => away === ""));
  /** The chosen model, with its schema; null before there is one. */
  model = signal(null);
  /** How far the requests of this tab are that are not over: parts from 0 to 1. */
  parts = signal([]);

  constructor(api) {
    this.changes = new Changes(api);
    api.addEventListener("unreachable", () => (this.contact.value = false));
    api.addEventListener("reached", () => (this.contact.value = true));
  }
}
