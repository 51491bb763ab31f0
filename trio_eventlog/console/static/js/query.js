// What is shown, and the address that says so. Pure.

import { parseExact, stringifyExact } from "./exact.js";

/** The filters that are strings, each under its own name. */
export const STRING_FIELDS = ["member_id", "module", "run_id", "step_id", "identity", "mob_id"];

/** What people call the fields. */
export const FIELD_NAMES = /** @type {Record<string, string>} */ ({
  event_type: "Type",
  member_id: "Member",
  module: "Module",
  run_id: "Run",
  step_id: "Step",
  identity: "Identity",
  mob_id: "Mob",
});

export const VIEWS = ["events", "runs", "tasks", "health"];

/**
 * @typedef {object} Filters
 * @property {string[]} types any of these
 * @property {Record<string, string>} strings by name
 * @property {Map<string, any>} fields exact values of keys of the payload, as `parseExact` returns them
 * @property {number|null} since
 * @property {number|null} until
 */

/**
 * @typedef {object} Place
 * @property {string} view
 * @property {string|null} log
 * @property {Filters} filters
 * @property {string|null} open the seq of the event that is open
 * @property {string|null} run the run of the views of runs and tasks
 * @property {string|null} tab of the view of tasks
 */

/** @returns {Filters} */
export function noFilters() {
  return { types: [], strings: {}, fields: new Map(), since: null, until: null };
}

/**
 * @param {Filters} filters
 * @returns {Filters}
 */
export function copyOf(filters) {
  return {
    ...filters,
    types: [...filters.types],
    strings: { ...filters.strings },
    fields: new Map(filters.fields),
  };
}

/** @param {Filters} filters */
export function isFiltered(filters) {
  return (
    filters.since !== null ||
    filters.until !== null ||
    filters.types.length > 0 ||
    filters.fields.size > 0 ||
    Object.keys(filters.strings).length > 0
  );
}

/**
 * The parameters of the interface for these filters.
 *
 * @param {Filters} filters
 * @returns {[string, string][]}
 */
export function filterParameters(filters) {
  /** @type {[string, string][]} */
  const found = filters.types.map((type) => ["event_type", type]);
  for (const name of STRING_FIELDS) {
    if (Object.hasOwn(filters.strings, name)) found.push([name, filters.strings[name]]);
  }
  if (filters.fields.size > 0) {
    const pairs = [...filters.fields].map(([key, value]) => `${JSON.stringify(key)}:${stringifyExact(value)}`);
    found.push(["fields", `{${pairs.join(",")}}`]);
  }
  if (filters.since !== null) found.push(["since_ms", String(filters.since)]);
  if (filters.until !== null) found.push(["until_ms", String(filters.until)]);
  return found;
}

/** @param {string|null} digits */
function millisecondsOf(digits) {
  return digits !== null && /^\d{1,15}$/.test(digits) ? Number(digits) : null;
}

/** @param {string|null} text */
function fieldsOf(text) {
  try {
    const value = text === null ? {} : parseExact(text);
    return new Map(value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : []);
  } catch {
    return new Map();
  }
}

/**
 * What an address asks for; what makes no sense is ignored.
 *
 * @param {string} search the part from `?` on
 * @returns {Place}
 */
export function readPlace(search) {
  const parameters = new URLSearchParams(search);
  const filters = noFilters();
  filters.types = [...new Set(parameters.getAll("event_type"))];
  for (const name of STRING_FIELDS) {
    const value = parameters.get(name);
    if (value !== null) filters.strings[name] = value;
  }
  filters.fields = fieldsOf(parameters.get("fields"));
  filters.since = millisecondsOf(parameters.get("since_ms"));
  filters.until = millisecondsOf(parameters.get("until_ms"));
  const view = parameters.get("view") ?? "events";
  const open = parameters.get("open");
  return {
    view: VIEWS.includes(view) ? view : "events",
    log: parameters.get("log"),
    filters,
    open: open !== null && /^\d{1,20}$/.test(open) ? open : null,
    run: parameters.get("run"),
    tab: parameters.get("tab"),
  };
}

/**
 * The address of a place.
 *
 * @param {Place} place
 * @returns {string} from `?` on; `?` alone for the first page
 */
export function writePlace(place) {
  const parameters = new URLSearchParams();
  if (place.view !== "events") parameters.set("view", place.view);
  if (place.log !== null) parameters.set("log", place.log);
  if (place.run !== null) parameters.set("run", place.run);
  if (place.tab !== null) parameters.set("tab", place.tab);
  for (const [name, value] of filterParameters(place.filters)) parameters.append(name, value);
  if (place.open !== null) parameters.set("open", place.open);
  return `?${parameters}`;
}

/**
 * The filter that finds events with this value.
 *
 * @param {Filters} filters
 * @param {string} field `event_type`, one of `STRING_FIELDS`, or `fields.KEY`
 * @param {any} value
 * @param {boolean} [on] false: take it away
 * @returns {Filters}
 */
export function withFilter(filters, field, value, on = true) {
  const changed = copyOf(filters);
  if (field === "event_type") {
    changed.types = changed.types.filter((type) => type !== value);
    if (on) changed.types.push(value);
  } else if (STRING_FIELDS.includes(field)) {
    if (on) changed.strings[field] = value;
    else delete changed.strings[field];
  } else {
    const key = field.slice("fields.".length);
    if (on) changed.fields.set(key, value);
    else changed.fields.delete(key);
  }
  return changed;
}

/**
 * @param {Filters} filters
 * @param {number|null} since
 * @param {number|null} until
 * @returns {Filters}
 */
export function withRange(filters, since, until) {
  return { ...copyOf(filters), since, until };
}

/**
 * The field under which a key at the top level of a payload is filtered by.
 *
 * @param {string} key
 * @param {any} value
 */
export function fieldOfKey(key, value) {
  const isScope = ["run_id", "step_id", "identity", "mob_id"].includes(key) && typeof value === "string";
  return isScope ? key : `fields.${key}`;
}

/**
 * A value as somebody typed it: JSON if it is, a string otherwise.
 *
 * @param {string} text
 */
export function typedValue(text) {
  try {
    return parseExact(text);
  } catch {
    return text;
  }
}
