// The state of the log: what waits, what was lost, how long a flush takes.

import { h } from "./dom.js";
import { Chart } from "./chart.js";
import { conditionOf } from "./status.js";
import { count, counted, dateTime, duration, size, visible } from "./text.js";

const HEADLINES = /** @type {Record<string, [string, string]>} */ ({
  unknown: ["Asking…", ""],
  missing: ["There is no such log", ""],
  unreachable: ["The console does not answer", "It is asked again every second."],
  stored: ["A stored log", "No program of this console writes to it, so there is no state but that of the store."],
  failing: ["The store is failing", "Events are kept and retried. None is lost while there is room."],
  closed: ["The log is closed", "It takes no more events."],
  open: ["All is well", "Events are stored as they come."],
});

const LOSSY = ["Events were lost", "Events are stored as they come again. What was lost stays lost; the reasons are below."];

/** The view. */
export class HealthView {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.light = h("span", { class: "status-light" });
    this.title = h("h1", {});
    this.lead = h("p", { class: "muted" });
    this.banner = h("section", { class: "banner", role: "status" }, this.light, h("div", {}, this.title, this.lead));
    this.cards = h("dl", { class: "cards" });
    this.charts = h("section", { class: "charts", "aria-label": "The last two minutes" });
    this.flush = new Chart({ title: "Flush latency", unit: duration, tone: "tone-1" });
    this.rate = new Chart({ title: "Events per second", unit: (number) => count(Math.round(number)), tone: "tone-2" });
    this.pending = new Chart({ title: "Pending events", unit: (number) => count(Math.round(number)), tone: "tone-warning" });
    this.charts.append(this.flush.element, this.rate.element, this.pending.element);
    this.more = h("section", { class: "more" });
    this.element = h("div", { class: "page health" }, this.banner, this.cards, this.charts, this.more);
    this.update = () => this.#update();
    app.status.addEventListener("change", this.update);
  }

  show() {
    this.#update();
  }

  close() {
    this.app.status.removeEventListener("change", this.update);
  }

  #update() {
    const { latest, error } = this.app.status;
    const condition = conditionOf(latest, error);
    const isLossy = condition === "open" && latest.live.lost_total > 0;
    const [title, lead] = isLossy ? LOSSY : HEADLINES[condition];
    this.banner.dataset.condition = isLossy ? "lossy" : condition;
    setText(this.title, title);
    const since = condition === "failing" ? ` Since ${dateTime(latest.live.failing_since_ms).slice(0, 19)}.` : "";
    setText(this.lead, error ? `${error.message} ${lead}` : lead + since);
    if (!latest) return;
    this.cards.replaceChildren(...cardsOf(latest));
    this.charts.hidden = !latest.live;
    if (latest.live) this.#chart(latest.live);
    this.more.replaceChildren(moreOf(latest));
  }

  /** @param {any} live */
  #chart({ samples, interval_ms: interval }) {
    const times = samples.map((/** @type {any} */ sample) => sample.at_ms);
    this.flush.setData(times, samples.map((/** @type {any} */ sample) => sample.flush_ms));
    this.pending.setData(times, samples.map((/** @type {any} */ sample) => sample.pending));
    const rates = samples.map((/** @type {any} */ sample, /** @type {number} */ index) => {
      const before = samples[index - 1];
      return before ? ((sample.ingested - before.ingested) * 1000) / Math.max(1, sample.at_ms - before.at_ms) : null;
    });
    this.rate.setData(times, rates);
    this.charts.dataset.interval = String(interval);
  }
}

/** @param {HTMLElement} element @param {string} text */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * @param {string} term
 * @param {any} value
 * @param {string} [note]
 * @param {string} [tone]
 */
function card(term, value, note = "", tone = "") {
  return h("div", { class: `card ${tone}` }, h("dt", {}, term), h("dd", {}, h("strong", {}, value), note ? h("span", { class: "muted" }, note) : null));
}

/** @param {any} latest */
function cardsOf({ store, live }) {
  const stored = card("Last number", count(BigInt(store.last_seq)), visible(store.kind));
  if (!live) return [stored];
  const reasons = Object.entries(live.lost).map(([reason, number]) => `${count(/** @type {number} */ (number))} ${reason}`);
  return [
    card("Ingested", count(live.ingested), counted(live.persisted, "event") + " stored"),
    card("Pending", count(live.pending), size(live.pending_bytes), live.pending > 1000 ? "is-warning" : ""),
    card("Spilled to disk", count(live.spilled), size(live.spill_bytes), live.spilled > 0 ? "is-warning" : ""),
    card("Lost", count(live.lost_total), reasons.join(", ") || "none", live.lost_total > 0 ? "is-failure" : ""),
    card("Failed appends", count(live.failures), `of ${count(live.appends + live.failures)}`, live.failing_since_ms !== null ? "is-failure" : ""),
    stored,
  ];
}

/** @param {any} latest */
function moreOf({ store, live, console: own }) {
  const rows = [["Store", visible(store.kind)], ["Pruned up to", store.pruned_seq === null ? "unknown" : count(BigInt(store.pruned_seq))]];
  if (live) {
    rows.push(
      ["State", visible(live.state)],
      ["Duplicates", count(live.duplicate)],
      ["Filtered out", count(live.filtered)],
      ["Last number assigned", count(BigInt(live.last_assigned_seq))],
      ["Last number durable", count(BigInt(live.last_durable_seq))],
    );
  }
  rows.push(["Streams of this console", `${count(own.streams)} of ${count(own.max_streams)}`]);
  return h("table", { class: "plain" }, h("caption", {}, "Details"), h("tbody", {}, ...rows.map(([term, value]) => h("tr", {}, h("th", { scope: "row" }, term), h("td", {}, value)))));
}
