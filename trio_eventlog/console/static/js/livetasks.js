// The tasks of a program as it runs, and where each one stands.

import { Poll, ask, isAbort } from "./api.js";
import { h, icon } from "./dom.js";
import { inTreeOrder } from "./tasktree.js";
import { counted, visible } from "./text.js";
import { TreeGrid } from "./treegrid.js";

const INTERVAL_MS = 1000;
const LIBRARY = /(^|\/)(trio|anyio|outcome|contextlib\.py|asyncgen)(\/|$)|\/_?trio\/|(^|\/)lib\/python/;

/** @typedef {{file: string, line: number, function: string}} Frame */

/**
 * The innermost place that is of the program rather than of a library.
 *
 * @param {Frame[]} where innermost first
 */
function placeOf(where) {
  return where.find((frame) => !LIBRARY.test(frame.file)) ?? where[0];
}

/** @param {Frame} frame */
function frameText(frame) {
  return `${visible(frame.file.split("/").slice(-2).join("/"), 80)}:${frame.line}`;
}

/** The tree. */
export class LiveTasks {
  /** @type {number|null} */
  #chosen = null;

  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.total = h("span", { class: "total", role: "status" });
    this.own = h("input", { type: "checkbox" });
    this.own.addEventListener("change", () => this.poll.now());
    this.notice = h("p", { class: "notice", hidden: true });
    this.stack = h("section", { class: "inspector", "aria-label": "Stack", hidden: true });
    this.tree = new TreeGrid({
      label: "Tasks",
      columns: [["name", "Task"], ["where", "Where it stands"], ["note", ""]],
      render: (task) => this.#render(task),
      onSelect: (task) => this.#choose(task),
    });
    this.element = h(
      "div",
      { class: "tasks-live" },
      h("div", { class: "toolbar" }, this.total, h("label", { class: "check" }, this.own, "with the console's own")),
      this.notice,
      h("div", { class: "tree-wrap" }, this.tree.element, this.stack),
    );
    this.poll = new Poll(() => this.#load(), INTERVAL_MS);
  }

  close() {
    this.poll.stop();
    this.tree.close();
  }

  async #load() {
    try {
      const answer = await ask("api/tasks", this.app.logParameters);
      this.notice.hidden = answer.is_complete;
      this.notice.textContent = `Only the first ${counted(answer.tasks.length, "task")} are listed.`;
      this.#show(answer.tasks);
    } catch (error) {
      if (isAbort(error)) return;
      this.notice.hidden = false;
      this.notice.textContent = /** @type {Error} */ (error).message;
    }
  }

  /** @param {any[]} all */
  #show(all) {
    const tasks = this.own.checked ? all : all.filter((task) => !task.is_console);
    const known = new Set(tasks.map((task) => task.id));
    const nodes = inTreeOrder(tasks, (task) => task.id, (task) => (known.has(task.parent) ? task.parent : null));
    this.total.textContent = counted(tasks.length, "task");
    this.tree.setNodes(nodes);
    if (this.#chosen !== null) this.#choose(tasks.find((task) => task.id === this.#chosen) ?? null);
  }

  /** @param {any} task */
  #render(task) {
    const frame = placeOf(task.where);
    const where = frame
      ? h("span", { class: "where" }, h("b", {}, visible(frame.function, 80)), h("span", { class: "muted" }, frameText(frame)))
      : h("span", { class: "muted" }, "nowhere");
    const notes = [task.is_cancelled && "cancelled", task.is_log && "of the log", task.is_console && "of the console"];
    return {
      name: h("bdi", { title: visible(task.name) }, visible(task.name, 200)),
      cells: [where, notes.filter(Boolean).join(", ")],
      class: task.is_cancelled ? "is-cancelled" : "",
    };
  }

  /** @param {any} task */
  #choose(task) {
    this.#chosen = task?.id ?? null;
    this.stack.hidden = !task;
    if (!task) return;
    const frames = task.where.map((/** @type {Frame} */ frame) =>
      h("li", { class: LIBRARY.test(frame.file) ? "is-library" : "" }, h("b", {}, visible(frame.function, 120)), h("code", {}, `${visible(frame.file, 300)}:${frame.line}`)),
    );
    this.stack.replaceChildren(
      h("h2", {}, h("bdi", {}, visible(task.name, 200))),
      task.is_cancelled ? h("p", { class: "notice is-warning" }, icon("warning"), "It is cancelled, and has not ended yet.") : "",
      frames.length > 0 ? h("ol", { class: "frames" }, ...frames) : h("p", { class: "muted" }, "It has no frames: it has not begun, or is about to end."),
    );
  }
}
