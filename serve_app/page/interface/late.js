// Parts of the page that are loaded when they are first used.

import { BASE } from "../client/api.js";
import { button, byId, h } from "./element.js";

const STYLES = "styles/tools.css"; // of most tools
const OF_DRAFTS = "drafts/drafts.css";
const OWN_STYLES = { code: "code/code.css", draftSettings: OF_DRAFTS, goingOn: OF_DRAFTS, lightTable: OF_DRAFTS };

const TOOLS = {
  uploads: () => import("../client/uploads.js"),
  notifications: () => import("./notifications.js"),
  text: () => import("../results/text.js"),
  reuse: () => import("../tools/reuse.js"),
  mask: () => import("../tools/mask.js"),
  frame: () => import("../tools/frame.js"),
  grid: () => import("../tools/grid.js"),
  code: () => import("../code/dialog.js"),
  received: () => import("../history/received.js"),
  prompts: () => import("../tools/prompts.js"),
  loras: () => import("../tools/loras.js"),
  draftSettings: () => import("../drafts/settings.js"),
  goingOn: () => import("../drafts/going_on.js"),
  lightTable: () => import("../drafts/light_table.js"),
};

/** Folder of the files of this page's version: its first script is in it. */
const FOLDER = new URL(".", document.querySelector('script[type="module"]')?.src ?? BASE);

const sheets = new Map(); // path → promise of the style sheet

/** This page is of another version than Darkroom: trying again does not help. */
export class Updated extends Error {}

/** Module of a tool, with its styles. Throws an `Error` whose message is for the user; an `Updated`
 * has its button in the header then. */
export async function tool(name) {
  try {
    return await loaded(TOOLS[name], OWN_STYLES[name] ?? STYLES);
  } catch (error) {
    if (error instanceof Updated) offerReload(error.message);
    throw error;
  }
}

/** Module that `load` imports by a call, with its style sheets. Throws an `Error` whose message is for
 * the user: an `Updated` if only a new page can load it. */
export async function loaded(load, ...paths) {
  try {
    const [module] = await Promise.all([load(), ...paths.map(styled)]);
    return module;
  } catch (cause) {
    if (await isUpdated()) throw new Updated("Darkroom was updated. Reload the page.", { cause });
    throw new Error("This part of the page could not be loaded. Try again.", { cause });
  }
}

/** Button that loads the page anew. */
export function reloadButton() {
  return button("Reload", () => location.reload());
}

function offerReload(words) {
  if (byId("updated")) return;
  byId("connection").after(h.p({ id: "updated", role: "status" }, words, " ", reloadButton()));
}

/** True if Darkroom does not have the script of this page any more. */
async function isUpdated() {
  const script = new URL("bundle.js", FOLDER);
  const asking = fetch(script, { method: "HEAD", cache: "no-store" });
  return await asking.then(
    ({ status }) => status === 404,
    () => false,
  );
}

/** Loads a style sheet of the page once; resolves when it is in force. */
function styled(path) {
  if (!sheets.has(path)) {
    const loading = load(path);
    sheets.set(path, loading);
    loading.catch(() => sheets.delete(path));
  }
  return sheets.get(path);
}

function load(path) {
  return new Promise((resolve, reject) => {
    const href = new URL(path, FOLDER);
    const link = h.link({ rel: "stylesheet", href, load: resolve });
    link.addEventListener("error", (event) => {
      link.remove();
      reject(event);
    });
    document.head.append(link);
  });
}
