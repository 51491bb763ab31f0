// The histogram: events over time, stacked by type. Drag to zoom.

import { announce, h, svg } from "./dom.js";
import { isFailure, toneOf } from "./palette.js";
import { niceCeiling, timeTicks } from "./scale.js";
import { compact, count, counted, dateTime, tickLabel, timeOfDay, visible } from "./text.js";

const LEFT = 38;
const TOP = 8;
const BOTTOM = 20;
const MOST_SHOWN = 8;
/** A single event is a bar like others. */
const FEWEST_BUCKETS = 24;

/**
 * @typedef {object} TimelineHandlers
 * @property {(since: number, until: number) => void} onZoom
 * @property {(ms: number) => void} onGo
 */

/** The histogram. */
export class Timeline {
  /** @type {any} */
  #data = null;
  #width = 0;
  #height = 0;
  #top = 1;
  /** Where a selection began and where it is. @type {{from: number, to: number}|null} */
  #brush = null;
  /** The bucket that the keyboard is at. @type {number|null} */
  #cursor = null;
  /** Where the pointer is. @type {number|null} */
  #pointerX = null;
  /** @type {[number, number]|null} */
  #visible = null;

  /** @param {TimelineHandlers} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    this.bars = svg("g", { class: "bars" });
    this.axes = svg("g", { class: "axes" });
    this.hover = svg("rect", { class: "hover", y: TOP });
    this.brushed = svg("rect", { class: "brush", y: TOP });
    this.seen = svg("rect", { class: "seen", height: 3, rx: 1.5 });
    this.picture = svg("svg", { "aria-hidden": "true" }, this.axes, this.hover, this.bars, this.seen, this.brushed);
    this.tip = h("div", { class: "tip", hidden: true });
    this.note = h("p", { class: "timeline-note", hidden: true });
    this.element = h(
      "div",
      {
        class: "timeline",
        role: "group",
        tabindex: "0",
        "aria-roledescription": "timeline",
        "aria-label":
          "Events over time. Arrow keys go through the bars, with Shift they select; Enter zooms in; Escape ends the selection.",
      },
      this.picture,
      this.note,
      this.tip,
    );
    this.#listen();
    new ResizeObserver(() => this.#resize()).observe(this.element);
  }

  #listen() {
    const { element } = this;
    element.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => this.#down(event));
    element.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.#move(event));
    element.addEventListener("pointerup", () => this.#up());
    element.addEventListener("pointercancel", () => this.#end());
    element.addEventListener("pointerleave", () => {
      this.#pointerX = null;
      this.#leave();
    });
    element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
    element.addEventListener("blur", () => this.#end());
  }

  /** @param {any} data an answer of `api/histogram`; null while there is none */
  setData(data) {
    this.#data = data && data.since_ms !== null ? data : null;
    // The most frequent types get their colours first.
    data?.event_types.forEach(toneOf);
    this.tell(!data || data.is_complete ? "" : `Only the events from number ${count(BigInt(data.from_seq ?? 0))} on were counted.`);
    if (this.#data === null) this.#end();
    this.#draw();
    this.#pointAgain();
  }

  /** Who looks at a bar, or selects some, goes on with it when there are new ones. */
  #pointAgain() {
    if (!this.#data) return;
    if (this.#brush) this.#drawBrush();
    if (this.#cursor !== null) this.#point((this.#cursor = this.#within(this.#startOf(this.#cursor))));
    else if (this.#pointerX !== null && !this.#brush) this.#point(this.#within(this.#startOf(this.#ms(this.#pointerX))));
  }

  /** @param {number} start of a bucket, or of none */
  #within(start) {
    const { from, to } = this.#range;
    return Math.max(from, Math.min(start, to - this.#data.bucket_ms));
  }

  /** @param {string} note about what is not shown */
  tell(note) {
    this.note.hidden = note === "";
    this.note.textContent = note;
  }

  /**
   * Mark what the table shows.
   *
   * @param {number} since
   * @param {number} until
   */
  setVisible(since, until) {
    this.#visible = [since, until];
    this.#drawSeen();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.element;
    if (clientWidth === this.#width && clientHeight === this.#height) return;
    this.#width = clientWidth;
    this.#height = clientHeight;
    this.picture.setAttribute("viewBox", `0 0 ${clientWidth} ${clientHeight}`);
    this.#draw();
  }

  /** About how many bars fit. */
  get buckets() {
    return Math.max(20, Math.min(240, Math.round((this.element.clientWidth - LEFT) / 7)));
  }

  /** The range that is drawn: whole buckets, and some room around a few. */
  get #range() {
    const { since_ms: since, until_ms: until, bucket_ms: width } = this.#data;
    const from = Math.floor(since / width) * width;
    const to = Math.max(Math.ceil(until / width) * width, from + width);
    const lacking = Math.max(0, FEWEST_BUCKETS - (to - from) / width);
    const start = Math.max(0, from - Math.floor(lacking / 2) * width);
    return { from: start, to: Math.max(to, start + FEWEST_BUCKETS * width) };
  }

  get #plotHeight() {
    return this.#height - TOP - BOTTOM;
  }

  /** @param {number} ms */
  #x(ms) {
    const { from, to } = this.#range;
    return LEFT + ((ms - from) / (to - from)) * (this.#width - LEFT - 4);
  }

  /** @param {number} x */
  #ms(x) {
    const { from, to } = this.#range;
    const share = (x - LEFT) / (this.#width - LEFT - 4);
    return Math.round(from + Math.min(1, Math.max(0, share)) * (to - from));
  }

  #draw() {
    this.bars.replaceChildren();
    this.axes.replaceChildren();
    this.#leave();
    this.#drawSeen();
    if (!this.#data || this.#width < 100 || this.#plotHeight < 10) return;
    const totals = this.#data.buckets.map((/** @type {any} */ bucket) => totalOf(bucket));
    this.#top = niceCeiling(Math.max(1, ...totals));
    this.#drawAxes();
    this.#drawBars();
  }

  #drawAxes() {
    const { from, to } = this.#range;
    const { step, ticks } = timeTicks(from, to, Math.max(2, this.#width / 110));
    const base = TOP + this.#plotHeight;
    for (const [share, label] of /** @type {[number, string][]} */ ([[1, compact(this.#top)], [0.5, ""], [0, "0"]])) {
      const y = Math.round(TOP + (1 - share) * this.#plotHeight) + 0.5;
      this.axes.append(svg("line", { class: share ? "rule" : "base", x1: LEFT, x2: this.#width - 4, y1: y, y2: y }));
      if (label) this.axes.append(svg("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, label));
    }
    for (const at of ticks) {
      const x = this.#x(at);
      if (x < LEFT + 16 || x > this.#width - 24) continue;
      this.axes.append(
        svg("line", { class: "tick", x1: x, x2: x, y1: base, y2: base + 4 }),
        svg("text", { x, y: base + 15, "text-anchor": "middle" }, tickLabel(at, step)),
      );
    }
  }

  #drawBars() {
    const { buckets, bucket_ms: width, event_types: types } = this.#data;
    // Failures on top, where they are seen.
    const order = types.map((/** @type {string} */ _type, /** @type {number} */ index) => index);
    order.sort((/** @type {number} */ a, /** @type {number} */ b) => Number(isFailure(types[a])) - Number(isFailure(types[b])));
    const paths = new Map([...order, -1].map((index) => [index, ""]));
    for (const bucket of buckets) {
      const left = this.#x(bucket.start_ms);
      const wide = Math.max(1, this.#x(bucket.start_ms + width) - left - 1);
      let y = TOP + this.#plotHeight;
      for (const index of [-1, ...order]) {
        const number = index < 0 ? bucket.other : bucket.counts[index];
        if (!number) continue;
        const high = Math.max(1, (number / this.#top) * this.#plotHeight);
        y -= high;
        paths.set(index, `${paths.get(index)}M${left.toFixed(1)} ${y.toFixed(1)}h${wide.toFixed(1)}v${high.toFixed(1)}h-${wide.toFixed(1)}z`);
      }
    }
    for (const [index, d] of paths) {
      if (d) this.bars.append(svg("path", { class: index < 0 ? "tone-other" : toneOf(types[index]), d }));
    }
  }

  #drawSeen() {
    const shown = this.#visible !== null && this.#data !== null && this.#width > 100;
    this.seen.toggleAttribute("hidden", !shown);
    if (!shown || !this.#visible) return;
    const { from, to } = this.#range;
    const left = this.#x(Math.max(from, Math.min(to, this.#visible[0])));
    const right = this.#x(Math.max(from, Math.min(to, this.#visible[1])));
    this.seen.setAttribute("x", Math.min(left, this.#width - 10).toFixed(1));
    this.seen.setAttribute("width", Math.max(6, right - left).toFixed(1));
    this.seen.setAttribute("y", TOP + this.#plotHeight - 1);
  }

  /** @param {number} start_ms */
  #bucketAt(start_ms) {
    return this.#data.buckets.find((/** @type {any} */ bucket) => bucket.start_ms === start_ms);
  }

  /** @param {number} ms */
  #startOf(ms) {
    return Math.floor(ms / this.#data.bucket_ms) * this.#data.bucket_ms;
  }

  /** @param {number} start */
  #point(start) {
    const left = this.#x(start);
    const right = this.#x(start + this.#data.bucket_ms);
    this.hover.setAttribute("x", left);
    this.hover.setAttribute("width", Math.max(1, right - left));
    this.hover.setAttribute("height", this.#plotHeight);
    this.hover.removeAttribute("hidden");
    this.tip.replaceChildren(...this.#tipLines(start));
    this.tip.hidden = false;
    const place = Math.min(Math.max((left + right) / 2, 110), this.#width - 110);
    this.tip.style.setProperty("left", `${place}px`);
  }

  /** @param {number} start */
  #tipLines(start) {
    const bucket = this.#bucketAt(start);
    const title = `${dateTime(start).replace(/\.000$/, "")} – ${timeOfDay(start + this.#data.bucket_ms).replace(/\.000$/, "")}`;
    const lines = [h("div", { class: "tip-title" }, title, h("b", {}, count(bucket ? totalOf(bucket) : 0)))];
    if (!bucket) return lines;
    const types = this.#data.event_types
      .map((/** @type {string} */ type, /** @type {number} */ index) => ({ type, number: bucket.counts[index] }))
      .filter((/** @type {any} */ each) => each.number > 0)
      .sort((/** @type {any} */ a, /** @type {any} */ b) => b.number - a.number);
    for (const { type, number } of types.slice(0, MOST_SHOWN)) {
      lines.push(h("div", {}, h("span", { class: `dot ${toneOf(type)}` }), h("bdi", {}, visible(type, 40)), h("b", {}, count(number))));
    }
    const rest = types.slice(MOST_SHOWN).reduce((/** @type {number} */ sum, /** @type {any} */ each) => sum + each.number, bucket.other);
    if (rest > 0) lines.push(h("div", {}, h("span", { class: "dot tone-other" }), "others", h("b", {}, count(rest))));
    return lines;
  }

  #leave() {
    if (this.#brush) return;
    this.hover.setAttribute("hidden", "");
    this.brushed.setAttribute("hidden", "");
    this.tip.hidden = true;
  }

  #end() {
    this.#brush = null;
    this.#cursor = null;
    this.#leave();
  }

  /** @param {PointerEvent} event */
  #xOf(event) {
    return event.clientX - this.element.getBoundingClientRect().left;
  }

  /** @param {PointerEvent} event */
  #msAt(event) {
    return this.#ms(this.#xOf(event));
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (!this.#data || event.button !== 0) return;
    const ms = this.#msAt(event);
    this.#brush = { from: ms, to: ms };
    this.element.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (!this.#data) return;
    const ms = this.#msAt(event);
    if (this.#brush) {
      this.#brush.to = ms;
      this.#drawBrush();
    } else if (this.#xOf(event) >= LEFT) {
      this.#pointerX = this.#xOf(event);
      this.#point(this.#within(this.#startOf(ms)));
    } else {
      this.#pointerX = null;
      this.#leave();
    }
  }

  #up() {
    const brush = this.#brush;
    if (!brush) return;
    this.#end();
    const moved = Math.abs(this.#x(brush.to) - this.#x(brush.from));
    if (moved < 4) this.handlers.onGo(this.#startOf(brush.to) + this.#data.bucket_ms);
    else this.#zoom(brush.from, brush.to);
  }

  /** @param {number} a @param {number} b */
  #zoom(a, b) {
    const since = Math.floor(Math.min(a, b));
    this.handlers.onZoom(since, Math.max(since + 1, Math.ceil(Math.max(a, b))));
  }

  #drawBrush() {
    if (!this.#brush) return;
    const [a, b] = [this.#x(this.#brush.from), this.#x(this.#brush.to)];
    this.brushed.setAttribute("x", Math.min(a, b));
    this.brushed.setAttribute("width", Math.abs(b - a));
    this.brushed.setAttribute("height", this.#plotHeight);
    this.brushed.removeAttribute("hidden");
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.#data) return;
    const width = this.#data.bucket_ms;
    const { from, to } = this.#range;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const before = this.#cursor ?? (event.key === "ArrowLeft" ? to : from - width);
      const at = before + (event.key === "ArrowLeft" ? -width : width);
      this.#goTo(Math.max(from, Math.min(to - width, at)), event.shiftKey);
    } else if (event.key === "Enter" && this.#cursor !== null) {
      const brush = this.#brush ?? { from: this.#cursor, to: this.#cursor };
      this.#end();
      this.#zoom(Math.min(brush.from, brush.to), Math.max(brush.from, brush.to) + width);
    } else if (event.key === "Escape") {
      this.#end();
    } else {
      return;
    }
    event.preventDefault();
  }

  /**
   * @param {number} start
   * @param {boolean} selects
   */
  #goTo(start, selects) {
    if (selects) this.#brush = { from: this.#brush?.from ?? this.#cursor ?? start, to: start };
    else this.#brush = null;
    this.#cursor = start;
    this.brushed.setAttribute("hidden", "");
    if (this.#brush) this.#drawBrush();
    this.#point(start);
    const bucket = this.#bucketAt(start);
    announce(`${dateTime(start)}: ${counted(bucket ? totalOf(bucket) : 0, "event")}`);
  }
}

/** @param {{counts: number[], other: number}} bucket */
function totalOf(bucket) {
  return bucket.counts.reduce((sum, number) => sum + number, bucket.other);
}
