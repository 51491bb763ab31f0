// Text for people: times, durations, counts, and strings whose every character can be seen.

const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** @type {Record<string, string>} */
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** @param {string} character */
function escaped(character) {
  return SHORT[character] ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/**
 * A string in which control characters, and those that turn the direction of text, are written out.
 *
 * @param {string} text
 * @param {number} [most] characters after which it is cut off
 */
export function visible(text, most = Infinity) {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return cut.replace(HIDDEN, escaped);
}

/**
 * The same with quotes, as JSON has it.
 *
 * @param {string} text
 */
export function quoted(text) {
  return JSON.stringify(text).replace(HIDDEN, escaped);
}

const COUNT = new Intl.NumberFormat("en");
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** @param {number|bigint} number */
export const count = (number) => COUNT.format(number);

/** @param {number} number */
export const compact = (number) => COMPACT.format(number);

/**
 * @param {number|bigint} number
 * @param {string} one
 * @param {string} [many]
 */
export const counted = (number, one, many = `${one}s`) =>
  `${count(number)} ${Number(number) === 1 ? one : many}`;

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1024) return counted(bytes, "byte");
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

/** @param {number} ms */
export function duration(ms) {
  if (ms > 0 && ms < 1) return `${(ms * 1000).toFixed(0)} µs`;
  if (ms < 1000) return `${ms > 0 && ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${Number.isInteger(seconds) ? seconds : seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = units.findIndex(([each]) => seconds >= /** @type {number} */ (each));
  const [[big, bigName], next] = [units[first], units[first + 1]];
  const whole = Math.floor(seconds / Number(big));
  const rest = Math.floor((seconds - whole * Number(big)) / Number(next[0]));
  return rest ? `${whole} ${bigName} ${rest} ${next[1]}` : `${whole} ${bigName}`;
}

/** @param {number} number @param {number} [width] */
const padded = (number, width = 2) => String(number).padStart(width, "0");

/** The largest time that a Date can hold; a log can hold larger ones. */
const LAST_MS = 8.64e15;

/** @param {number|import("./exact.js").ExactNumber} ms */
function dateOf(ms) {
  const number = Number(ms);
  return number <= LAST_MS ? new Date(number) : null;
}

/** @param {Date} date */
const day = (date) => `${date.getFullYear()}-${padded(date.getMonth() + 1)}-${padded(date.getDate())}`;

/** @param {Date} date */
const clock = (date) => `${padded(date.getHours())}:${padded(date.getMinutes())}:${padded(date.getSeconds())}`;

/**
 * Local time of day, with milliseconds.
 *
 * @param {number|import("./exact.js").ExactNumber} ms since 1970
 */
export function timeOfDay(ms) {
  const date = dateOf(ms);
  return date ? `${clock(date)}.${padded(date.getMilliseconds(), 3)}` : String(ms);
}

/**
 * Local date and time, with milliseconds.
 *
 * @param {number|import("./exact.js").ExactNumber} ms since 1970
 */
export function dateTime(ms) {
  const date = dateOf(ms);
  return date ? `${day(date)} ${timeOfDay(ms)}` : `${ms} ms since 1970`;
}

/** @param {number|import("./exact.js").ExactNumber} ms since 1970 */
export function utc(ms) {
  return dateOf(ms)?.toISOString() ?? "";
}

/** @param {number|import("./exact.js").ExactNumber} ms since 1970 */
export function localDay(ms) {
  const date = dateOf(ms);
  return date ? day(date) : "";
}

/** @param {number|import("./exact.js").ExactNumber} ms since 1970 */
export function isThisYear(ms) {
  return dateOf(ms)?.getFullYear() === new Date().getFullYear();
}

/**
 * A moment for the label of an axis, as exact as the distance of its ticks asks for.
 *
 * @param {number} ms since 1970
 * @param {number} step between ticks
 */
export function tickLabel(ms, step) {
  const date = dateOf(ms);
  if (!date) return String(ms);
  const shortDay = isThisYear(ms) ? day(date).slice(5) : day(date);
  if (step >= 86_400_000) return shortDay;
  if (step < 1000) return `${clock(date)}.${padded(date.getMilliseconds(), 3)}`;
  if (date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0) return shortDay;
  return step < 60_000 ? clock(date) : clock(date).slice(0, 5);
}

/**
 * What is meant by two moments, in as few characters as possible.
 *
 * @param {number|null} since
 * @param {number|null} until
 */
export function rangeText(since, until) {
  const shown = (/** @type {number} */ ms) => dateTime(ms).replace(/\.000$/, "");
  if (since === null && until === null) return "All time";
  if (since === null) return `before ${shown(/** @type {number} */ (until))}`;
  if (until === null) return `since ${shown(since)}`;
  const end = localDay(since) === localDay(until) ? shown(until).slice(11) : shown(until);
  return `${shown(since)} – ${end}`;
}
