// A list of which only the rows in sight are in the page.

import { eachFrame } from "./dom.js";

const OVERSCAN = 8;

/**
 * @typedef {object} RowSource
 * @property {() => number} length
 * @property {(index: number) => string} key the same row has the same key, whatever its index
 * @property {(index: number) => number} height in px
 * @property {(index: number) => HTMLElement} render
 */

/** Rows of different heights in an element that scrolls. */
export class VirtualRows {
  /** Where each row begins, and the last one ends. */
  #offsets = new Float64Array(1);
  /** @type {Map<string, HTMLElement>} */
  #shown = new Map();
  /** @type {string[]} */
  #keys = [];

  /**
   * @param {HTMLElement} scroller
   * @param {HTMLElement} body within the scroller; the rows are put into it
   * @param {RowSource} source
   * @param {() => void} [onRange] called after the rows in sight have changed
   */
  constructor(scroller, body, source, onRange = () => {}) {
    this.scroller = scroller;
    this.body = body;
    this.source = source;
    this.onRange = onRange;
    this.first = this.last = 0;
    /** Where it is scrolled to, as of the last frame: to ask the browser now could cost a layout. */
    this.top = 0;
    this.schedule = eachFrame(() => this.render());
    scroller.addEventListener("scroll", this.schedule, { passive: true });
    this.observer = new ResizeObserver(this.schedule);
    this.observer.observe(scroller);
  }

  close() {
    this.observer.disconnect();
    this.scroller.removeEventListener("scroll", this.schedule);
  }

  /** The row at the top of what is seen, and how much of it is above. */
  #anchor() {
    const top = this.scroller.scrollTop;
    const index = this.#indexAt(top);
    return { key: this.#keys[index], shift: top - (this.#offsets[index] ?? 0) };
  }

  /**
   * Take in that rows were added, removed or resized. What is seen stays where it is.
   *
   * @param {boolean} [toTop] show the first row instead
   */
  refresh(toTop = false) {
    const anchor = this.#anchor();
    const length = this.source.length();
    this.#offsets = new Float64Array(length + 1);
    this.#keys = new Array(length);
    let place = -1;
    for (let index = 0; index < length; index++) {
      this.#keys[index] = this.source.key(index);
      if (this.#keys[index] === anchor.key) place = index;
      this.#offsets[index + 1] = this.#offsets[index] + this.source.height(index);
    }
    this.body.style.setProperty("height", `${this.#offsets[length]}px`);
    if (toTop) this.scroller.scrollTop = 0;
    else if (place >= 0) this.#moveTo(this.#offsets[place] + anchor.shift);
    this.render();
  }

  /** @param {number} top */
  #moveTo(top) {
    // Assigning what it is already would stop a scroll under way.
    if (Math.abs(this.scroller.scrollTop - top) >= 1) this.scroller.scrollTop = top;
  }

  /** @param {number} offset */
  #indexAt(offset) {
    let low = 0;
    let high = Math.max(this.#offsets.length - 2, 0);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#offsets[middle] <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  get #viewHeight() {
    return this.scroller.clientHeight - (this.body.offsetTop || 0);
  }

  /** Put the rows in sight into the page. */
  render() {
    const length = this.#keys.length;
    const top = (this.top = this.scroller.scrollTop);
    const firstSeen = this.#indexAt(top);
    const lastSeen = this.#indexAt(top + this.#viewHeight);
    this.first = firstSeen;
    this.last = Math.min(lastSeen, length - 1);
    const from = Math.max(firstSeen - OVERSCAN, 0);
    const to = Math.min(lastSeen + OVERSCAN, length - 1);
    const wanted = new Set(this.#keys.slice(from, to + 1));
    for (const [key, element] of this.#shown) {
      if (!wanted.has(key)) {
        element.remove();
        this.#shown.delete(key);
      }
    }
    // In the order in which they are read out.
    let next = this.body.firstElementChild;
    for (let index = from; index <= to; index++) {
      const element = this.#elementAt(index);
      if (element === next) next = element.nextElementSibling;
      else this.body.insertBefore(element, next);
    }
    this.onRange();
  }

  /** @param {number} index */
  #elementAt(index) {
    const key = this.#keys[index];
    let element = this.#shown.get(key);
    if (!element) {
      element = this.source.render(index);
      this.#shown.set(key, element);
    }
    element.style.setProperty("transform", `translateY(${this.#offsets[index]}px)`);
    return element;
  }

  /**
   * The element of a row, if it is in the page.
   *
   * @param {string} key
   */
  elementOf(key) {
    return this.#shown.get(key);
  }

  /**
   * Make a row anew the next time it is shown.
   *
   * @param {string} [key] by default all
   */
  forget(key) {
    for (const [each, element] of this.#shown) {
      if (key === undefined || key === each) {
        element.remove();
        this.#shown.delete(each);
      }
    }
  }

  /**
   * Scroll as little as is needed to see a row, or so that it is in the middle.
   *
   * @param {number} index
   * @param {boolean} [toMiddle]
   */
  show(index, toMiddle = false) {
    const view = this.#viewHeight;
    const [top, bottom] = [this.#offsets[index], this.#offsets[index + 1]];
    const { scrollTop } = this.scroller;
    if (toMiddle) this.scroller.scrollTop = Math.max(0, top - view / 3);
    else if (top < scrollTop) this.scroller.scrollTop = top;
    else if (bottom > scrollTop + view) this.scroller.scrollTop = Math.min(top, bottom - view);
    this.render();
  }
}
