// Axes. Pure.

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const STEPS = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500],
  ...[1, 2, 5, 10, 15, 30].map((n) => n * SECOND),
  ...[1, 2, 5, 10, 15, 30].map((n) => n * MINUTE),
  ...[1, 2, 3, 6, 12].map((n) => n * HOUR),
  ...[1, 2, 7, 14, 30, 60, 90, 180, 365].map((n) => n * DAY),
];

/**
 * Moments for the labels of an axis of time, at round local times.
 *
 * @param {number} since
 * @param {number} until
 * @param {number} most
 * @returns {{step: number, ticks: number[]}}
 */
export function timeTicks(since, until, most) {
  const span = Math.max(until - since, 1);
  const step = STEPS.find((each) => span / each <= most) ?? Math.ceil(span / most / DAY / 365) * DAY * 365;
  // Days begin at midnight where the reader is.
  const shift = step >= HOUR ? new Date(since).getTimezoneOffset() * MINUTE : 0;
  const ticks = [];
  for (let at = Math.ceil((since - shift) / step) * step + shift; at <= until; at += step) ticks.push(at);
  return { step, ticks };
}

/**
 * The next round number.
 *
 * @param {number} value
 */
export function niceCeiling(value) {
  if (value <= 5) return Math.max(1, Math.ceil(value));
  const unit = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((each) => each * unit >= value) ?? 10;
  return factor * unit;
}
