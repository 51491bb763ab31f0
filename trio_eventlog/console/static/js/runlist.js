// The list of runs.

import { h } from "./dom.js";
import { toneOf } from "./palette.js";
import { sourceOf } from "./rowview.js";
import { isFailed } from "./spans.js";
import { count, dateTime, duration, visible } from "./text.js";

/**
 * @typedef {object} RecentRun
 * @property {string} run
 * @property {number} since of the events that were looked at
 * @property {number} until
 * @property {number} events
 * @property {Set<string>} members
 * @property {number} failures
 * @property {string} lastType
 */

/**
 * The runs of some events, the one with the newest event first.
 *
 * @param {any[]} events newest first
 * @returns {RecentRun[]}
 */
export function recentRuns(events) {
  /** @type {Map<string, RecentRun>} */
  const runs = new Map();
  for (const event of events) {
    const run = event.event.payload?.run_id;
    if (typeof run !== "string") continue;
    const at = Number(event.timestamp_ms);
    let found = runs.get(run);
    if (!found) {
      found = { run, since: at, until: at, events: 0, members: new Set(), failures: 0, lastType: event.event.event_type };
      runs.set(run, found);
    }
    found.since = Math.min(found.since, at);
    found.until = Math.max(found.until, at);
    found.events += 1;
    found.members.add(sourceOf(event));
    found.failures += Number(isFailed(event));
  }
  return [...runs.values()];
}

/**
 * @param {string} run
 * @param {import("./main.js").App} app
 */
function runLink(run, app) {
  const place = { ...app.place, run };
  const onclick = (/** @type {MouseEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    app.go(place);
  };
  return h("a", { href: app.link(place), onclick }, h("bdi", {}, visible(run, 80) || "(empty)"));
}

/**
 * @param {RecentRun} recent
 * @param {import("./main.js").App} app
 */
function recentRow(recent, app) {
  const { run, since, until, events, members, failures, lastType } = recent;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, runLink(run, app)),
    h("td", {}, h("span", { class: `dot ${toneOf(lastType)}` }), h("bdi", {}, visible(lastType, 60))),
    h("td", { class: "number" }, count(events)),
    h("td", { class: `number ${failures > 0 ? "is-failure" : ""}` }, count(failures)),
    h("td", { class: "number" }, duration(until - since)),
    h("td", { class: "wide" }, h("bdi", {}, visible([...members].join(", "), 80))),
    h("td", { class: "wide" }, dateTime(until).slice(0, 19)),
  );
}

const HEADS = ["Run", "Last event", "Events", "Failures", "Took", "Members", "Last seen"];
const NUMBERS = ["Events", "Failures", "Took"];
const WIDE = ["Members", "Last seen"];

/** @param {string} label */
function head(label) {
  const name = NUMBERS.includes(label) ? "number" : WIDE.includes(label) ? "wide" : null;
  return h("th", { scope: "col", class: name }, label);
}

/**
 * @param {RecentRun[]} recent
 * @param {{value: string, count: number}[]} largest
 * @param {import("./main.js").App} app
 * @returns {HTMLElement[]}
 */
export function runTable(recent, largest, app) {
  if (recent.length === 0 && largest.length === 0) {
    return [
      h(
        "div",
        { class: "empty" },
        h("p", { class: "empty-title" }, "No runs"),
        h("p", {}, "Events belong to a run if their payload has a string under ", h("code", {}, "run_id"), "."),
      ),
    ];
  }
  const caption = h("caption", {}, "At work lately", h("small", {}, "in the newest 1,000 events"));
  const table = h("table", { class: "plain" }, caption, h("thead", {}, h("tr", {}, ...HEADS.map(head))), h("tbody", {}, ...recent.map((each) => recentRow(each, app))));
  const rows = largest.map((each) =>
    h("tr", {}, h("th", { scope: "row" }, runLink(each.value, app)), h("td", { class: "number" }, count(each.count))),
  );
  const most = h(
    "table",
    { class: "plain" },
    h("caption", {}, "Most events"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Run"), h("th", { scope: "col", class: "number" }, "Events"))),
    h("tbody", {}, ...rows),
  );
  return [h("div", { class: "run-lists" }, h("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Runs at work lately" }, table), h("div", { class: "scrolls" }, most))];
}
