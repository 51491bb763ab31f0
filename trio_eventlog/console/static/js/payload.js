// A payload, for people.

import { button, h, icon } from "./dom.js";
import { ExactNumber, keepsDigits, stringifyExact } from "./exact.js";
import { counted, quoted, visible } from "./text.js";

const MOST_LINES = 2000;
const MOST_TEXT = 100_000;
const MOST_KEYS = 8;
const MOST_PREVIEW = 80;

/** @param {any} value */
const isObject = (value) => value !== null && typeof value === "object" && !(value instanceof ExactNumber);

/** @param {any} value */
function kindOf(value) {
  if (value === null) return "null";
  if (value instanceof ExactNumber) return "number";
  return typeof value;
}

/** @param {number} number */
function numberText(number) {
  // Without its digits, a large one may have been changed.
  return (keepsDigits || Number.isSafeInteger(number) || !Number.isInteger(number) ? "" : "≈") + String(number);
}

/** @param {any} value */
function scalarText(value) {
  if (typeof value === "string") {
    const cut = value.length > MOST_TEXT;
    return quoted(cut ? value.slice(0, MOST_TEXT) : value) + (cut ? ` … ${counted(value.length, "character")}` : "");
  }
  return typeof value === "number" ? numberText(value) : String(value);
}

/** @param {any} value */
function previewOf(value) {
  if (Array.isArray(value)) return `[${value.length}]`;
  if (isObject(value)) return `{${Object.keys(value).length}}`;
  return typeof value === "string" ? visible(value, MOST_PREVIEW) : scalarText(value);
}

/**
 * A payload in one line.
 *
 * @param {any} payload
 * @returns {Node[]}
 */
export function payloadPreview(payload) {
  if (payload === undefined || payload === null) return [];
  if (!isObject(payload) || Array.isArray(payload)) return [h("span", { class: "pv-value" }, previewOf(payload))];
  const parts = [];
  for (const [key, value] of Object.entries(payload).slice(0, MOST_KEYS)) {
    parts.push(h("span", { class: "pv-key" }, visible(key, 40)), h("span", { class: "pv-value" }, previewOf(value)));
  }
  return parts;
}

/**
 * @typedef {object} Line
 * @property {number} depth
 * @property {string|null} key
 * @property {any} value what the line shows, if it is a scalar
 * @property {string} text of a bracket
 * @property {boolean} comma
 */

/**
 * The lines of pretty-printed JSON. Without recursion: a payload can be deep.
 *
 * @param {any} payload
 * @param {number} most
 * @returns {Line[]}
 */
export function linesOf(payload, most) {
  /** @type {Line[]} */
  const lines = [];
  /** @type {any[]} */
  const waiting = [{ depth: 0, key: null, value: payload, comma: false }];
  while (waiting.length > 0 && lines.length < most) {
    const item = waiting.pop();
    const { value, depth } = item;
    if ("text" in item || !isObject(value)) {
      lines.push({ text: "", ...item });
      continue;
    }
    const [open, close] = Array.isArray(value) ? "[]" : "{}";
    const entries = Array.isArray(value) ? value.map((each) => [null, each]) : Object.entries(value);
    if (entries.length === 0) {
      lines.push({ ...item, text: open + close });
      continue;
    }
    lines.push({ ...item, text: open, comma: false });
    waiting.push({ depth, key: null, value: undefined, text: close, comma: item.comma });
    for (let index = entries.length - 1; index >= 0; index--) {
      const [key, each] = entries[index];
      waiting.push({ depth: depth + 1, key, value: each, comma: index < entries.length - 1 });
    }
  }
  return lines;
}

/**
 * @param {Line} line
 * @param {(key: string, value: any) => void} onFilter
 */
function lineElement(line, onFilter) {
  const isScalar = line.text === "";
  const canFilter = line.depth === 1 && line.key !== null && isScalar;
  const element = h(
    "div",
    { class: "json-line" },
    line.key === null ? null : h("span", { class: "json-key" }, quoted(line.key)),
    line.key === null ? null : ": ",
    isScalar
      ? h("bdi", { class: `json-value is-${kindOf(line.value)}` }, scalarText(line.value))
      : h("span", { class: "json-bracket" }, line.text),
    line.comma ? "," : null,
    canFilter ? filterButton(line.key ?? "", line.value, onFilter) : null,
  );
  element.style.setProperty("--depth", String(Math.min(line.depth, 40)));
  return element;
}

/**
 * @param {string} key
 * @param {any} value
 * @param {(key: string, value: any) => void} onFilter
 */
function filterButton(key, value, onFilter) {
  const label = `Filter by ${visible(key, 40)} = ${previewOf(value)}`;
  const onclick = () => onFilter(key, value);
  return h("button", { type: "button", class: "json-filter", title: label, "aria-label": label, onclick }, icon("filter"));
}

/**
 * A pretty-printed payload.
 *
 * @param {any} payload
 * @param {(key: string, value: any) => void} onFilter called with a key at the top level and its value
 * @returns {HTMLElement}
 */
export function payloadElement(payload, onFilter) {
  const lines = linesOf(payload, MOST_LINES + 1);
  const element = h("div", { class: "json", tabindex: "0", role: "group", "aria-label": "Payload" });
  for (const line of lines.slice(0, MOST_LINES)) element.append(lineElement(line, onFilter));
  if (lines.length > MOST_LINES) {
    const onclick = (/** @type {MouseEvent} */ event) => showRest(element, payload, /** @type {any} */ (event.currentTarget));
    element.append(button({ label: "Show all", text: `The first ${counted(MOST_LINES, "line")}. Show all`, onclick }));
  }
  return element;
}

/**
 * As plain text, since a line of elements each would be too much.
 *
 * @param {HTMLElement} element
 * @param {any} payload
 * @param {HTMLElement} pressed
 */
function showRest(element, payload, pressed) {
  pressed.remove();
  const text = stringifyExact(payload, 2).split("\n").slice(MOST_LINES);
  element.append(h("pre", { class: "json-rest" }, text.map((line) => visible(line)).join("\n")));
}
