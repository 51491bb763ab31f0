// The view of tasks: of the program as it runs, and of recorded runs.

import { h } from "./dom.js";
import { LiveTasks } from "./livetasks.js";
import { RecordedTasks } from "./recordedtasks.js";

/** The view. */
export class TasksView {
  /** @type {{tab: string, view: any}|null} */
  #shown = null;

  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.tabs = ["live", "recorded"].map((tab) => this.#tab(tab));
    this.panel = h("div", { class: "tab-panel" });
    this.element = h("div", { class: "page tasks" }, h("nav", { class: "tabs", "aria-label": "Tasks" }, ...this.tabs), this.panel);
  }

  /** @param {string} tab */
  #tab(tab) {
    const place = () => ({ ...this.app.place, tab, run: null });
    const onclick = (/** @type {MouseEvent} */ event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.app.go(place());
    };
    return h("a", { href: this.app.link(place()), "data-tab": tab, onclick }, tab === "live" ? "Now" : "Recorded");
  }

  /** @param {import("./query.js").Place} place */
  show(place) {
    const isLive = Boolean(this.app.log?.live);
    const wanted = place.tab === "recorded" || !isLive || place.run !== null ? "recorded" : "live";
    if (this.#shown?.tab !== wanted) {
      this.#shown?.view.close();
      const view = wanted === "live" ? new LiveTasks(this.app) : new RecordedTasks(this.app);
      this.#shown = { tab: wanted, view };
      this.panel.replaceChildren(view.element);
    }
    for (const tab of this.tabs) {
      const { tab: name } = tab.dataset;
      tab.hidden = name === "live" && !isLive;
      if (name === wanted) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    if (wanted === "recorded") this.#shown.view.show(place.run);
  }

  close() {
    this.#shown?.view.close();
  }
}
