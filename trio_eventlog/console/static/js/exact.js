// JSON whose numbers keep all their digits.

/** A number that JavaScript would change: it is kept as it was written. */
export class ExactNumber {
  /** @param {string} source the digits */
  constructor(source) {
    this.source = source;
  }

  toString() {
    return this.source;
  }
}

/**
 * Whether this browser tells a reviver how a number was written.
 */
export const keepsDigits = (() => {
  let kept = false;
  const look = (/** @type {string} */ _key, /** @type {any} */ value, /** @type {any} */ context) => {
    kept = context?.source === "1.0";
    return value;
  };
  JSON.parse("1.0", /** @type {any} */ (look));
  return kept;
})();

/**
 * @param {string} _key
 * @param {unknown} value
 * @param {{source?: string}} [context]
 */
function revive(_key, value, context) {
  if (typeof value === "number" && context?.source !== undefined && String(value) !== context.source) {
    return new ExactNumber(context.source);
  }
  return value;
}

/**
 * Parse JSON; numbers that JavaScript would change become {@link ExactNumber}.
 *
 * @param {string} text
 * @returns {any}
 */
export function parseExact(text) {
  return JSON.parse(text, revive);
}

/**
 * JSON of what {@link parseExact} returned, with the same digits.
 *
 * @param {any} value
 * @param {number} [indent] blanks for each level; 0 for one line
 * @returns {string}
 */
export function stringifyExact(value, indent = 0) {
  return write(value, indent, "\n");
}

/**
 * @param {any} value
 * @param {number} indent
 * @param {string} newline a line break and the blanks of this level
 * @returns {string}
 */
function write(value, indent, newline) {
  if (value instanceof ExactNumber) return value.source;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const deeper = indent ? newline + " ".repeat(indent) : "";
  const parts = Array.isArray(value)
    ? value.map((item) => write(item, indent, deeper))
    : Object.entries(value).map(
        ([key, item]) => `${JSON.stringify(key)}:${indent ? " " : ""}${write(item, indent, deeper)}`,
      );
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (parts.length === 0) return open + close;
  return open + parts.map((part) => deeper + part).join(",") + (indent ? newline : "") + close;
}
