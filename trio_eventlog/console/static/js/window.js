// The part of the log that the table holds: some thousand rows around what is seen, newest first.

import { ApiError, ask } from "./api.js";

const PAGE = 200;
const MOST_ROWS = 3000;

/**
 * @typedef {object} Row
 * @property {string} key
 * @property {"event"|"gap"} kind
 * @property {bigint} seq of a gap, its last one
 * @property {any} [event]
 * @property {{first_seq: string, last_seq: string, reason: string}} [gap]
 */

/** @param {any} event @returns {Row} */
export function eventRow(event) {
  return { key: `e${event.seq}`, kind: "event", seq: BigInt(event.seq), event };
}

/** @param {{first_seq: string, last_seq: string, reason: string}} gap @returns {Row} */
export function gapRow(gap) {
  return { key: `g${gap.last_seq}`, kind: "gap", seq: BigInt(gap.last_seq), gap };
}

/**
 * The rows of a page, newest first.
 *
 * @param {{events: any[], gaps: any[]|null}} page
 * @returns {Row[]}
 */
export function rowsOf(page) {
  const rows = [...page.events.map(eventRow), ...(page.gaps ?? []).map(gapRow)];
  return rows.sort((a, b) => (a.seq < b.seq ? 1 : a.seq > b.seq ? -1 : 0));
}

/** A window on the log. It asks for pages on both ends, and forgets rows on the other. */
export class EventWindow {
  /** @type {Row[]} */
  rows = [];
  /** The cursor for older events; null: there are none. @type {string|null} */
  below = null;
  /** The cursor for newer events; null: the newest stored ones are here. @type {string|null} */
  above = null;
  /** The highest seq that was ever stored, as of the last request. */
  lastSeq = "0";
  /** How far a search that has found nothing yet has come. @type {string|null} */
  searching = null;

  /**
   * @param {[string, string][]} parameters the log and the filters
   * @param {() => void} onSearch called while a search goes on
   */
  constructor(parameters, onSearch) {
    this.parameters = parameters;
    this.onSearch = onSearch;
    this.controller = new AbortController();
  }

  /** End what is being asked for. */
  close() {
    this.controller.abort();
  }

  /** @param {Record<string, string>} cursor */
  #ask(cursor) {
    const parameters = [...this.parameters, ["limit", String(PAGE)], ...Object.entries(cursor)];
    return ask("api/events", /** @type {[string, string][]} */ (parameters), { signal: this.controller.signal });
  }

  /**
   * A page; if it is empty and not the last one, the one after it.
   *
   * @param {"newest"|"oldest"} order
   * @param {string|null} cursor
   */
  async #page(order, cursor) {
    const name = order === "newest" ? "before_seq" : "after_seq";
    let from = cursor;
    /** @type {any[]} */
    const gaps = [];
    for (;;) {
      const page = await this.#ask({ order, ...(from === null ? {} : { [name]: from }) });
      gaps.push(...(page.gaps ?? []));
      if (page.events.length > 0 || page.is_complete || page.next === null || page.next === from) {
        this.searching = null;
        this.lastSeq = page.last_seq;
        return { ...page, gaps };
      }
      this.searching = from = page.next;
      this.onSearch();
    }
  }

  /** Show the newest events. */
  async loadNewest() {
    const page = await this.#page("newest", null);
    this.rows = rowsOf(page);
    this.below = page.next;
    this.above = null;
  }

  /** Show the oldest events. */
  async loadOldest() {
    const page = await this.#page("oldest", "0");
    this.rows = rowsOf(page);
    this.below = null;
    this.above = page.is_complete ? null : page.next;
  }

  /**
   * Show this seq, or where it would be, with what is newer and older.
   *
   * @param {string} seq
   */
  async loadAround(seq) {
    const older = await this.#page("newest", String(BigInt(seq) + 1n));
    const newer = await this.#newerThan(seq);
    this.rows = [...rowsOf(newer), ...rowsOf(older)];
    this.below = older.next;
    this.above = newer.is_complete ? null : newer.next;
  }

  /** @param {string} seq it may lie beyond the end of the log */
  async #newerThan(seq) {
    try {
      return await this.#page("oldest", seq);
    } catch (error) {
      if (error instanceof ApiError && error.status === 410) return { events: [], gaps: [], next: null, is_complete: true };
      throw error;
    }
  }

  /** Add older rows; forget the newest ones if there are many. */
  async loadOlder() {
    if (this.below === null) return;
    const page = await this.#page("newest", this.below);
    this.rows = [...this.rows, ...rowsOf(page)];
    this.below = page.next;
    const extra = this.rows.length - MOST_ROWS;
    if (extra > 0) {
      this.rows = this.rows.slice(extra);
      this.above = String(this.rows[0].seq);
    }
  }

  /** Add newer rows; forget the oldest ones if there are many. */
  async loadNewer() {
    if (this.above === null) return;
    const page = await this.#page("oldest", this.above);
    this.rows = [...rowsOf(page), ...this.rows];
    this.above = page.is_complete ? null : page.next;
    this.#trimBelow();
  }

  /**
   * Put rows that have just come on top.
   *
   * @param {Row[]} rows newest first
   */
  prepend(rows) {
    const newest = this.rows[0]?.seq ?? 0n;
    this.rows = [...rows.filter((row) => row.seq > newest), ...this.rows];
    this.#trimBelow();
  }

  #trimBelow() {
    if (this.rows.length <= MOST_ROWS) return;
    this.rows = this.rows.slice(0, MOST_ROWS);
    const last = this.rows[MOST_ROWS - 1];
    this.below = last.gap ? last.gap.first_seq : String(last.seq);
  }
}
