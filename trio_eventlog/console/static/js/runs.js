// The view of runs: those that were at work lately, or one of them.

import { Poll, ask, isAbort } from "./api.js";
import { button, copy, h, icon } from "./dom.js";
import { missingBetween, readAll } from "./pages.js";
import { noFilters, withFilter } from "./query.js";
import { RunChart } from "./runchart.js";
import { recentRuns, runTable } from "./runlist.js";
import { isFailed, layOut } from "./spans.js";
import { count, counted, dateTime, duration, localDay, timeOfDay, visible } from "./text.js";

const MOST_EVENTS = 10_000;
const INTERVAL_MS = 2000;

/** The view. */
export class RunsView {
  /** @type {string|null} */
  #run = null;
  /** @type {any[]} */
  #events = [];
  #next = "0";
  #isComplete = true;
  #isToDraw = false;
  /** @type {Poll|null} */
  #poll = null;
  #controller = new AbortController();
  /** @type {Awaited<ReturnType<typeof missingBetween>>|null} */
  #missing = null;
  /** Numbers of the run that is shown. @type {HTMLElement|null} */
  facts = null;

  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.element = h("div", { class: "page runs" });
    this.failure = h("p", { class: "notice is-error", role: "alert" });
    this.notes = h("div", { class: "notes" });
    this.chart = new RunChart(app);
  }

  /** @param {import("./query.js").Place} place */
  show(place) {
    this.#stop();
    this.#controller = new AbortController();
    this.#run = place.run;
    this.#events = [];
    this.#next = "0";
    this.#missing = null;
    this.facts = null;
    this.element.replaceChildren(h("p", { class: "muted loading" }, h("span", { class: "spinner" }), " Loading…"));
    const load = place.run === null ? () => this.#loadList() : () => this.#loadRun();
    this.#poll = new Poll(() => this.#attempt(load), INTERVAL_MS);
  }

  close() {
    this.#stop();
  }

  #stop() {
    this.#poll?.stop();
    this.#controller.abort();
  }

  /** @param {() => Promise<void>} load */
  async #attempt(load) {
    try {
      await load();
      this.failure.remove();
    } catch (error) {
      if (!isAbort(error)) this.#fail(/** @type {Error} */ (error));
    }
  }

  /** @param {Error} error */
  #fail(error) {
    // Once: a screen reader would say it each time.
    if (this.failure.isConnected && this.failure.textContent === error.message) return;
    this.failure.replaceChildren(icon("warning"), error.message);
    this.element.prepend(this.failure);
  }

  async #loadList() {
    const { signal } = this.#controller;
    const [page, answer] = await Promise.all([
      ask("api/events", [...this.app.logParameters, ["limit", "1000"], ["max_payload", "4096"]], { signal }),
      ask("api/facets", [...this.app.logParameters, ["field", "run_id"], ["top", "25"]], { signal }),
    ]);
    const input = this.element.querySelector("input");
    // What somebody types is not taken away, nor a link that has the focus.
    if (this.element.contains(document.activeElement) || input?.value) return;
    this.element.replaceChildren(this.#finder(), ...runTable(recentRuns(page.events), answer.facets[0].values, this.app));
  }

  #finder() {
    const input = h("input", { name: "run", autocomplete: "off", spellcheck: "false", required: true, placeholder: "run_id" });
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.app.go({ ...this.app.place, run: input.value });
    };
    return h("form", { class: "finder", onsubmit: submit }, h("label", {}, "Run", input), h("button", { type: "submit", class: "button" }, "Show"));
  }

  async #loadRun() {
    const { signal } = this.#controller;
    const run = /** @type {string} */ (this.#run);
    const isFirst = this.#next === "0";
    const room = MOST_EVENTS - this.#events.length;
    if (room <= 0) return;
    const parameters = /** @type {[string, string][]} */ ([...this.app.logParameters, ["run_id", run]]);
    const { events, next, isComplete } = await readAll(parameters, this.#next, room, signal);
    this.#next = next;
    this.#isComplete = isComplete;
    this.#events.push(...events);
    if (isFirst || events.length > 0) this.#isToDraw = true;
    if (!this.#isToDraw) return;
    if (this.#events.length > 0) await this.#lookForGaps(signal);
    this.#render(run);
    this.#isToDraw = false;
  }

  /** @param {AbortSignal} signal */
  async #lookForGaps(signal) {
    const [first, last] = [this.#events[0], this.#events[this.#events.length - 1]];
    this.#missing = await missingBetween(this.app.logParameters, BigInt(first.seq), BigInt(last.seq), signal);
  }

  /** @param {string} run */
  #render(run) {
    const back = h("a", { class: "back", href: this.app.link({ ...this.app.place, run: null }), onclick: (/** @type {Event} */ event) => this.#back(event) }, icon("left"), "Runs");
    if (this.#events.length === 0) {
      this.element.replaceChildren(back, h("div", { class: "empty" }, h("p", { class: "empty-title" }, "No event of this run"), h("p", {}, visible(run, 200))));
      return;
    }
    const layout = layOut(this.#events);
    this.chart.setData(layout, this.#events, this.#missing?.gaps ?? []);
    const facts = this.#facts(layout);
    this.notes.replaceChildren(...this.#notes());
    // What has the focus, or is scrolled, stays.
    if (this.facts) this.facts.replaceWith(facts);
    else this.element.replaceChildren(back, this.#title(run), facts, this.notes, this.chart.element);
    this.facts = facts;
  }

  /** @param {Event} event */
  #back(event) {
    event.preventDefault();
    this.app.go({ ...this.app.place, run: null });
  }

  /** @param {string} run */
  #title(run) {
    const events = () => this.app.go({ ...this.app.place, view: "events", run: null, filters: withFilter(noFilters(), "run_id", run) });
    const tasks = () => this.app.go({ ...this.app.place, view: "tasks", tab: "recorded" });
    const isRecording = this.#events.some((event) => event.event.module === "trio" && event.event.event_type === "recording_started");
    return h(
      "div",
      { class: "title" },
      h("h1", {}, h("bdi", {}, visible(run, 300))),
      h(
        "div",
        { class: "actions" },
        isRecording && button({ icon: "run", label: "Show its tasks", text: "Show its tasks", onclick: tasks }),
        button({ icon: "filter", label: "Show its events", text: "Show its events", onclick: events }),
        button({ icon: "copy", label: "Copy the run's id", class: "is-icon copies", onclick: (event) => copy(/** @type {HTMLElement} */ (event.currentTarget), run) }),
      ),
    );
  }

  /** @param {ReturnType<typeof layOut>} layout */
  #facts({ lanes, since, until, failures }) {
    const last = this.#events[this.#events.length - 1];
    /** @param {string} term @param {any} value @param {string} [tone] @param {string} [note] */
    const fact = (term, value, tone = "", note = "") =>
      h("div", { class: `card ${tone}` }, h("dt", {}, term), h("dd", {}, h("strong", {}, value), note ? h("span", { class: "muted" }, note) : null));
    return h(
      "dl",
      { class: "cards" },
      fact("Started", h("time", { title: dateTime(since) }, timeOfDay(since)), "", localDay(since)),
      fact("Took", duration(until - since)),
      fact("Events", count(this.#events.length)),
      fact("Members", count(lanes.length)),
      fact("Failures", count(failures), failures > 0 ? "is-failure" : ""),
      fact("Last event", h("bdi", {}, visible(last.event.event_type, 60)), isFailed(last) ? "is-failure" : ""),
    );
  }

  #notes() {
    const notes = [];
    const { missing = 0n, isKnown = true } = this.#missing ?? {};
    if (missing > 0n) {
      notes.push(`${counted(missing, "number")} of the log between the first and the last event of this run ${missing === 1n ? "has" : "have"} no event: lost, or duplicates. They may have been of this run.`);
    }
    if (!isKnown) notes.push("This run is too long to be checked for missing events.");
    if (!this.#isComplete) notes.push(`Only the first ${counted(MOST_EVENTS, "event")} are shown.`);
    return notes.map((text) => h("p", { class: "notice is-warning" }, icon("warning"), text));
  }
}
