// The application: where it is, and what is shown there.

import { ask, whenUnauthorized } from "./api.js";
import { h } from "./dom.js";
import { EventsView } from "./events.js";
import { Header } from "./header.js";
import { HealthView } from "./health.js";
import { readPlace, writePlace } from "./query.js";
import { RunsView } from "./runs.js";
import { askForToken, openSession } from "./session.js";
import { Status } from "./status.js";
import { TasksView } from "./tasks.js";
import { visible } from "./text.js";

/** @typedef {import("./query.js").Place} Place */

const VIEWS = /** @type {Record<string, any>} */ ({
  events: EventsView,
  runs: RunsView,
  tasks: TasksView,
  health: HealthView,
});

const TITLES = /** @type {Record<string, string>} */ ({ events: "Events", runs: "Runs", tasks: "Tasks", health: "Health" });

/** What the views know of the rest. */
export class App {
  place = readPlace(location.search);
  /** @type {{name: string, live: boolean}[]} */
  logs = [];
  /** @type {any} */
  #view = null;
  #shown = "";

  constructor() {
    this.status = new Status(this);
    this.header = new Header(this);
    this.main = /** @type {HTMLElement} */ (document.getElementById("main"));
    window.addEventListener("popstate", () => this.#moved());
  }

  /** @param {{logs: any[], version: string}} answer of `api/logs` */
  start({ logs, version }) {
    this.logs = logs;
    this.header.start(version);
    this.status.start();
    this.#render();
  }

  /** The log that is shown; undefined if there is none. */
  get log() {
    return this.logs.find((log) => log.name === this.place.log) ?? this.logs[0];
  }

  get isLogKnown() {
    return this.place.log === null || this.logs.some((log) => log.name === this.place.log);
  }

  #noSuchLog() {
    const links = this.logs.slice(0, 20).map(({ name }) => {
      const place = { ...this.place, log: name, open: null, run: null };
      return h("a", { href: this.link(place) }, h("bdi", {}, visible(name, 80)));
    });
    return h(
      "div",
      { class: "empty" },
      h("p", { class: "empty-title" }, "There is no log named “", h("bdi", {}, visible(this.place.log ?? "", 80)), "” here"),
      h("p", {}, "This console shows:"),
      ...links,
    );
  }

  /** @returns {[string, string][]} */
  get logParameters() {
    return this.place.log === null ? [] : [["log", this.place.log]];
  }

  /** @param {Place} place */
  link(place) {
    return writePlace(place);
  }

  /**
   * Show a place; the browser's button leads back.
   *
   * @param {Place} place
   */
  go(place) {
    const address = writePlace(place);
    if (address !== writePlace(this.place)) history.pushState(null, "", address);
    this.place = place;
    this.#render();
  }

  /**
   * Keep a place in the address that is shown already.
   *
   * @param {Place} place
   */
  note(place) {
    this.place = place;
    history.replaceState(null, "", writePlace(place));
  }

  #moved() {
    this.place = readPlace(location.search);
    this.#render();
  }

  #render() {
    const { view, log } = this.place;
    document.title = `${TITLES[view]} · ${this.log?.name ?? "console"} · trio-eventlog`;
    const shown = `${view} ${log}`;
    if (shown !== this.#shown || !this.#view) {
      this.#view?.close();
      this.#view = new VIEWS[view](this);
      this.main.replaceChildren(this.#view.element);
      this.main.dataset.view = view;
      // Where it scrolls itself, the keyboard must reach it.
      this.main.tabIndex = view === "runs" || view === "health" ? 0 : -1;
      if (log !== this.status.log) this.status.restart();
      this.#shown = shown;
    }
    this.header.show();
    if (this.logs.length === 0) this.main.replaceChildren(noLogs());
    else if (!this.isLogKnown) this.main.replaceChildren(this.#noSuchLog());
    else this.#view.show(this.place);
  }
}

function noLogs() {
  return h(
    "div",
    { class: "empty" },
    h("p", { class: "empty-title" }, "There is no log"),
    h("p", {}, "This console was started without one."),
  );
}

async function start() {
  await openSession();
  whenUnauthorized(askForToken);
  new App().start(await ask("api/logs"));
}

start().catch((error) => {
  const again = h("button", { type: "button", class: "button", onclick: () => location.reload() }, "Try again");
  document.getElementById("main")?.replaceChildren(h("div", { class: "empty", role: "alert" }, h("p", { class: "empty-title" }, "The console cannot start"), h("p", {}, error.message), again));
});
