// A small chart of one number over time.

import { h, svg } from "./dom.js";
import { niceCeiling } from "./scale.js";
import { timeOfDay } from "./text.js";

const WIDTH = 400;
const HEIGHT = 96;
const TOP = 6;

/** A small chart; where there is no number, the line has a gap. */
export class Chart {
  /** @type {number[]} */
  #times = [];
  /** @type {(number|null)[]} */
  #values = [];

  /** @param {{title: string, unit: (value: number) => string, tone: string}} options */
  constructor({ title, unit, tone }) {
    this.unit = unit;
    this.area = svg("path", { class: "chart-area" });
    this.line = svg("path", { class: "chart-line" });
    this.dots = svg("path", { class: "chart-dots" });
    this.guide = svg("line", { class: "chart-guide", y1: 0, y2: HEIGHT, hidden: true });
    this.picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("line", { class: "chart-rule", x1: 0, x2: WIDTH, y1: TOP, y2: TOP }),
      svg("line", { class: "chart-rule", x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }),
      this.area,
      this.line,
      this.dots,
      this.guide,
    );
    this.now = h("strong", {}, "–");
    this.top = h("span", { class: "chart-top" });
    this.note = h("span", { class: "muted" });
    const plot = h("div", { class: "chart-plot" }, this.picture, this.top);
    plot.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.#point(event));
    plot.addEventListener("pointerleave", () => this.#leave());
    this.plot = plot;
    this.element = h("figure", { class: `chart ${tone}` }, h("figcaption", {}, h("span", {}, title), this.now, this.note), plot);
  }

  /**
   * @param {number[]} times
   * @param {(number|null)[]} values
   */
  setData(times, values) {
    this.#times = times;
    this.#values = values;
    const known = values.filter((value) => value !== null);
    const top = niceCeiling(Math.max(1, ...known));
    this.top.textContent = this.unit(top);
    const last = known.at(-1);
    this.now.textContent = last === undefined ? "–" : this.unit(last);
    this.note.textContent = known.length === 0 ? "" : `max ${this.unit(Math.max(...known))}`;
    this.#draw(top);
  }

  /** @param {number} at */
  #x(at) {
    const [first, last] = [this.#times[0], this.#times[this.#times.length - 1]];
    return last > first ? ((at - first) / (last - first)) * WIDTH : WIDTH;
  }

  /** @param {number} top */
  #draw(top) {
    const y = (/** @type {number} */ value) => TOP + (1 - value / top) * (HEIGHT - TOP - 1);
    let line = "";
    let area = "";
    let dots = "";
    for (const part of partsOf(this.#values)) {
      const points = part.map((index) => [this.#x(this.#times[index]), y(this.#values[index] ?? 0)]);
      const text = points.map(([x, height]) => `${x.toFixed(1)} ${height.toFixed(1)}`).join("L");
      line += `M${text}`;
      area += `M${points[0][0].toFixed(1)} ${HEIGHT}L${text}L${points[points.length - 1][0].toFixed(1)} ${HEIGHT}z`;
      if (points.length === 1) dots += `M${text}h0`;
    }
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
    this.dots.setAttribute("d", dots);
  }

  /** @param {PointerEvent} event */
  #point(event) {
    if (this.#times.length === 0) return;
    const { left, width } = this.plot.getBoundingClientRect();
    const share = (event.clientX - left) / width;
    const [first, last] = [this.#times[0], this.#times[this.#times.length - 1]];
    const at = first + share * (last - first);
    let index = this.#times.findIndex((time) => time >= at);
    if (index < 0) index = this.#times.length - 1;
    const x = this.#x(this.#times[index]);
    this.guide.setAttribute("x1", x);
    this.guide.setAttribute("x2", x);
    this.guide.removeAttribute("hidden");
    const value = this.#values[index];
    this.note.textContent = `${value === null ? "none" : this.unit(value)} at ${timeOfDay(this.#times[index]).slice(0, 8)}`;
  }

  #leave() {
    this.guide.setAttribute("hidden", "");
  }
}

/**
 * The stretches of indexes whose values are known.
 *
 * @param {(number|null)[]} values
 */
function partsOf(values) {
  /** @type {number[][]} */
  const parts = [];
  values.forEach((value, index) => {
    if (value === null) return;
    if (index === 0 || values[index - 1] === null) parts.push([]);
    parts[parts.length - 1].push(index);
  });
  return parts;
}
