// A run as bars: one lane for each member.

import { detailElement } from "./detail.js";
import { button, h, icon } from "./dom.js";
import { Palette, toneOf } from "./palette.js";
import { noFilters, withFilter } from "./query.js";
import { timeTicks } from "./scale.js";
import { isFailed } from "./spans.js";
import { counted, count, duration, timeOfDay, visible } from "./text.js";

const MOST_MARKS = 2000;

/** @typedef {import("./spans.js").Span} Span */

/** The chart, and below it what was chosen in it. */
export class RunChart {
  #since = 0;
  #span = 1;
  #labels = new Palette();
  /** @type {string|null} */
  #chosen = null;

  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.plot = h("div", { class: "run-plot" });
    this.inspector = h("section", { class: "inspector", "aria-label": "What was chosen", hidden: true });
    this.legend = h(
      "p",
      { class: "legend" },
      h("span", { class: "key key-bar" }), "step",
      h("span", { class: "key key-bar is-failed" }), "failed",
      h("span", { class: "key key-bar is-open" }), "no end in the log",
      h("span", { class: "key key-bar is-guessed" }), "beginning not in the log",
      h("span", { class: "key key-gap" }), "missing numbers",
    );
    const scroller = h("div", { class: "run-scroll", tabindex: "0", role: "region", "aria-label": "Steps over time" }, this.plot);
    this.element = h("div", { class: "run-chart" }, scroller, this.legend, this.inspector);
  }

  /** @param {number} ms share of the width, in percent */
  #place(ms) {
    return ((ms - this.#since) / this.#span) * 100;
  }

  /**
   * @param {ReturnType<typeof import("./spans.js").layOut>} layout
   * @param {any[]} events
   * @param {{first_seq: string, last_seq: string}[]} gaps
   */
  setData(layout, events, gaps) {
    const { since, until, lanes } = layout;
    // Some room on both sides, for what begins and ends there.
    const room = Math.max(1, (until - since) * 0.02);
    this.#since = since - room;
    this.#span = until - since + 2 * room;
    const focused = /** @type {HTMLElement|null} */ (this.plot.querySelector(":focus"))?.dataset.key;
    this.plot.replaceChildren(
      this.#axis(since),
      h("div", { class: "lanes" }, this.#bands(events, gaps), ...lanes.map((lane) => this.#lane(lane))),
    );
    if (focused !== undefined) this.plot.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  /** @param {number} since */
  #axis(since) {
    const { ticks } = timeTicks(0, this.#span, 8);
    const axis = h("div", { class: "run-axis", "aria-hidden": "true" });
    for (const at of ticks) {
      const place = this.#place(since + at);
      if (place > 94) continue;
      const tick = h("span", {}, at === 0 ? timeOfDay(since) : `+${duration(at)}`);
      tick.style.setProperty("left", `${place}%`);
      axis.append(tick);
    }
    return axis;
  }

  /**
   * Where numbers are missing: between the events of the run around them.
   *
   * @param {any[]} events
   * @param {{first_seq: string, last_seq: string}[]} gaps
   */
  #bands(events, gaps) {
    const bands = h("div", { class: "bands" });
    for (const gap of gaps.slice(0, 200)) {
      const first = BigInt(gap.first_seq);
      const next = events.findIndex((event) => BigInt(event.seq) > first);
      if (next <= 0) continue;
      const from = Number(events[next - 1].timestamp_ms);
      const to = Number(events[next].timestamp_ms);
      const number = BigInt(gap.last_seq) - first + 1n;
      const label = `${counted(number, "number")} missing: ${count(first)} to ${count(BigInt(gap.last_seq))}`;
      const band = h("div", { class: "band", title: label, role: "img", "aria-label": label });
      band.style.setProperty("left", `${this.#place(from)}%`);
      band.style.setProperty("width", `${Math.max(0, this.#place(to) - this.#place(from))}%`);
      bands.append(band);
    }
    return bands;
  }

  /** @param {import("./spans.js").Lane} lane */
  #lane(lane) {
    const rows = lane.rows.map((row) => h("div", { class: "lane-row" }, ...row.map((span) => this.#bar(lane, span))));
    const marks = h("div", { class: "marks" }, ...lane.events.slice(0, MOST_MARKS).map((event) => this.#mark(event)));
    return h(
      "section",
      { class: "lane", "aria-label": visible(lane.name, 100) },
      h("h2", {}, h("bdi", { title: visible(lane.name) }, visible(lane.name, 60))),
      h("div", { class: "lane-rows" }, ...rows, marks),
    );
  }

  /**
   * @param {import("./spans.js").Lane} lane
   * @param {Span} span
   */
  #bar(lane, span) {
    const states = [span.isFailed && "failed", span.isOpen && "no end in the log", span.isGuessed && "beginning not in the log"];
    const notes = states.filter(Boolean).join(", ");
    const took = duration(span.end - span.start);
    const key = `${lane.name} ${span.label} ${span.start}`;
    const names = ["bar", this.#labels.toneOf(shortened(span.label)), span.isFailed && "is-failed", span.isOpen && "is-open", span.isGuessed && "is-guessed"];
    const bar = h(
      "button",
      {
        type: "button",
        class: names.filter(Boolean).join(" "),
        title: `${visible(span.label, 200)} · ${took}${notes ? ` · ${notes}` : ""}`,
        "aria-pressed": String(this.#chosen === key),
        "data-key": key,
        onclick: () => this.#choose(bar, key, span, notes),
      },
      span.isFailed ? icon("warning") : null,
      h("bdi", {}, visible(shortened(span.label), 60)),
      h("span", { class: "bar-time" }, took),
      notes ? h("span", { class: "visually-hidden" }, notes) : null,
    );
    bar.style.setProperty("left", `${this.#place(span.start)}%`);
    bar.style.setProperty("width", `${this.#place(span.end) - this.#place(span.start)}%`);
    return bar;
  }

  /** @param {any} event */
  #mark(event) {
    const type = event.event.event_type;
    const mark = h("span", { class: `mark ${toneOf(type)} ${isFailed(event) ? "is-failed" : ""}`, title: `${visible(type, 100)} · ${timeOfDay(event.timestamp_ms)}` });
    mark.style.setProperty("left", `${this.#place(Number(event.timestamp_ms))}%`);
    return mark;
  }

  /**
   * @param {HTMLElement} bar
   * @param {string} key
   * @param {Span} span
   * @param {string} notes
   */
  #choose(bar, key, span, notes) {
    for (const pressed of this.plot.querySelectorAll("[aria-pressed=true]")) pressed.setAttribute("aria-pressed", "false");
    this.#chosen = this.#chosen === key ? null : key;
    this.inspector.hidden = this.#chosen === null;
    if (this.#chosen === null) return;
    bar.setAttribute("aria-pressed", "true");
    const close = button({ icon: "close", label: "Close", class: "is-icon", onclick: () => this.#choose(bar, key, span, notes) });
    this.inspector.replaceChildren(
      h("div", { class: "title" }, h("h2", {}, h("bdi", {}, visible(span.label, 200))), close),
      h("p", { class: "muted" }, `${timeOfDay(span.start)} – ${span.isOpen ? "?" : timeOfDay(span.end)} · ${duration(span.end - span.start)}${notes ? ` · ${notes}` : ""}`),
      ...span.events.map((event) => this.#eventElement(event)),
    );
    this.inspector.scrollIntoView({ block: "nearest" });
  }

  /** @param {any} event */
  #eventElement(event) {
    const element = h(
      "details",
      {},
      h("summary", {}, h("span", { class: `dot ${toneOf(event.event.event_type)}` }), h("bdi", {}, visible(event.event.event_type, 100)), h("time", {}, timeOfDay(event.timestamp_ms))),
    );
    element.addEventListener("toggle", () => {
      if (element.open && element.children.length === 1) element.append(this.#detail(event));
    });
    return element;
  }

  /** @param {any} event */
  #detail(event) {
    const { app } = this;
    const place = { ...app.place, view: "events", run: null };
    const detail = detailElement(event, {
      onFilter: (field, value) => app.go({ ...place, filters: withFilter(noFilters(), field, value) }),
      onRun: () => {},
      onAround: (seq) => app.go({ ...place, open: seq }),
      linkTo: (seq) => app.link({ ...place, open: seq }),
      logParameters: () => app.logParameters,
      isFiltered: () => true,
    });
    detail.removeAttribute("role");
    return detail;
  }
}

/**
 * Steps are often named after their run: the last part tells them apart.
 *
 * @param {string} label
 */
function shortened(label) {
  return label.split("/").at(-1) || label;
}
