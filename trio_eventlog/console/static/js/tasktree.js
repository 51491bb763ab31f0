// The tasks of a recorded run, as trio_eventlog.recorder tells of them. Pure.

/**
 * @typedef {object} Task
 * @property {number} number
 * @property {string} name
 * @property {number|null} parent
 * @property {boolean} atStart it was there before the recording
 * @property {number} start
 * @property {number|null} end
 * @property {boolean} isCancelled
 * @property {{end: number, ms: number}[]} slow steps that kept all others waiting
 */

/** One recording. */
export class Recording {
  /** @type {Map<number, Task>} */
  tasks = new Map();
  suppressed = 0;
  isStopped = false;
  /** @type {number|null} */
  slowStep = null;
  since = Infinity;
  until = -Infinity;

  /**
   * Take in an event; what a recorder did not write is ignored.
   *
   * @param {any} event
   */
  add(event) {
    const { payload, event_type: type, module } = event.event;
    if (module !== "trio" || payload === null || typeof payload !== "object") return;
    const at = Number(event.timestamp_ms);
    this.since = Math.min(this.since, at);
    this.until = Math.max(this.until, at);
    const number = Number(payload.task);
    const task = this.tasks.get(number);
    if (type === "recording_started") this.slowStep = payload.slow_step === null ? null : Number(payload.slow_step);
    else if (type === "recording_stopped") this.isStopped = true;
    else if (type === "tasks_suppressed") this.suppressed += Number(payload.count) || 0;
    else if (type === "task_spawned") this.#spawned(number, payload, at);
    else if (type === "task_exited" && task) this.#exited(task, payload, at);
    else if (type === "task_step_slow" && task) task.slow.push({ end: at, ms: Number(payload.seconds) * 1000 || 0 });
  }

  /**
   * @param {number} number
   * @param {any} payload
   * @param {number} at
   */
  #spawned(number, payload, at) {
    if (Number.isNaN(number) || this.tasks.has(number)) return;
    const parent = payload.parent === null ? null : Number(payload.parent);
    this.tasks.set(number, {
      number,
      name: String(payload.name),
      // A parent is recorded before its children, if at all.
      parent: parent !== null && this.tasks.has(parent) ? parent : null,
      atStart: Boolean(payload.at_start),
      start: at,
      end: null,
      isCancelled: false,
      slow: [],
    });
  }

  /**
   * @param {Task} task
   * @param {any} payload
   * @param {number} at
   */
  #exited(task, payload, at) {
    const ms = Number(payload.seconds) * 1000;
    // To the microsecond, where the times of events are to the millisecond.
    task.end = Number.isFinite(ms) ? Math.max(task.start, Math.min(task.start + ms, at + 1)) : at;
    task.isCancelled = Boolean(payload.cancelled);
  }
}

/**
 * Things with parents, each after its parent, with its depth.
 *
 * @template T
 * @param {Iterable<T>} items
 * @param {(item: T) => number} idOf
 * @param {(item: T) => number|null} parentOf
 * @returns {{id: number, depth: number, item: T, children: number}[]}
 */
export function inTreeOrder(items, idOf, parentOf) {
  /** @type {Map<number|null, T[]>} */
  const children = new Map();
  for (const item of items) {
    const siblings = children.get(parentOf(item));
    if (siblings) siblings.push(item);
    else children.set(parentOf(item), [item]);
  }
  const found = [];
  const waiting = (children.get(null) ?? []).map((item) => ({ item, depth: 0 })).reverse();
  while (waiting.length > 0) {
    const { item, depth } = /** @type {{item: T, depth: number}} */ (waiting.pop());
    const id = idOf(item);
    const below = children.get(id) ?? [];
    // So that this ends even if an id occurs twice, above and below itself.
    children.delete(id);
    found.push({ id, depth, item, children: below.length });
    for (const child of below.toReversed()) waiting.push({ item: child, depth: depth + 1 });
  }
  return found;
}
