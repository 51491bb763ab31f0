// The head of the page: where one can go, which log this is, and how it is.

import { button, h, svg } from "./dom.js";
import { noFilters } from "./query.js";
import { conditionOf } from "./status.js";
import { compact, counted, duration } from "./text.js";

/** @type {[string, string][]} */
const LINKS = [["events", "Events"], ["runs", "Runs"], ["tasks", "Tasks"], ["health", "Health"]];

function logo() {
  return svg(
    "svg",
    { class: "logo", viewBox: "0 0 32 32", "aria-hidden": "true" },
    svg("rect", { width: 32, height: 32, rx: 7 }),
    svg("path", { d: "M7 22v-6M13 22V9M19 22v-9M25 22v-4" }),
  );
}

/** The head. */
export class Header {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.element = /** @type {HTMLElement} */ (document.getElementById("header"));
    this.links = LINKS.map(([view, label]) => this.#link(view, label));
    this.chip = h("a", { class: "status", href: "?view=health", onclick: (/** @type {MouseEvent} */ event) => this.#follow(event, "health") });
    this.pick = h("select", { class: "log-pick", "aria-label": "Log", hidden: true });
    this.pick.addEventListener("change", () => this.#pickLog());
    this.version = h("span", { class: "version" });
    this.app.status.addEventListener("change", () => this.#showStatus());
  }

  /** @param {string} version */
  start(version) {
    this.version.textContent = version;
    this.pick.hidden = this.app.logs.length < 2;
    this.pick.replaceChildren(...this.app.logs.map(({ name }) => h("option", { value: name }, name)));
    this.element.replaceChildren(
      h("a", { class: "brand", href: "?", title: "trio-eventlog", onclick: (/** @type {MouseEvent} */ event) => this.#follow(event, "events") }, logo(), h("b", {}, "trio-eventlog"), this.version),
      h("nav", { "aria-label": "Views" }, ...this.links),
      this.pick,
      this.chip,
      button({ icon: "theme", label: "Light or dark", class: "is-icon", onclick: switchTheme }),
    );
  }

  /** @param {string} view @param {string} label */
  #link(view, label) {
    return h("a", { href: `?view=${view}`, "data-view": view, onclick: (/** @type {MouseEvent} */ event) => this.#follow(event, view) }, label);
  }

  /** @param {string} view */
  #placeOf(view) {
    return { view, log: this.app.place.log, filters: noFilters(), open: null, run: null, tab: null };
  }

  /**
   * @param {MouseEvent} event
   * @param {string} view
   */
  #follow(event, view) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    this.app.go(this.#placeOf(view));
  }

  #pickLog() {
    this.app.go({ ...this.#placeOf(this.app.place.view), log: this.pick.value });
  }

  /** Take in where the application is. */
  show() {
    for (const link of this.links) {
      const { view } = link.dataset;
      link.href = this.app.link(this.#placeOf(view));
      if (view === this.app.place.view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.chip.href = this.app.link(this.#placeOf("health"));
    this.pick.value = this.app.log?.name ?? "";
  }

  #showStatus() {
    const { latest, error } = this.app.status;
    const condition = conditionOf(latest, error);
    const text = statusText(condition, latest);
    this.chip.dataset.condition = condition;
    const lost = latest?.live?.lost_total ?? 0;
    if (this.chip.dataset.text === `${text} ${lost}`) return;
    this.chip.dataset.text = `${text} ${lost}`;
    this.chip.replaceChildren(h("span", { class: "status-light" }), h("span", { class: "status-text" }, text), lost > 0 ? h("span", { class: "badge" }, `${compact(lost)} lost`) : "");
  }
}

/**
 * @param {string} condition
 * @param {any} latest
 */
function statusText(condition, latest) {
  const live = latest?.live;
  switch (condition) {
    case "missing":
      return "No such log";
    case "unreachable":
      return "No answer";
    case "failing":
      return `Store failing for ${duration(Math.max(1, Math.round((latest.now_ms - live.failing_since_ms) / 1000)) * 1000)}`;
    case "open":
      return live.pending > 0 ? `Storing, ${counted(live.pending, "event")} pending` : "All stored";
    case "closed":
      return "Closed";
    case "stored":
      return "Not live";
    default:
      return "…";
  }
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}
