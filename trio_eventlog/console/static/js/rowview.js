// How one row of the table looks.

import { button, h, icon } from "./dom.js";
import { payloadPreview } from "./payload.js";
import { isFailure, toneOf } from "./palette.js";
import { counted, count, dateTime, isThisYear, localDay, size, timeOfDay, utc, visible } from "./text.js";

/** @typedef {import("./window.js").Row} Row */

/**
 * Who an event is from.
 *
 * @param {any} event
 */
export function sourceOf(event) {
  const { kind, module, agent_id: agent } = event.event;
  return kind === "module" ? (event.member_id ?? module) : (event.member_id ?? agent);
}

/** @param {number|import("./exact.js").ExactNumber} ms */
function timeElement(ms) {
  const day = localDay(ms);
  const isToday = day === localDay(Date.now());
  return h(
    "time",
    { datetime: utc(ms) || null, title: dateTime(ms) },
    isToday ? null : h("span", { class: "day" }, `${isThisYear(ms) ? day.slice(5) : day} `),
    timeOfDay(ms),
  );
}

/** @param {string} name @param {...any} children */
const cell = (name, ...children) => h("div", { class: `cell cell-${name}`, role: "gridcell" }, ...children);

/** @param {any} event */
function previewCell(event) {
  if (event.payload_bytes !== undefined) {
    return cell("payload", h("span", { class: "pv-large" }, `${size(Number(event.payload_bytes))} of payload`));
  }
  return cell("payload", ...payloadPreview(event.event.payload));
}

/**
 * @param {Row} row
 * @returns {HTMLElement}
 */
function eventElement(row) {
  const { event } = row;
  const type = event.event.event_type;
  const source = visible(sourceOf(event), 200);
  return h(
    "div",
    { class: `row ${isFailure(type) ? "is-failure" : ""}`, role: "row", "aria-level": 1, "aria-expanded": "false" },
    cell("time", icon("chevron"), timeElement(event.timestamp_ms)),
    cell("type", h("span", { class: `dot ${toneOf(type)}` }), h("bdi", {}, visible(type, 200))),
    cell("source", h("bdi", { class: `is-${event.event.kind}`, title: source }, source)),
    previewCell(event),
    cell("seq", count(row.seq)),
  );
}

const REASONS = /** @type {Record<string, string>} */ ({
  missing: "lost, or duplicates",
  pruned: "pruned",
  skipped: "came too fast to be shown",
});

/**
 * @param {Row} row
 * @param {(seq: string) => void} onAround
 */
function gapElement(row, onAround) {
  const { first_seq: first, last_seq: last, reason } = /** @type {NonNullable<Row["gap"]>} */ (row.gap);
  const number = BigInt(last) - BigInt(first) + 1n;
  const numbers = number === 1n ? `number ${count(BigInt(first))}` : `numbers ${count(BigInt(first))} to ${count(BigInt(last))}`;
  const verb = reason === "skipped" ? "" : number === 1n ? " is missing" : " are missing";
  const show = reason === "skipped" && button({ label: "Show them", text: "Show them", class: "is-small", onclick: () => onAround(last) });
  return h(
    "div",
    { class: `row row-gap is-${reason}`, role: "row", "aria-level": 1 },
    h(
      "div",
      { class: "cell cell-gap", role: "gridcell" },
      icon("warning"),
      h("strong", {}, `${counted(number, "event")}${verb}`),
      h("span", {}, `${REASONS[reason] ?? visible(reason)} · ${numbers}`),
      show,
    ),
  );
}

/**
 * The row of an event or a gap.
 *
 * @param {Row} row
 * @param {(seq: string) => void} onAround
 * @returns {HTMLElement}
 */
export function rowElement(row, onAround) {
  return row.kind === "gap" ? gapElement(row, onAround) : eventElement(row);
}

/**
 * The last row of the table: what is below.
 *
 * @param {string} text
 * @param {boolean} isBusy
 */
export function endElement(text, isBusy) {
  return h(
    "div",
    { class: "row row-end", role: "row", "aria-level": 1 },
    h("div", { class: "cell cell-end", role: "gridcell" }, isBusy ? h("span", { class: "spinner" }) : null, text),
  );
}
