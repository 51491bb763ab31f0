// The most frequent values of the fields, to filter by.

import { ApiError, ask, isAbort } from "./api.js";
import { button, h } from "./dom.js";
import { toneOf } from "./palette.js";
import { FIELD_NAMES, copyOf, filterParameters } from "./query.js";
import { compact, count, visible } from "./text.js";

const FIELDS = ["event_type", "member_id", "module", "run_id", "step_id", "identity", "mob_id"];
const FEW = 8;
const MANY = 50;

/** @typedef {import("./query.js").Filters} Filters */

/** The facets. */
export class Facets {
  /** @type {Map<string, any>} */
  #found = new Map();
  /** @type {Set<string>} */
  #long = new Set();
  /** @type {Filters|null} */
  #filters = null;
  #controller = new AbortController();

  /** @param {(field: string, value: string, on: boolean) => void} onFilter */
  constructor(onFilter) {
    this.onFilter = onFilter;
    this.element = h("div", { class: "facet-list" });
    this.element.append(...Array.from({ length: 3 }, () => h("div", { class: "facet skeleton", "aria-hidden": "true" })));
  }

  /**
   * Values of a field that are known to occur.
   *
   * @param {string} field
   * @returns {string[]}
   */
  valuesOf(field) {
    return this.#found.get(field)?.values.map((/** @type {any} */ each) => each.value) ?? [];
  }

  /**
   * Count anew.
   *
   * @param {[string, string][]} log parameter for the log
   * @param {Filters} filters
   * @returns {Promise<boolean>} whether it failed and may work later
   */
  async load(log, filters) {
    this.#controller.abort();
    const { signal } = (this.#controller = new AbortController());
    this.#filters = filters;
    // The other values of a field are of interest too, so each field that is filtered by is counted without.
    const narrowed = FIELDS.filter((field) => field === "event_type" ? filters.types.length : field in filters.strings);
    const others = FIELDS.filter((field) => !narrowed.includes(field));
    const requests = [{ fields: others, filters }, ...narrowed.map((field) => ({ fields: [field], filters: without(filters, field) }))];
    try {
      const answers = await Promise.all(
        requests.map((request) => ask("api/facets", [...log, ...parametersOf(request)], { signal })),
      );
      this.#found = new Map(answers.flatMap((answer) => answer.facets).map((facet) => [facet.field, facet]));
      this.#render();
      return false;
    } catch (error) {
      if (!isAbort(error)) this.#fail(error);
      return error instanceof ApiError && error.isPassing;
    }
  }

  /** @param {any} error */
  #fail(error) {
    this.element.replaceChildren(h("p", { class: "notice" }, error.message));
  }

  #render() {
    const focused = /** @type {HTMLElement|null} */ (document.activeElement)?.dataset?.facet;
    const parts = FIELDS.map((field) => this.#facetElement(field)).filter((part) => part !== null);
    this.element.replaceChildren(...parts);
    const isEmpty = parts.length === 0;
    if (isEmpty) this.element.append(h("p", { class: "muted" }, "Nothing to count."));
    if (focused) this.element.querySelector(`[data-facet="${CSS.escape(focused)}"]`)?.focus();
  }

  /** @param {string} field */
  #facetElement(field) {
    const facet = this.#found.get(field);
    const chosen = this.#chosen(field);
    const values = facet?.values ?? [];
    // One that is filtered by stays, though nothing may match.
    const missing = chosen.filter((value) => !values.some((/** @type {any} */ each) => each.value === value));
    const areAllKnown = Boolean(facet?.is_complete) && values.length === facet.distinct;
    const all = [...values, ...missing.map((value) => ({ value, count: areAllKnown ? 0 : null }))];
    if (all.length === 0) return null;
    const isLong = this.#long.has(field);
    const shown = all.filter((each, index) => isLong || index < FEW || chosen.includes(each.value));
    const most = Math.max(1, ...all.map((each) => each.count));
    // Where each value occurs once, there is nothing to choose from.
    if (field === "step_id" && most === 1 && all.length > FEW && chosen.length === 0) return null;
    const id = `facet-${field}`;
    const hidden = all.length - shown.length;
    return h(
      "section",
      { class: "facet", "aria-labelledby": id },
      h("h2", { id }, FIELD_NAMES[field], h("small", {}, noteOf(facet))),
      h("ul", {}, ...shown.map((each) => this.#valueElement(field, each, chosen.includes(each.value), most))),
      (isLong || hidden > 0) && this.#moreButton(field, isLong, hidden),
    );
  }

  /** @param {string} field @returns {string[]} */
  #chosen(field) {
    if (!this.#filters) return [];
    if (field === "event_type") return this.#filters.types;
    return field in this.#filters.strings ? [this.#filters.strings[field]] : [];
  }

  /**
   * @param {string} field
   * @param {boolean} isLong
   * @param {number} hidden
   */
  #moreButton(field, isLong, hidden) {
    const text = isLong ? "Fewer" : `${hidden} more`;
    const onclick = () => {
      if (isLong) this.#long.delete(field);
      else this.#long.add(field);
      this.#render();
    };
    return button({ label: `${text}: ${FIELD_NAMES[field]}`, text, class: "is-quiet is-small", onclick });
  }

  /**
   * @param {string} field
   * @param {{value: string, count: number|null}} each null: it was not counted, since others are more frequent
   * @param {boolean} isOn
   * @param {number} most
   */
  #valueElement(field, each, isOn, most) {
    const text = visible(each.value, 120);
    const bar = h("span", { class: "facet-bar" });
    bar.style.setProperty("--share", String((each.count ?? 0) / most));
    const element = h(
      "button",
      {
        type: "button",
        class: "facet-value",
        "aria-pressed": String(isOn),
        "data-facet": `${field}=${each.value.slice(0, 200)}`,
        title: each.count === null ? text : `${text}: ${count(each.count)}`,
        onclick: () => this.onFilter(field, each.value, !isOn),
      },
      bar,
      field === "event_type" ? h("span", { class: `dot ${toneOf(each.value)}` }) : null,
      h("bdi", {}, text === "" ? "(empty)" : text),
      h("span", { class: "facet-count" }, each.count === null ? "" : compact(each.count)),
    );
    return h("li", {}, element);
  }
}

/**
 * What to say beside the name of a field.
 *
 * @param {any} facet
 */
function noteOf(facet) {
  if (!facet) return "";
  if (!facet.is_complete) return "of the newest events";
  return facet.distinct > MANY ? `top ${MANY} of ${count(facet.distinct)}` : "";
}

/** @param {{fields: string[], filters: Filters}} request @returns {[string, string][]} */
function parametersOf({ fields, filters }) {
  const names = fields.map((field) => /** @type {[string, string]} */ (["field", field]));
  return [...filterParameters(filters), ...names, ["top", String(MANY)]];
}

/** @param {Filters} filters @param {string} field */
function without(filters, field) {
  const changed = copyOf(filters);
  if (field === "event_type") changed.types = [];
  else delete changed.strings[field];
  return changed;
}
