// The bar of filters: the range of time, one chip for each filter, and a form to add one.

import { button, h, icon } from "./dom.js";
import { stringifyExact } from "./exact.js";
import { menu } from "./menu.js";
import { FIELD_NAMES, STRING_FIELDS, isFiltered, noFilters, typedValue, withFilter, withRange } from "./query.js";
import { rangeText, visible } from "./text.js";

const MINUTE = 60_000;
/** @type {[string, number][]} */
const PRESETS = [
  ["Last minute", MINUTE],
  ["Last 5 minutes", 5 * MINUTE],
  ["Last 15 minutes", 15 * MINUTE],
  ["Last hour", 60 * MINUTE],
  ["Last 6 hours", 360 * MINUTE],
  ["Last 24 hours", 1440 * MINUTE],
  ["Last 7 days", 10_080 * MINUTE],
];

/** @typedef {import("./query.js").Filters} Filters */

/** The bar. */
export class FilterBar {
  /** @type {Filters} */
  #filters = noFilters();

  /**
   * @param {(filters: Filters) => void} onChange
   * @param {(field: string) => string[]} suggest values of a field
   * @param {() => {since: number, until: number}|null} range what the timeline shows
   */
  constructor(onChange, suggest, range) {
    this.onChange = onChange;
    this.suggest = suggest;
    this.range = range;
    this.time = menu({ icon: "clock", label: "Range of time", text: "All time", class: "time" }, () => this.#timePanel());
    this.adder = menu({ icon: "plus", label: "Add a filter", text: "Filter" }, () => this.#addPanel());
    this.chips = h("div", { class: "chips", role: "list", "aria-label": "Filters" });
    this.clear = button({
      label: "Clear all filters",
      text: "Clear",
      class: "is-quiet",
      onclick: () => this.onChange(noFilters()),
    });
    this.steps = h(
      "div",
      { class: "group" },
      button({ icon: "left", label: "Earlier", class: "is-icon", onclick: () => this.#shift(-0.5) }),
      button({ icon: "right", label: "Later", class: "is-icon", onclick: () => this.#shift(0.5) }),
      button({ icon: "zoom-out", label: "Zoom out", class: "is-icon", onclick: () => this.#widen() }),
    );
    this.element = h(
      "div",
      { class: "filterbar", role: "group", "aria-label": "Filters" },
      this.time.button,
      this.steps,
      this.chips,
      this.adder.button,
      this.clear,
      this.time.panel,
      this.adder.panel,
    );
  }

  /** @param {Filters} filters */
  show(filters) {
    this.#filters = filters;
    const label = this.time.button.querySelector("span");
    if (label) label.textContent = rangeText(filters.since, filters.until);
    this.chips.replaceChildren(...this.#chipsOf(filters));
    this.clear.hidden = !isFiltered(filters);
    this.steps.hidden = filters.since === null && filters.until === null;
  }

  /** @param {Filters} filters */
  #chipsOf(filters) {
    const chips = filters.types.map((type) => this.#chip("event_type", FIELD_NAMES.event_type, type, type));
    for (const [name, value] of Object.entries(filters.strings)) {
      chips.push(this.#chip(name, FIELD_NAMES[name], value, value));
    }
    for (const [key, value] of filters.fields) {
      chips.push(this.#chip(`fields.${key}`, visible(key, 30), stringifyExact(value), value));
    }
    return chips;
  }

  /**
   * @param {string} field
   * @param {string} name
   * @param {string} text
   * @param {any} value
   */
  #chip(field, name, text, value) {
    const label = `Remove the filter ${name} = ${visible(text, 40)}`;
    const onclick = () => this.onChange(withFilter(this.#filters, field, value, false));
    return h(
      "span",
      { class: "chip", role: "listitem" },
      h("span", { class: "chip-name" }, name),
      h("bdi", { class: "chip-value", title: visible(text) }, visible(text, 60)),
      h("button", { type: "button", class: "chip-close", "aria-label": label, title: label, onclick }, icon("close")),
    );
  }

  /** @param {number} share of the range */
  #shift(share) {
    const { since, until } = this.#filters;
    const shown = this.range();
    const from = since ?? shown?.since ?? 0;
    const to = until ?? Math.max(shown?.until ?? Date.now(), from + 1);
    const by = Math.round((to - from) * share);
    this.onChange(withRange(this.#filters, Math.max(0, from + by), to + by));
  }

  #widen() {
    const { since, until } = this.#filters;
    const shown = this.range();
    const from = since ?? shown?.since ?? 0;
    const to = until ?? Math.max(shown?.until ?? Date.now(), from + 1);
    const by = Math.ceil((to - from) / 2);
    this.onChange(withRange(this.#filters, Math.max(0, from - by), to + by));
  }

  /**
   * @param {number|null} since
   * @param {number|null} until
   */
  #pick(since, until) {
    this.time.close();
    this.onChange(withRange(this.#filters, since, until));
  }

  #timePanel() {
    const { since, until } = this.#filters;
    const presets = PRESETS.map(([label, ms]) =>
      button({ label, text: label, class: "is-menu", onclick: () => this.#pick(Date.now() - ms, null) }),
    );
    const all = button({ label: "All time", text: "All time", class: "is-menu", onclick: () => this.#pick(null, null) });
    const from = momentInput(since);
    const to = momentInput(until);
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#pick(momentOf(from), momentOf(to));
    };
    return h(
      "div",
      { class: "time-panel" },
      h("div", { class: "presets" }, all, ...presets),
      h(
        "form",
        { class: "fields", onsubmit: submit },
        h("label", {}, "From", from),
        h("label", {}, "To (exclusive)", to),
        h("button", { type: "submit", class: "button is-primary" }, "Apply"),
      ),
    );
  }

  #addPanel() {
    const names = ["event_type", ...STRING_FIELDS].map((name) => h("option", { value: name }, FIELD_NAMES[name]));
    const field = h("select", { name: "field" }, ...names, h("option", { value: "fields." }, "Key of the payload…"));
    const key = h("input", { name: "key", autocomplete: "off", spellcheck: "false", placeholder: "order_id" });
    const keyLabel = h("label", { hidden: true }, "Key", key);
    const values = h("datalist", { id: "filter-values" });
    const value = h("input", { name: "value", list: "filter-values", autocomplete: "off", spellcheck: "false" });
    const hint = h("p", { class: "hint" });
    const update = () => {
      const isKey = field.value === "fields.";
      keyLabel.hidden = !isKey;
      key.required = isKey;
      hint.textContent = isKey ? "JSON, or else a string: 42 is a number, \"42\" a string." : "The whole value, exactly.";
      const known = isKey ? [] : this.suggest(field.value);
      values.replaceChildren(...known.map((each) => h("option", { value: each })));
    };
    field.addEventListener("change", update);
    update();
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.adder.close();
      const isKey = field.value === "fields.";
      const name = isKey ? `fields.${key.value}` : field.value;
      this.onChange(withFilter(this.#filters, name, isKey ? typedValue(value.value) : value.value));
    };
    return h(
      "form",
      { class: "fields", onsubmit: submit },
      h("label", {}, "Field", field),
      keyLabel,
      h("label", {}, "Value", value, values),
      hint,
      h("button", { type: "submit", class: "button is-primary" }, "Add filter"),
    );
  }
}

/** @param {number|null} ms */
function momentInput(ms) {
  const input = h("input", { type: "datetime-local", step: "0.001" });
  if (ms !== null) {
    const date = new Date(ms);
    input.value = new Date(ms - date.getTimezoneOffset() * MINUTE).toISOString().slice(0, 23);
  }
  return input;
}

/** @param {HTMLInputElement} input */
function momentOf(input) {
  const ms = input.value === "" ? NaN : new Date(input.value).getTime();
  return Number.isNaN(ms) ? null : Math.max(0, ms);
}
