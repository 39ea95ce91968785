// Parts of the page that are loaded when they are first used.

import { BASE } from "../client/api.js";
import { element } from "./element.js";

const STYLES = "styles/tools.css"; // of most tools
const OF_DRAFTS = "drafts/drafts.css";
const OWN_STYLES = { draftSettings: OF_DRAFTS, goingOn: OF_DRAFTS, lightTable: OF_DRAFTS };

const TOOLS = {
  reuse: () => import("../tools/reuse.js"),
  mask: () => import("../tools/mask.js"),
  frame: () => import("../tools/frame.js"),
  grid: () => import("../tools/grid.js"),
  code: () => import("../code/program.js"),
  prompts: () => import("../tools/prompts.js"),
  loras: () => import("../tools/loras.js"),
  draftSettings: () => import("../drafts/settings.js"),
  goingOn: () => import("../drafts/going_on.js"),
  lightTable: () => import("../drafts/light_table.js"),
};

const sheets = new Map(); // path → promise of the style sheet

/** Module of a tool, with its styles. Throws an `Error` whose message is for the user. */
export async function tool(name) {
  try {
    const [module] = await Promise.all([TOOLS[name](), styled(OWN_STYLES[name] ?? STYLES)]);
    return module;
  } catch (error) {
    throw new Error("This part of the page could not be loaded. Try again.", { cause: error });
  }
}

/** Loads a style sheet of the page once; resolves when it is in force. */
export function styled(path) {
  if (!sheets.has(path)) {
    const loading = load(path);
    sheets.set(path, loading);
    loading.catch(() => sheets.delete(path));
  }
  return sheets.get(path);
}

function load(path) {
  return new Promise((resolve, reject) => {
    const href = new URL(`page/${path}`, BASE);
    const link = element("link", { rel: "stylesheet", href, load: resolve });
    link.addEventListener("error", (event) => {
      link.remove();
      reject(event);
    });
    document.head.append(link);
  });
}
