// All events of a query, page by page.

import { ask } from "./api.js";

/**
 * @param {[string, string][]} parameters
 * @param {string} after seq
 * @param {number} most
 * @param {AbortSignal} signal
 * @returns {Promise<{events: any[], next: string, isComplete: boolean}>} ascending
 */
export async function readAll(parameters, after, most, signal) {
  /** @type {any[]} */
  const events = [];
  let next = after;
  for (;;) {
    const limit = Math.min(1000, most - events.length);
    const page = await ask(
      "api/events",
      [...parameters, ["order", "oldest"], ["after_seq", next], ["limit", String(limit)]],
      { signal },
    );
    events.push(...page.events);
    const stuck = page.next === null || page.next === next;
    next = page.next ?? next;
    if (page.is_complete || stuck || events.length >= most) return { events, next, isComplete: page.is_complete };
  }
}

/** @param {bigint} one @param {bigint} other @returns {bigint} */
function lesser(one, other) {
  return one < other ? one : other;
}

/**
 * The numbers without an event between two, or just how many they are.
 *
 * @param {[string, string][]} log
 * @param {bigint} first
 * @param {bigint} last
 * @param {AbortSignal} signal
 * @returns {Promise<{missing: bigint, gaps: {first_seq: string, last_seq: string, reason: string}[], isKnown: boolean}>}
 */
export async function missingBetween(log, first, last, signal) {
  const span = last - first + 1n;
  const bounds = [["after_seq", String(first - 1n)], ["before_seq", String(last + 1n)]];
  const parameters = /** @type {[string, string][]} */ ([...log, ...bounds]);
  const { count, is_exact: isExact } = await ask("api/count", parameters, { signal });
  const absent = span - BigInt(count);
  if (isExact && absent <= 0n) return { missing: 0n, gaps: [], isKnown: true };
  // The log may be long between the two, or only its numbers, which an epoch skips.
  const most = isExact ? 20 : 5;
  /** @type {any[]} */
  const gaps = [];
  let next = String(first - 1n);
  for (let pages = 0; pages < most && BigInt(next) < last; pages++) {
    const page = await ask(
      "api/events",
      [...log, ["order", "oldest"], ["after_seq", next], ["limit", "1000"], ["max_payload", "0"]],
      { signal },
    );
    gaps.push(...(page.gaps ?? []).filter((/** @type {any} */ gap) => BigInt(gap.first_seq) <= last));
    if (page.is_complete || page.next === next) {
      next = String(last);
      break;
    }
    next = page.next;
  }
  // Not all that is absent is missing: where an epoch begins, numbers were skipped.
  const inGaps = gaps.reduce((sum, gap) => sum + lesser(BigInt(gap.last_seq), last) - BigInt(gap.first_seq) + 1n, 0n);
  if (BigInt(next) >= last) return { missing: inGaps, gaps, isKnown: true };
  return isExact ? { missing: absent, gaps, isKnown: true } : { missing: 0n, gaps: [], isKnown: false };
}
