// Dialog with the share links of a request: makes, copies, lists and revokes them.

import { copyButton } from "../interface/copy.js";
import { openNew } from "../interface/dialog.js";
import { button, h, labelled, problemLine, select, tell } from "../interface/element.js";
import { clock } from "../interface/words.js";

const DAY_S = 86_400;
const PERIODS = { [DAY_S]: "1 day", [7 * DAY_S]: "7 days", [30 * DAY_S]: "30 days" };
const WORDS =
  "Anyone with the link sees the prompt, the settings and the files of this request, " +
  "without a key, until the link ends. The files' own addresses work as long as the files exist. " +
  "Addresses in the settings are shown without signatures and tokens.";

/** Opens the dialog for the request `id`. `api` is the page's. */
export function share(api, id) {
  const made = h.div({ class: "made-link", hidden: true });
  const links = h.div({ class: "links" });
  const problem = problemLine();
  const period = select(Object.entries(PERIODS), { value: 7 * DAY_S });
  const create = button("Make a link", null, { type: "submit", class: "main" });
  const attempt = async (work) => {
    try {
      await work();
    } catch (error) {
      tell(problem, error.message);
    }
  };
  const list = async () => {
    const { shares } = await api.call("GET", "v1/shares");
    const own = shares.filter(({ request_id: request }) => request === id).map(row);
    links.replaceChildren(...(own.length ? [h.h3("Links to this request"), h.ul(own)] : []));
  };
  const row = ({ share_id: link, expires_at: end }) => {
    const ends = `Ends ${clock(end)}`;
    const revoke = async () => {
      await attempt(async () => {
        await api.call("DELETE", `v1/shares/${encodeURIComponent(link)}`);
        tell(problem, "");
      });
      await attempt(list);
    };
    const given = { class: "quiet danger", "aria-label": `Revoke the link. ${ends}` };
    return h.li(h.span(ends), button("Revoke", revoke, given));
  };
  const submit = async (event) => {
    event.preventDefault();
    create.disabled = true;
    await attempt(async () => {
      const path = `v1/requests/${encodeURIComponent(id)}/share`;
      showLink(made, await api.call("POST", path, { expires_in_s: Number(period.value) }));
      tell(problem, "");
      await list();
    });
    create.disabled = false;
  };
  const form = h.form({ class: "new-link", submit }, labelled("Valid for", period), create);
  openNew(
    "Share",
    h.div({ class: "sharing" }, h.p({ class: "help" }, WORDS), form, problem, made, links),
  );
  attempt(list);
}

/** Shows a new link, which the server does not show again. */
function showLink(node, { url }) {
  const field = h.input({ readonly: true, value: url, "aria-label": "Link" });
  node.replaceChildren(
    h.div(
      { class: "link-row" },
      field,
      copyButton(() => field),
    ),
    h.p({ class: "help" }, "Copy it now. It is not shown again."),
  );
  node.hidden = false;
  field.select();
}
