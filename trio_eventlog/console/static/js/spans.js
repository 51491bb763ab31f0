// What a run did, from its events: bars that begin and end, by member. Pure.

import { isFailure } from "./palette.js";
import { sourceOf } from "./rowview.js";

const BEGINS = /^(.+?)[._-](started|start|begun|began|begin|opened|requested|called|spawned|entered|enter)$/i;
const ENDS =
  /^(.+?)[._-](completed?|finish(?:ed)?|done|ended|end|succeeded|success|fail(?:ed|ure)?|error|cancell?ed|aborted|given_up|timed_out|timeout|closed|returned|exited|stopped|result|response)$/i;

/**
 * @typedef {object} Span
 * @property {string} label
 * @property {number} start
 * @property {number} end
 * @property {boolean} isOpen its end is not in the log
 * @property {boolean} isGuessed its beginning is not in the log: it is the event before
 * @property {boolean} isFailed
 * @property {any[]} events
 */

/**
 * @typedef {object} Lane
 * @property {string} name
 * @property {Span[][]} rows the spans of one do not overlap
 * @property {any[]} events
 */

/** @param {any} event */
const timeOf = (event) => Number(event.timestamp_ms);

/** @param {any} event */
const typeOf = (event) => /** @type {string} */ (event.event.event_type);

/** @param {any} event */
function stepOf(event) {
  const step = event.event.payload?.step_id;
  return typeof step === "string" ? step : null;
}

/** @param {any} event */
export function isFailed(event) {
  const { payload } = event.event;
  return isFailure(typeOf(event)) || Boolean(payload && typeof payload === "object" && (payload.error || payload.exception));
}

/**
 * The spans of one member.
 *
 * @param {any[]} events in order
 * @returns {Span[]}
 */
export function spansOf(events) {
  return [...stepSpans(events), ...pairSpans(events.filter((event) => stepOf(event) === null))];
}

/** @param {any[]} events */
function stepSpans(events) {
  /** @type {Map<string, any[]>} */
  const steps = new Map();
  /** @type {Map<any, any>} */
  const before = new Map();
  events.forEach((event, index) => {
    const step = stepOf(event);
    before.set(event, events[index - 1]);
    if (step !== null) steps.set(step, [...(steps.get(step) ?? []), event]);
  });
  return [...steps].map(([step, own]) => stepSpan(step, own, before.get(own[0])));
}

/**
 * @param {string} step
 * @param {any[]} own
 * @param {any} before the event before
 * @returns {Span}
 */
function stepSpan(step, own, before) {
  const last = own[own.length - 1];
  const begins = BEGINS.test(typeOf(own[0]));
  const isGuessed = own.length === 1 && !begins && before !== undefined;
  return {
    label: step,
    start: timeOf(isGuessed ? before : own[0]),
    end: timeOf(last),
    isOpen: begins && !own.some((event) => ENDS.test(typeOf(event))),
    isGuessed,
    isFailed: own.some(isFailed),
    events: own,
  };
}

/** @param {any[]} events */
function pairSpans(events) {
  /** @type {Map<string, Span[]>} */
  const open = new Map();
  /** @type {Span[]} */
  const spans = [];
  for (const event of events) {
    const [, begun] = BEGINS.exec(typeOf(event)) ?? [];
    const [, ended] = ENDS.exec(typeOf(event)) ?? [];
    if (begun !== undefined) {
      const at = timeOf(event);
      const span = { label: begun, start: at, end: at, isOpen: true, isGuessed: false, isFailed: isFailed(event), events: [event] };
      spans.push(span);
      open.set(begun, [...(open.get(begun) ?? []), span]);
    } else if (ended !== undefined) {
      const span = open.get(ended)?.pop();
      if (!span) continue;
      span.end = timeOf(event);
      span.isOpen = false;
      span.isFailed ||= isFailed(event);
      span.events.push(event);
    }
  }
  return spans;
}

/**
 * Spans in as few rows as possible, the ones around others above them.
 *
 * @param {Span[]} spans
 * @returns {Span[][]}
 */
export function packed(spans) {
  const sorted = [...spans].sort((a, b) => a.start - b.start || b.end - a.end || b.events.length - a.events.length);
  /** @type {Span[][]} */
  const rows = [];
  for (const span of sorted) {
    const row = rows.find((each) => each[each.length - 1].end <= span.start && !each[each.length - 1].isOpen);
    if (row) row.push(span);
    else rows.push([span]);
  }
  return rows;
}

/**
 * The lanes of a run, one for each member, in the order of their first events.
 *
 * @param {any[]} events of one run, in order
 * @returns {{lanes: Lane[], since: number, until: number, failures: number}}
 */
export function layOut(events) {
  /** @type {Map<string, any[]>} */
  const members = new Map();
  for (const event of events) {
    const name = sourceOf(event);
    const own = members.get(name);
    if (own) own.push(event);
    else members.set(name, [event]);
  }
  const times = events.map(timeOf);
  const since = times.reduce((a, b) => Math.min(a, b), Infinity);
  const until = times.reduce((a, b) => Math.max(a, b), -Infinity);
  const lanes = [...members].map(([name, own]) => ({ name, events: own, rows: packed(ended(spansOf(own), until)) }));
  return { lanes, since, until, failures: events.filter(isFailed).length };
}

/** @param {Span[]} spans @param {number} until @returns {Span[]} */
function ended(spans, until) {
  return spans.map((span) => (span.isOpen ? { ...span, end: until } : span));
}
