// A tree of which only the rows in sight are in the page.

import { h, icon } from "./dom.js";
import { VirtualRows } from "./rows.js";

const ROW_HEIGHT = 28;
const DEEPEST = 16;

/**
 * @typedef {{id: number, depth: number, item: any, children: number}} Node_
 */

/** A tree grid. */
export class TreeGrid {
  /** @type {Node_[]} */
  #all = [];
  /** Those that are not below a closed one. @type {Node_[]} */
  #rows = [];
  /** @type {Set<number>} */
  #closed = new Set();
  /** @type {number|null} */
  #active = null;

  /**
   * @param {object} options
   * @param {string} options.label
   * @param {[string, string][]} options.columns class and head
   * @param {(item: any) => {name: Node|string, cells: any[], class?: string}} options.render
   * @param {(item: any|null) => void} options.onSelect
   */
  constructor({ label, columns, render, onSelect }) {
    this.renderItem = render;
    this.columns = columns;
    this.onSelect = onSelect;
    this.name = `tree-${label.replace(/\W+/g, "-")}`;
    this.body = h("div", { class: "rows", role: "rowgroup" });
    const heads = columns.map(([name, text]) => h("div", { class: `tree-${name}`, role: "columnheader" }, text));
    this.element = h(
      "div",
      { class: "tree", role: "treegrid", tabindex: "0", "aria-label": label },
      h("div", { class: "head", role: "rowgroup" }, h("div", { class: "tree-row", role: "row" }, ...heads)),
      this.body,
    );
    this.element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#onKey(event));
    this.body.addEventListener("click", (/** @type {MouseEvent} */ event) => this.#onClick(event));
    this.list = new VirtualRows(this.element, this.body, {
      length: () => this.#rows.length,
      key: (index) => String(this.#rows[index].id),
      height: () => ROW_HEIGHT,
      render: (index) => this.#render(this.#rows[index]),
    });
  }

  close() {
    this.list.close();
  }

  /** @param {Node_[]} nodes in tree order */
  setNodes(nodes) {
    this.#all = nodes;
    this.list.forget();
    this.#update();
  }

  #update() {
    this.#rows = [];
    let hiddenBelow = Infinity;
    for (const node of this.#all) {
      if (node.depth > hiddenBelow) continue;
      hiddenBelow = this.#closed.has(node.id) ? node.depth : Infinity;
      this.#rows.push(node);
    }
    this.list.refresh();
  }

  /** @param {Node_} node */
  #render(node) {
    const { name, cells, class: extra = "" } = this.renderItem(node.item);
    const isOpen = !this.#closed.has(node.id);
    const first = h(
      "div",
      { class: `tree-${this.columns[0][0]}`, role: "gridcell" },
      h("span", { class: "twist" }, node.children > 0 ? icon("chevron") : null),
      name,
    );
    first.style.setProperty("--depth", String(Math.min(node.depth, DEEPEST)));
    const element = h(
      "div",
      {
        class: `tree-row ${extra} ${node.id === this.#active ? "is-active" : ""}`,
        role: "row",
        id: `${this.name}-${node.id}`,
        "aria-level": node.depth + 1,
        "aria-expanded": node.children > 0 ? String(isOpen) : null,
      },
      first,
      ...cells.map((cell, index) => h("div", { class: `tree-${this.columns[index + 1][0]}`, role: "gridcell" }, cell)),
    );
    element.dataset.id = String(node.id);
    return element;
  }

  /** @param {MouseEvent} event */
  #onClick(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const id = Number(/** @type {HTMLElement|null} */ (target.closest(".tree-row"))?.dataset.id ?? NaN);
    if (Number.isNaN(id)) return;
    if (target.closest(".twist")) this.#toggle(id);
    this.#activate(this.#rows.findIndex((node) => node.id === id));
  }

  /**
   * @param {number} id
   * @param {boolean} [open]
   */
  #toggle(id, open = this.#closed.has(id)) {
    const node = this.#rows.find((each) => each.id === id);
    if (!node || node.children === 0) return;
    if (open) this.#closed.delete(id);
    else this.#closed.add(id);
    this.list.forget(String(id));
    this.#update();
  }

  /** @param {number} index */
  #activate(index) {
    const node = this.#rows[index];
    if (!node) return;
    if (this.#active !== null) this.list.elementOf(String(this.#active))?.classList.remove("is-active");
    this.#active = node.id;
    this.list.show(index);
    this.list.elementOf(String(node.id))?.classList.add("is-active");
    this.element.setAttribute("aria-activedescendant", `${this.name}-${node.id}`);
    this.onSelect(node.item);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const index = this.#rows.findIndex((node) => node.id === this.#active);
    const last = this.#rows.length - 1;
    /** @type {Record<string, number>} */
    const places = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: last, PageDown: index + 15, PageUp: index - 15 };
    if (event.key in places) this.#activate(Math.max(0, Math.min(last, places[event.key])));
    else if (event.key === "ArrowRight" && this.#active !== null) this.#toggle(this.#active, true);
    else if (event.key === "ArrowLeft" && this.#active !== null) this.#toggle(this.#active, false);
    else if ((event.key === "Enter" || event.key === " ") && this.#active !== null) this.#toggle(this.#active);
    else return;
    event.preventDefault();
  }
}
