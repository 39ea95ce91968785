// Gallery: the thumbnails of the tenant's results, by day.

import { element } from "../interface/element.js";
import { day } from "../interface/words.js";

const PAGE = 60;

/** Fills `host` with the gallery. */
export function open(host, page) {
  const gallery = new Gallery(host, page);
  return { follow: () => gallery.look(), leave() {} };
}

class Gallery {
  #page;
  #days = element("div", { class: "days" });
  #problem = element("p", { class: "problem", role: "alert", hidden: true });
  #more;
  #next = null;
  #last = null; // name of the last day

  constructor(host, page) {
    this.#page = page;
    this.#more = element(
      "button",
      { type: "button", class: "quiet", hidden: true, click: () => this.#load(this.#next) },
      "Show older results",
    );
    host.append(element("h2", {}, "Gallery"), this.#problem, this.#days, this.#more);
  }

  async look() {
    this.#days.replaceChildren();
    this.#last = null;
    await this.#load(null);
  }

  async #load(before) {
    const from = before === null ? "" : `&before=${encodeURIComponent(before)}`;
    try {
      const page = await this.#page.api.call("GET", `v1/requests?state=succeeded&limit=${PAGE}${from}`);
      for (const request of page.requests) this.#add(request);
      this.#next = page.next_before;
      this.#more.hidden = this.#next === null;
      this.#problem.hidden = true;
    } catch (error) {
      this.#problem.textContent = error.message;
      this.#problem.hidden = false;
    }
  }

  #add(request) {
    const name = day(request.created_at);
    if (name !== this.#last) {
      this.#last = name;
      const list = element("ul", { class: "thumbnails" });
      this.#days.append(element("section", {}, element("h3", {}, name), list));
    }
    const list = this.#days.lastElementChild.lastElementChild;
    for (const file of request.files) list.append(this.#item(request, file));
  }

  #item({ request_id: id, prompt }, { url, thumbnail }) {
    const words = prompt ?? "";
    const picture = element("img", { src: (thumbnail ?? { url }).url, alt: words, loading: "lazy" });
    const link = { href: `#view=gallery&request=${encodeURIComponent(id)}`, "aria-label": words };
    return element("li", {}, element("a", link, picture));
  }
}
