// The table of events: a tree grid of which only the rows in sight are in the page.

import { detailElement } from "./detail.js";
import { h } from "./dom.js";
import { VirtualRows } from "./rows.js";
import { endElement, rowElement } from "./rowview.js";
import { isThisYear } from "./text.js";
import { EventWindow } from "./window.js";

const NEAR = 60;
const END = "end";
const COLUMNS = [["time", "Time"], ["type", "Type"], ["source", "Source"], ["payload", "Payload"], ["seq", "Seq"]];
const NARROW = matchMedia("(max-width: 720px)");

/**
 * @typedef {import("./detail.js").DetailHandlers & {
 *   onOpen: (seq: string|null) => void,
 *   onNear: (end: "above"|"below") => void,
 *   onRange: (rows: import("./window.js").Row[]) => void,
 *   onEdge: (key: "Home"|"End") => void,
 * }} TableHandlers
 */

/** The table. */
export class EventTable {
  window = new EventWindow([], () => {});
  /** @type {Set<string>} */
  #open = new Set();
  /** Heights of rows that are open. @type {Map<string, number>} */
  #heights = new Map();
  /** @type {string|null} */
  #active = null;
  #end = { text: "", isBusy: false };
  #rowHeight = 34;

  /** @param {TableHandlers} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    const heads = COLUMNS.map(([name, label]) =>
      h("div", { class: `cell cell-${name}`, role: "columnheader" }, label),
    );
    this.body = h("div", { class: "rows", role: "rowgroup" });
    this.element = h(
      "div",
      { class: "table", role: "treegrid", tabindex: "0", "aria-label": "Events, newest first", "aria-rowcount": -1 },
      h("div", { class: "head", role: "rowgroup" }, h("div", { class: "row", role: "row" }, ...heads)),
      this.body,
    );
    this.element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#onKey(event));
    this.body.addEventListener("click", (/** @type {MouseEvent} */ event) => this.#onClick(event));
    this.resizes = new ResizeObserver((entries) => this.#onResize(entries));
    this.list = new VirtualRows(this.element, this.body, this.#source(), () => this.#onRange());
    this.onWidth = () => this.refresh();
    NARROW.addEventListener("change", this.onWidth);
  }

  close() {
    NARROW.removeEventListener("change", this.onWidth);
    this.list.close();
    this.resizes.disconnect();
  }

  get isAtTop() {
    return this.list.top < this.#rowHeight / 2;
  }

  /** Somebody reads: what is shown must not move. */
  get hasOpen() {
    return this.#open.size > 0;
  }

  #source() {
    const rowAt = (/** @type {number} */ index) => this.window.rows[index];
    return {
      length: () => this.window.rows.length + 1,
      key: (/** @type {number} */ index) => rowAt(index)?.key ?? END,
      height: (/** @type {number} */ index) => this.#heights.get(rowAt(index)?.key ?? END) ?? this.#rowHeight,
      render: (/** @type {number} */ index) => this.#render(index),
    };
  }

  /** @param {number} index */
  #render(index) {
    const row = this.window.rows[index];
    if (!row) return endElement(this.#end.text, this.#end.isBusy);
    const element = rowElement(row, this.handlers.onAround);
    element.id = `row-${row.key}`;
    element.dataset.key = row.key;
    // They need room; it is kept, so that nothing moves when they are out of sight.
    if (row.event && !isThisYear(row.event.timestamp_ms)) this.element.classList.add("has-years");
    if (row.key === this.#active) element.classList.add("is-active");
    if (this.#open.has(row.key)) this.#addDetail(element, row);
    return element;
  }

  /**
   * @param {HTMLElement} element
   * @param {import("./window.js").Row} row
   */
  #addDetail(element, row) {
    element.classList.add("is-open");
    element.setAttribute("aria-expanded", "true");
    element.append(detailElement(row.event, this.handlers));
    this.resizes.observe(element);
  }

  /** @param {ResizeObserverEntry[]} entries */
  #onResize(entries) {
    let changed = false;
    for (const { target } of entries) {
      const element = /** @type {HTMLElement} */ (target);
      const key = element.dataset.key ?? "";
      const height = element.offsetHeight;
      if (!element.isConnected || !this.#open.has(key)) this.resizes.unobserve(element);
      else if (height !== this.#heights.get(key)) {
        this.#heights.set(key, height);
        changed = true;
      }
    }
    if (changed) this.list.refresh();
  }

  #onRange() {
    const { first, last } = this.list;
    const rows = this.window.rows;
    if (rows.length > 0) this.handlers.onRange(rows.slice(first, last + 1));
    if (this.window.below !== null && last > rows.length - NEAR) this.handlers.onNear("below");
    if (this.window.above !== null && first < NEAR) this.handlers.onNear("above");
  }

  /**
   * Show other rows.
   *
   * @param {EventWindow} window
   */
  setWindow(window) {
    this.window = window;
    this.#open.clear();
    this.#heights.clear();
    this.#active = null;
    this.element.removeAttribute("aria-activedescendant");
    this.element.classList.remove("has-years");
    this.list.forget();
    this.refresh(true);
  }

  /**
   * Take in that the rows have changed.
   *
   * @param {boolean} [toTop]
   */
  refresh(toTop = false) {
    this.#rowHeight = NARROW.matches ? 58 : 34;
    this.list.refresh(toTop);
  }

  /**
   * What the last row says.
   *
   * @param {string} text
   * @param {boolean} isBusy
   */
  setEnd(text, isBusy) {
    if (text === this.#end.text && isBusy === this.#end.isBusy) return;
    this.#end = { text, isBusy };
    this.list.forget(END);
    this.list.render();
  }

  /** @param {string} key */
  #indexOf(key) {
    return this.window.rows.findIndex((row) => row.key === key);
  }

  /**
   * Open or close a row.
   *
   * @param {string} key
   * @param {boolean} [on] by default the other way
   */
  toggle(key, on = !this.#open.has(key)) {
    const row = this.window.rows[this.#indexOf(key)];
    if (!row || row.kind !== "event" || on === this.#open.has(key)) return;
    if (on) {
      this.#open.add(key);
    } else {
      this.#open.delete(key);
      this.#heights.delete(key);
    }
    const element = this.list.elementOf(key);
    if (element && on) {
      this.#addDetail(element, row);
      this.#heights.set(key, element.offsetHeight);
    } else if (element) {
      this.resizes.unobserve(element);
      element.querySelector(".detail")?.remove();
      element.classList.remove("is-open");
      element.setAttribute("aria-expanded", "false");
    }
    this.list.refresh();
    this.handlers.onOpen(on ? row.event.seq : null);
  }

  /**
   * Open an event, and scroll to it.
   *
   * @param {string} seq
   */
  reveal(seq) {
    const key = `e${seq}`;
    const index = this.#indexOf(key);
    if (index < 0) return false;
    this.#activate(index);
    this.list.show(index, true);
    this.toggle(key, true);
    return true;
  }

  /** @param {number} index */
  #activate(index) {
    const row = this.window.rows[index];
    if (!row) return;
    if (this.#active !== null) this.list.elementOf(this.#active)?.classList.remove("is-active");
    this.#active = row.key;
    this.list.show(index);
    this.list.elementOf(row.key)?.classList.add("is-active");
    this.element.setAttribute("aria-activedescendant", `row-${row.key}`);
  }

  /** @param {MouseEvent} event */
  #onClick(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const element = /** @type {HTMLElement|null} */ (target.closest(".row"));
    const key = element?.dataset.key;
    if (!key || target.closest(".detail, button, a")) return;
    // Whoever marks text does not want to open the row.
    if (!document.getSelection()?.isCollapsed) return;
    this.#activate(this.#indexOf(key));
    this.toggle(key);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!this.#act(event.key)) return;
    event.preventDefault();
  }

  /** @param {string} key */
  #act(key) {
    const index = this.#active === null ? -1 : this.#indexOf(this.#active);
    const page = Math.max(1, this.list.last - this.list.first - 1);
    /** @type {Record<string, number>} */
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    if (key in moves) {
      // The first press goes to the first row in sight.
      const next = index < 0 ? this.list.first : index + moves[key];
      this.#activate(Math.max(0, Math.min(this.window.rows.length - 1, next)));
    } else if (key === "Enter" || key === " ") {
      if (this.#active) this.toggle(this.#active);
    } else if (key === "ArrowRight" || key === "ArrowLeft") {
      if (this.#active) this.toggle(this.#active, key === "ArrowRight");
    } else if (key === "Home" || key === "End") {
      this.handlers.onEdge(key);
    } else {
      return false;
    }
    return true;
  }
}
