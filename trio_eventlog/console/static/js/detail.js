// An event that is open.

import { ask } from "./api.js";
import { button, copy, h } from "./dom.js";
import { stringifyExact } from "./exact.js";
import { payloadElement } from "./payload.js";
import { FIELD_NAMES, fieldOfKey } from "./query.js";
import { dateTime, size, utc, visible } from "./text.js";

/**
 * @typedef {object} DetailHandlers
 * @property {(field: string, value: any) => void} onFilter
 * @property {(runId: string) => void} onRun
 * @property {(seq: string) => void} onAround
 * @property {(seq: string) => string} linkTo
 * @property {() => [string, string][]} logParameters
 * @property {() => boolean} isFiltered
 */

/**
 * @param {string} term
 * @param {any} value
 * @param {() => void} [onFilter]
 */
function fact(term, value, onFilter) {
  const label = `Filter by ${term.toLowerCase()}`;
  return h(
    "div",
    { class: "fact" },
    h("dt", {}, term),
    h(
      "dd",
      {},
      h("bdi", {}, value),
      onFilter && button({ icon: "filter", label, class: "is-icon is-small", onclick: onFilter }),
    ),
  );
}

/**
 * @param {any} event
 * @param {DetailHandlers} handlers
 */
function facts(event, handlers) {
  const { event: inner, member_id: member } = event;
  /** @param {string} field @param {string} value */
  const filtered = (field, value) =>
    fact(FIELD_NAMES[field], visible(value), () => handlers.onFilter(field, value));
  return h(
    "dl",
    { class: "facts" },
    filtered("event_type", inner.event_type),
    inner.kind === "module" ? filtered("module", inner.module) : null,
    member === null || member === undefined ? null : filtered("member_id", member),
    inner.kind === "agent" && inner.agent_id !== member ? fact("Agent", visible(inner.agent_id)) : null,
    fact("Time", h("time", { datetime: utc(event.timestamp_ms) || null, title: utc(event.timestamp_ms) }, dateTime(event.timestamp_ms))),
    fact("Seq", event.seq),
    fact("Id", h("code", {}, visible(event.id))),
  );
}

/**
 * @param {any} event
 * @param {DetailHandlers} handlers
 */
function actions(event, handlers) {
  const runId = event.event.payload?.run_id;
  const link = () => new URL(handlers.linkTo(event.seq), document.baseURI).href;
  return h(
    "div",
    { class: "actions" },
    typeof runId === "string" &&
      button({ icon: "run", label: "Show run", text: "Show run", onclick: () => handlers.onRun(runId) }),
    handlers.isFiltered() &&
      button({
        icon: "around",
        label: "Show what happened around it",
        text: "Around it",
        onclick: () => handlers.onAround(event.seq),
      }),
    copyButton("copy", "Copy JSON", () => stringifyExact(event, 2)),
    copyButton("link", "Copy link", link),
  );
}

/**
 * @param {string} name of the icon
 * @param {string} label
 * @param {() => string} text
 */
function copyButton(name, label, text) {
  const onclick = (/** @type {MouseEvent} */ event) => copy(/** @type {HTMLElement} */ (event.currentTarget), text());
  return button({ icon: name, label, text: label, class: "copies", onclick });
}

/**
 * Fill an element with an event.
 *
 * @param {HTMLElement} element
 * @param {any} event whole
 * @param {DetailHandlers} handlers
 */
function fill(element, event, handlers) {
  const { payload } = event.event;
  element.replaceChildren(
    facts(event, handlers),
    payload === undefined || payload === null
      ? h("p", { class: "muted" }, "This event has no payload.")
      : payloadElement(payload, (key, value) => handlers.onFilter(fieldOfKey(key, value), value)),
    actions(event, handlers),
  );
}

/**
 * The part of a row that is shown when it is open. A payload that was left out is asked for.
 *
 * @param {any} event
 * @param {DetailHandlers} handlers
 * @returns {HTMLElement}
 */
export function detailElement(event, handlers) {
  const element = h("div", { class: "detail", role: "gridcell" });
  if (event.payload_bytes === undefined) fill(element, event, handlers);
  else loadWhole(element, event, handlers);
  return element;
}

/**
 * @param {HTMLElement} element
 * @param {any} event
 * @param {DetailHandlers} handlers
 */
async function loadWhole(element, event, handlers) {
  element.replaceChildren(
    h("p", { class: "muted" }, h("span", { class: "spinner" }), ` Loading ${size(Number(event.payload_bytes))}…`),
  );
  try {
    const answer = await ask(`api/events/${event.seq}`, handlers.logParameters());
    fill(element, answer.event, handlers);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const again = () => loadWhole(element, event, handlers);
    element.replaceChildren(
      h("p", { class: "notice is-error", role: "alert" }, message, button({ label: "Try again", text: "Try again", onclick: again })),
    );
  }
}
