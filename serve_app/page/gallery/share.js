// Dialog with the share links of a request: makes, copies, lists and revokes them.

import { button, element, freshId } from "../interface/element.js";
import { clock } from "../interface/words.js";
import { showDialog } from "./question.js";

const DAY_S = 86_400;
const PERIODS = { [DAY_S]: "1 day", [7 * DAY_S]: "7 days", [30 * DAY_S]: "30 days" };

/** Opens the dialog for the request `id`. `api` is the page's. */
export function share(api, id) {
  const made = element("div", { class: "made-link", hidden: true });
  const links = element("div", { class: "links" });
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const period = element(
    "select",
    { id: freshId("period") },
    Object.entries(PERIODS).map(([value, words]) => element("option", { value }, words)),
  );
  period.value = 7 * DAY_S;
  const create = button("Make a link", null, { type: "submit", class: "main" });
  const form = element(
    "form",
    { class: "new-link" },
    element("label", { for: period.id }, "Valid for"),
    period,
    create,
  );
  const said = (error) => {
    problem.textContent = error === null ? "" : error.message;
    problem.hidden = error === null;
  };
  const list = () => draw(api, id, links, said);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    create.disabled = true;
    try {
      const path = `v1/requests/${encodeURIComponent(id)}/share`;
      const link = await api.call("POST", path, { expires_in_s: Number(period.value) });
      showLink(made, link);
      said(null);
      await list();
    } catch (error) {
      said(error);
    }
    create.disabled = false;
  });
  const words =
    "Anyone with the link sees the prompt, the settings and the files of this request, " +
    "without a key, until the link ends. The files' own addresses work as long as the files do. " +
    "Addresses in the settings are shown without signatures and tokens.";
  const content = element(
    "div",
    { class: "sharing" },
    element("p", { class: "help" }, words),
    form,
    problem,
    made,
    links,
  );
  showDialog("Share", content);
  list();
}

/** Shows a new link, which the server does not show again. */
function showLink(node, { url }) {
  const field = element("input", { readonly: true, value: url, "aria-label": "Link" });
  const copy = button("Copy", async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(url);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Press Ctrl+C"; // without TLS, browsers do not let pages copy
    }
  });
  node.replaceChildren(
    element("div", { class: "link-row" }, field, copy),
    element("p", { class: "help" }, "Copy it now. It is not shown again."),
  );
  node.hidden = false;
  field.select();
}

/** Lists the links of a request. */
async function draw(api, id, node, said) {
  let shares;
  try {
    ({ shares } = await api.call("GET", "v1/shares"));
  } catch (error) {
    said(error);
    return;
  }
  const own = shares.filter(({ request_id: request }) => request === id);
  if (own.length === 0) {
    node.replaceChildren();
    return;
  }
  node.replaceChildren(
    element("h3", {}, "Links to this request"),
    element(
      "ul",
      {},
      own.map((link) => {
        const ends = `Ends ${clock(link.expires_at)}`;
        const revoke = async () => {
          try {
            await api.call("DELETE", `v1/shares/${encodeURIComponent(link.share_id)}`);
            said(null);
          } catch (error) {
            said(error);
          }
          await draw(api, id, node, said);
        };
        const given = { class: "quiet danger", "aria-label": `Revoke the link. ${ends}` };
        return element("li", {}, element("span", {}, ends), button("Revoke", revoke, given));
      }),
    ),
  );
}
