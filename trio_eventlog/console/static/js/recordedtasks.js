// The tasks of a recorded run, as a tree with their lives over time.

import { Poll, ask, isAbort } from "./api.js";
import { h, icon } from "./dom.js";
import { readAll } from "./pages.js";
import { timeTicks } from "./scale.js";
import { Recording, inTreeOrder } from "./tasktree.js";
import { count, counted, dateTime, duration, visible } from "./text.js";
import { TreeGrid } from "./treegrid.js";

const INTERVAL_MS = 2000;
const MOST_RECORDS = 50_000;
const MOST_RECORDINGS = 50;

/** The recordings, and the tree of one. */
export class RecordedTasks {
  /** @type {string|null} */
  #run = null;
  #recording = new Recording();
  #next = "0";
  #isComplete = true;
  #hasFailed = false;
  #controller = new AbortController();

  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.pick = h("select", { "aria-label": "Recording" });
    this.pick.addEventListener("change", () => app.go({ ...app.place, run: this.pick.value }));
    this.total = h("span", { class: "total", role: "status" });
    this.notes = h("div", {});
    this.axis = h("div", { class: "flame-axis", "aria-hidden": "true" });
    this.chosen = h("section", { class: "inspector", "aria-label": "Task", hidden: true });
    this.tree = new TreeGrid({
      label: "Recorded tasks",
      columns: [["name", "Task"], ["life", ""], ["took", "Lived"]],
      render: (task) => this.#render(task),
      onSelect: (task) => this.#choose(task),
    });
    this.tree.element.querySelector(".tree-life")?.append(this.axis);
    this.element = h(
      "div",
      { class: "tasks-recorded" },
      h("div", { class: "toolbar" }, h("label", { class: "pick" }, "Recording", this.pick), this.total),
      this.notes,
      h("div", { class: "tree-wrap" }, this.tree.element, this.chosen),
    );
  }

  /** @param {string|null} run null for the one that began last */
  show(run) {
    this.close();
    this.#controller = new AbortController();
    this.#run = run;
    this.#recording = new Recording();
    this.#next = "0";
    this.poll = new Poll(() => this.#load(), INTERVAL_MS);
  }

  close() {
    this.poll?.stop();
    this.#controller.abort();
  }

  async #load() {
    try {
      await this.#loadRecordings();
      if (this.#run !== null) await this.#loadRecords(this.#run);
      if (this.#hasFailed && this.#run !== null) this.#draw();
      this.#hasFailed = false;
    } catch (error) {
      if (isAbort(error)) return;
      this.#hasFailed = true;
      this.#tell([/** @type {Error} */ (error).message]);
    }
  }

  async #loadRecordings() {
    if (document.activeElement === this.pick) return;
    const { signal } = this.#controller;
    const page = await ask(
      "api/events",
      [...this.app.logParameters, ["module", "trio"], ["event_type", "recording_started"], ["limit", String(MOST_RECORDINGS)]],
      { signal },
    );
    const found = page.events.map((/** @type {any} */ event) => ({ run: event.event.payload?.run_id, at: event.timestamp_ms })).filter((/** @type {any} */ each) => typeof each.run === "string");
    this.#run ??= found[0]?.run ?? null;
    if (this.#run !== null && !found.some((/** @type {any} */ each) => each.run === this.#run)) found.push({ run: this.#run, at: null });
    const options = found.map((/** @type {any} */ { run, at }) => h("option", { value: run }, visible(run, 60) + (at === null ? "" : ` · ${dateTime(at).slice(0, 19)}`)));
    this.pick.replaceChildren(...options);
    this.pick.value = this.#run ?? "";
    this.pick.parentElement.hidden = found.length === 0;
    if (this.#run === null) this.#tellNone();
  }

  #tellNone() {
    this.notes.replaceChildren(
      h(
        "div",
        { class: "empty" },
        h("p", { class: "empty-title" }, "No tasks are recorded in this log"),
        h("p", {}, h("code", {}, "trio_eventlog.recorder.record_tasks"), " records those of a program."),
      ),
    );
    this.tree.element.hidden = true;
  }

  /** @param {string} run */
  async #loadRecords(run) {
    const recording = this.#recording;
    const isFirst = this.#next === "0";
    if (recording.isStopped) return;
    const parameters = /** @type {[string, string][]} */ ([...this.app.logParameters, ["module", "trio"], ["run_id", run]]);
    const { events, next, isComplete } = await readAll(parameters, this.#next, MOST_RECORDS, this.#controller.signal);
    this.#next = next;
    this.#isComplete = isComplete;
    if (!isFirst && events.length === 0) return;
    for (const event of events) recording.add(event);
    this.#draw();
  }

  #draw() {
    const { tasks, suppressed, isStopped } = this.#recording;
    const slow = [...tasks.values()].reduce((sum, task) => sum + task.slow.length, 0);
    this.total.textContent = [counted(tasks.size, "task"), slow ? counted(slow, "slow step") : "", isStopped ? "" : "its end is not recorded"].filter(Boolean).join(" · ");
    const notes = [];
    if (suppressed > 0) notes.push(`${counted(suppressed, "record")} ${suppressed === 1 ? "is" : "are"} missing: the bound on their rate kept them out.`);
    if (!this.#isComplete) notes.push(`Only the first ${counted(MOST_RECORDS, "record")} are shown.`);
    this.#tell(notes);
    this.tree.element.hidden = false;
    this.#drawAxis();
    this.tree.setNodes(inTreeOrder(tasks.values(), (task) => task.number, (task) => task.parent));
  }

  /** @param {string[]} notes */
  #tell(notes) {
    this.notes.replaceChildren(...notes.map((text) => h("p", { class: "notice is-warning" }, icon("warning"), text)));
  }

  get #span() {
    return Math.max(1, this.#recording.until - this.#recording.since);
  }

  /** @param {number} ms @returns {number} percent */
  #place(ms) {
    return Math.max(0, Math.min(100, ((ms - this.#recording.since) / this.#span) * 100));
  }

  #drawAxis() {
    const { ticks } = timeTicks(0, this.#span, 6);
    this.axis.replaceChildren(
      ...ticks.filter((at) => at / this.#span < 0.95).map((at) => {
        const tick = h("span", {}, at === 0 ? "0" : duration(at));
        tick.style.setProperty("left", `${(at / this.#span) * 100}%`);
        return tick;
      }),
    );
  }

  /** @param {import("./tasktree.js").Task} task */
  #render(task) {
    const end = task.end ?? this.#recording.until;
    const names = ["life", task.end === null && "is-open", task.isCancelled && "is-cancelled", task.atStart && "is-before"];
    const life = h("span", { class: names.filter(Boolean).join(" ") });
    life.style.setProperty("left", `${this.#place(task.start)}%`);
    life.style.setProperty("width", `${this.#place(end) - this.#place(task.start)}%`);
    const slow = task.slow.map(({ end: at, ms }) => {
      const mark = h("span", { class: "slow", title: `slow step, ${duration(ms)}` });
      mark.style.setProperty("left", `${this.#place(at - ms)}%`);
      mark.style.setProperty("width", `${this.#place(at) - this.#place(at - ms)}%`);
      return mark;
    });
    return {
      name: h("bdi", { title: visible(task.name) }, visible(task.name, 200)),
      cells: [h("div", { class: "life-track", title: this.#summary(task) }, life, ...slow), this.#note(task)],
      class: task.slow.length > 0 ? "is-slow" : "",
    };
  }

  /** @param {import("./tasktree.js").Task} task */
  #note(task) {
    const took = task.end === null ? (this.#recording.isStopped ? "still running" : "running") : duration(task.end - task.start);
    return h(
      "span",
      { class: "took" },
      h("b", {}, took),
      task.isCancelled ? h("span", { class: "tag is-warning" }, "cancelled") : null,
      task.slow.length > 0 ? h("span", { class: "tag is-failure" }, `${count(task.slow.length)} slow`) : null,
    );
  }

  /** @param {import("./tasktree.js").Task} task */
  #summary(task) {
    const parts = [task.end === null ? "its end is not recorded" : `lived ${duration(task.end - task.start)}`];
    if (task.isCancelled) parts.push("cancelled");
    for (const { ms } of task.slow.slice(0, 5)) parts.push(`a step kept all others waiting for ${duration(ms)}`);
    return parts.join(" · ");
  }

  /** @param {import("./tasktree.js").Task} task */
  #choose(task) {
    this.chosen.hidden = false;
    this.chosen.replaceChildren(
      h("h2", {}, h("bdi", {}, visible(task.name, 300))),
      h("p", {}, `Task ${task.number}${task.atStart ? ", there before the recording began" : ""}. It began ${dateTime(task.start)}; ${this.#summary(task)}.`),
    );
  }
}
