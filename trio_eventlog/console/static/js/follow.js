// Events that come while one looks: put on top, or counted while one looks at something else.

import { eachFrame } from "./dom.js";
import { EventStream } from "./stream.js";
import { eventRow, gapRow } from "./window.js";

/** Rows kept while they are not shown. If more come, the newest page is loaded instead. */
const MOST_KEPT = 1000;

/**
 * @typedef {object} FollowHandlers
 * @property {() => boolean} canShow whether the table shows its top, which is the end of the log
 * @property {(rows: import("./window.js").Row[]) => void} onRows newest first
 * @property {() => void} onReload too many came to be put on top
 * @property {() => void} onChange the count, or the state, has changed
 */

/**
 * The last number before an event that one had: where an epoch begins, numbers were skipped.
 *
 * @param {import("./window.js").Row} row
 * @returns {bigint}
 */
function lastBefore(row) {
  const { event_type: type, module, payload } = row.event.event;
  const isEpoch = module === "trio_eventlog" && type === "trio_eventlog.epoch_began";
  const after = String(payload?.after_seq);
  return isEpoch && /^\d+$/.test(after) && BigInt(after) < row.seq ? BigInt(after) : row.seq - 1n;
}

/** Follows the end of a log. */
export class Follower {
  isPaused = false;
  /** @type {"live"|"connecting"|"closed"} */
  state = "connecting";
  /** How many came that are not shown. */
  meanwhile = 0n;
  /** Oldest first. @type {import("./window.js").Row[]} */
  #kept = [];
  #isOverfull = false;

  /**
   * @param {[string, string][]} parameters the log and the filters
   * @param {string} afterSeq
   * @param {boolean} showsGaps whether a number without an event is a gap: not if there is a filter
   * @param {FollowHandlers} handlers
   */
  constructor(parameters, afterSeq, showsGaps, handlers) {
    this.handlers = handlers;
    this.showsGaps = showsGaps;
    this.last = BigInt(afterSeq);
    this.schedule = eachFrame(() => this.flush());
    this.stream = new EventStream(parameters, afterSeq, {
      onEvent: (event) => this.#take(event),
      onGap: (gap) => this.#takeGap(gap),
      onState: (state) => this.#become(state),
      onStale: () => handlers.onReload(),
    });
  }

  close() {
    this.stream.close();
  }

  /** @param {"live"|"connecting"|"closed"} state */
  #become(state) {
    this.state = state;
    this.handlers.onChange();
  }

  /** @param {any} event */
  #take(event) {
    const row = eventRow(event);
    // After connecting again, one may come twice.
    if (row.seq <= this.last) return;
    const end = lastBefore(row);
    if (this.showsGaps && end > this.last) {
      const gap = { first_seq: String(this.last + 1n), last_seq: String(end), reason: "missing" };
      this.#keep(gapRow(gap), 0n);
    }
    this.last = row.seq;
    this.#keep(row, 1n);
  }

  /** @param {{first_seq: string, last_seq: string, reason: string}} gap */
  #takeGap(gap) {
    const row = gapRow(gap);
    if (row.seq <= this.last) return;
    this.last = row.seq;
    const skipped = row.seq - BigInt(gap.first_seq) + 1n;
    this.#keep(row, gap.reason === "skipped" ? skipped : 0n);
  }

  /**
   * @param {import("./window.js").Row} row
   * @param {bigint} events
   */
  #keep(row, events) {
    this.meanwhile += events;
    if (!this.#isOverfull) this.#kept.push(row);
    if (this.#kept.length > MOST_KEPT) {
      this.#kept = [];
      this.#isOverfull = true;
    }
    this.schedule();
  }

  /**
   * Show what has come, if the table can.
   *
   * @param {boolean} [isWanted] whatever the table shows now
   */
  flush(isWanted = false) {
    if (this.meanwhile === 0n && this.#kept.length === 0) return;
    if (!isWanted && (this.isPaused || !this.handlers.canShow())) {
      this.handlers.onChange();
      return;
    }
    const rows = this.#kept.reverse();
    const isOverfull = this.#isOverfull;
    this.#forget();
    if (isOverfull) this.handlers.onReload();
    else this.handlers.onRows(rows);
    this.handlers.onChange();
  }

  #forget() {
    this.#kept = [];
    this.#isOverfull = false;
    this.meanwhile = 0n;
  }

  /** @param {boolean} isPaused */
  pause(isPaused) {
    this.isPaused = isPaused;
    if (!isPaused) this.flush();
    this.handlers.onChange();
  }
}
