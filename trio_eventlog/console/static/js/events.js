// The view of events: the timeline, the facets and the table, kept together.

import { ApiError, Latest, ask, isAbort } from "./api.js";
import { button, h, icon } from "./dom.js";
import { Facets } from "./facets.js";
import { FilterBar } from "./filterbar.js";
import { FollowControl } from "./followcontrol.js";
import { Follower } from "./follow.js";
import { filterParameters, isFiltered, noFilters, withFilter, withRange } from "./query.js";
import { EventTable } from "./table.js";
import { count, counted } from "./text.js";
import { Timeline } from "./timeline.js";
import { EventWindow, eventRow } from "./window.js";

const RETRY_MS = 3000;
/** Between two counts while events come: at least this, and this many times what a count takes. */
const RECOUNT_MS = 2000;
const RECOUNT_FACTOR = 5;

/** @typedef {import("./query.js").Place} Place */

/** The view. */
export class EventsView {
  /** @type {Place} */
  #place;
  #isPaused = false;
  #window = new EventWindow([], () => {});
  /** @type {Follower|null} */
  #follower = null;
  #histogram = new Latest();
  #count = new Latest();
  #countTimer = 0;
  #retryTimer = 0;
  /** How far the log had come when it was counted. */
  #countedThrough = -1n;
  /** The count under way; null if there is none. @type {object|null} */
  #counting = null;
  #histogramData = /** @type {any} */ (null);
  /** @type {Set<string>} */
  #busy = new Set();

  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.#place = app.place;
    this.timeline = new Timeline({
      onZoom: (since, until) => this.#filter(withRange(this.#place.filters, since, until)),
      onGo: (ms) => this.#goToTime(ms),
    });
    this.facets = new Facets((field, value, on) => this.#filter(withFilter(this.#place.filters, field, value, on)));
    this.bar = new FilterBar(
      (filters) => this.#filter(filters),
      (field) => this.facets.valuesOf(field),
      () => this.#shownRange(),
    );
    this.table = new EventTable(this.#tableHandlers());
    this.follow = new FollowControl({
      onPause: () => this.#pause(!this.#isPaused),
      onNewest: () => this.#showNewest(),
    });
    this.element = this.#build();
    this.table.element.addEventListener("scroll", () => this.#follower?.schedule(), { passive: true });
  }

  #build() {
    this.total = h("span", { class: "total", role: "status" });
    this.hint = h("span", { class: "hint gap-hint" }, "Missing numbers are not shown while there are filters.");
    this.notice = h("div", { class: "notice is-error", role: "alert", hidden: true });
    this.empty = h("div", { class: "empty", hidden: true });
    this.side = h(
      "aside",
      { class: "side", "aria-label": "Facets", id: "facets" },
      button({ icon: "close", label: "Close the facets", class: "is-icon side-close", onclick: () => this.#toggleSide(false) }),
      this.facets.element,
    );
    const sideButton = button({ icon: "sliders", label: "Facets", text: "Facets", class: "side-open", onclick: () => this.#toggleSide(true) });
    const edges = h(
      "div",
      { class: "group edges" },
      button({ icon: "up", label: "Newest events", class: "is-icon", onclick: () => this.#showNewest() }),
      button({ icon: "down", label: "Oldest events", class: "is-icon", onclick: () => this.#load((window) => window.loadOldest(), true) }),
    );
    return h(
      "div",
      { class: "events" },
      this.side,
      h(
        "div",
        { class: "stage" },
        this.bar.element,
        this.timeline.element,
        h("div", { class: "toolbar" }, sideButton, this.total, this.hint, this.follow.control, edges),
        this.notice,
        h("div", { class: "table-wrap" }, this.follow.pill, this.table.element, this.empty),
      ),
    );
  }

  /** @returns {import("./table.js").TableHandlers} */
  #tableHandlers() {
    return {
      onFilter: (field, value) => this.#filter(withFilter(this.#place.filters, field, value)),
      onRun: (run) => this.app.go({ ...this.app.place, view: "runs", run, open: null, filters: noFilters() }),
      onAround: (seq) => this.app.go({ ...this.#place, filters: noFilters(), open: seq }),
      linkTo: (seq) => this.app.link({ ...this.#place, filters: noFilters(), open: seq }),
      logParameters: () => this.app.logParameters,
      isFiltered: () => isFiltered(this.#place.filters),
      onOpen: (seq) => this.app.note({ ...this.#place, open: seq }),
      onNear: (end) => this.#loadMore(end),
      onRange: (rows) => this.#markRange(rows),
      onEdge: (key) => (key === "Home" ? this.#showNewest() : this.#load((window) => window.loadOldest(), true)),
    };
  }

  /** @param {boolean} on */
  #toggleSide(on) {
    this.side.classList.toggle("is-shown", on);
    if (on) this.side.querySelector("button")?.focus();
  }

  get #parameters() {
    return [...this.app.logParameters, ...filterParameters(this.#place.filters)];
  }

  /** @param {import("./query.js").Filters} filters */
  #filter(filters) {
    this.#toggleSide(false);
    this.app.go({ ...this.#place, filters, open: null });
  }

  /**
   * Show another place.
   *
   * @param {Place} place
   */
  show(place) {
    this.#place = place;
    this.bar.show(place.filters);
    this.hint.hidden = !isFiltered(place.filters);
    this.#recount();
    if (place.open !== null) this.#openAt(place.open);
    else this.#load((window) => window.loadNewest());
  }

  close() {
    clearTimeout(this.#countTimer);
    clearTimeout(this.#retryTimer);
    this.#counting = null;
    this.#histogram.stop();
    this.#count.stop();
    this.#window.close();
    this.#follower?.close();
    this.table.close();
  }

  // --- the table ------------------------------------------------------------------------------------

  /** @param {string} seq */
  async #openAt(seq) {
    const window = await this.#load((each) => each.loadAround(seq));
    if (!window) return;
    if (!this.table.reveal(seq)) this.#fail("Event " + seq + " is not in this log, or does not match the filters.");
  }

  /** @param {number} ms the newest event before this becomes the first one */
  async #goToTime(ms) {
    const until = Math.min(ms, this.#place.filters.until ?? Infinity);
    const parameters = [...this.#parameters.filter(([name]) => name !== "until_ms"), ["until_ms", String(until)]];
    try {
      const page = await ask("api/events", /** @type {any} */ ([...parameters, ["limit", "1"], ["max_payload", "0"]]));
      const seq = page.events[0]?.seq;
      if (seq === undefined) return;
      const window = await this.#load((each) => each.loadAround(seq));
      const index = window?.rows.findIndex((row) => row.key === eventRow(page.events[0]).key) ?? -1;
      if (index >= 0) this.table.list.show(index, true);
    } catch (error) {
      this.#fail(/** @type {Error} */ (error).message);
    }
  }

  #showNewest() {
    if (this.#window.above === null && this.#window.rows.length > 0) {
      this.table.element.scrollTop = 0;
      this.table.list.render();
      this.#pause(false);
      this.#follower?.flush(true);
      return;
    }
    this.#load((window) => window.loadNewest());
  }

  /**
   * Fill a new window, and show it.
   *
   * @param {(window: EventWindow) => Promise<void>} fill
   * @param {boolean} [toBottom]
   */
  async #load(fill, toBottom = false) {
    clearTimeout(this.#retryTimer);
    this.#window.close();
    this.#follower?.close();
    this.#follower = null;
    const window = (this.#window = new EventWindow(this.#parameters, () => this.#tellEnd()));
    this.#busy = new Set(["first"]);
    this.element.classList.add("is-loading");
    this.#tellEnd();
    try {
      await fill(window);
    } catch (error) {
      if (!isAbort(error)) this.#failToLoad(error, fill, toBottom);
      return null;
    }
    if (window !== this.#window) return null;
    this.#busy.clear();
    this.notice.hidden = true;
    this.element.classList.remove("is-loading");
    this.table.setWindow(window);
    if (toBottom) this.table.list.show(window.rows.length, false);
    this.#tellEnd();
    this.#startFollowing();
    return window;
  }

  /**
   * @param {any} error
   * @param {(window: EventWindow) => Promise<void>} fill
   * @param {boolean} toBottom
   */
  #failToLoad(error, fill, toBottom) {
    this.#busy.clear();
    this.element.classList.remove("is-loading");
    this.#fail(error.message, () => this.#load(fill, toBottom));
    this.#tellEnd();
    if (error.isPassing) this.#retryTimer = setTimeout(() => this.#load(fill, toBottom), RETRY_MS);
  }

  /**
   * @param {string} message
   * @param {() => void} [again]
   */
  #fail(message, again) {
    const retry = again && button({ label: "Try again", text: "Try again", class: "is-small", onclick: again });
    this.notice.replaceChildren(icon("warning"), h("span", {}, message), retry ?? "");
    this.notice.hidden = false;
  }

  /** @param {"above"|"below"} end */
  async #loadMore(end) {
    const window = this.#window;
    if (this.#busy.size > 0) return;
    this.#busy.add(end);
    this.#tellEnd();
    try {
      await (end === "below" ? window.loadOlder() : window.loadNewer());
      this.notice.hidden = true;
    } catch (error) {
      if (isAbort(error)) return;
      this.#fail(/** @type {Error} */ (error).message, () => this.#loadMore(end));
      // Scrolling would ask again at once.
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
    if (window !== this.#window) return;
    this.#busy.delete(end);
    this.table.refresh();
    this.#tellEnd();
    this.#follower?.flush();
  }

  #tellEnd() {
    const { searching, below, rows } = this.#window;
    const isBusy = this.#busy.size > 0;
    const pruned = this.app.status.latest?.store?.pruned_seq;
    let text = "";
    if (searching !== null) text = `Searching, at number ${count(BigInt(searching))}…`;
    else if (below !== null || isBusy) text = "Loading…";
    else if (rows.length === 0) text = "";
    else if (isFiltered(this.#place.filters)) text = "There are no older events that match.";
    else text = pruned && pruned !== "0" ? `Events up to number ${count(BigInt(pruned))} were pruned.` : "This is where the log begins.";
    this.table.setEnd(text, text !== "" && (isBusy || below !== null));
    this.#tellEmpty(!isBusy && rows.length === 0 && this.notice.hidden);
  }

  /** @param {boolean} isEmpty */
  #tellEmpty(isEmpty) {
    this.empty.hidden = !isEmpty;
    if (!isEmpty) return;
    const filtered = isFiltered(this.#place.filters);
    this.empty.replaceChildren(
      h("p", { class: "empty-title" }, filtered ? "No event matches these filters" : "No events yet"),
      h("p", {}, filtered ? "Take one away, or widen the range of time." : "The first one will appear here as soon as it is stored."),
      filtered ? button({ label: "Clear all filters", text: "Clear all filters", onclick: () => this.#filter(noFilters()) }) : "",
    );
  }

  /** @param {import("./window.js").Row[]} rows in sight */
  #markRange(rows) {
    const times = rows.filter((row) => row.kind === "event").map((row) => Number(row.event.timestamp_ms));
    if (times.length > 0) this.timeline.setVisible(Math.min(...times), Math.max(...times));
  }

  // --- live -----------------------------------------------------------------------------------------

  #startFollowing() {
    const { filters } = this.#place;
    const isPast = filters.until !== null && filters.until < Date.now();
    this.follow.setAvailable(!isPast);
    if (isPast) return;
    const window = this.#window;
    const start = window.lastSeq;
    const follower = new Follower(this.#parameters, start, !isFiltered(filters), {
      canShow: () => this.table.isAtTop && !this.table.hasOpen && this.#window.above === null && this.#busy.size === 0,
      onRows: (rows) => {
        this.#window.prepend(rows);
        this.table.refresh(true);
        this.#tellEnd();
      },
      onReload: () => this.#load((each) => each.loadNewest()),
      onChange: () => this.#followChanged(),
    });
    follower.isPaused = this.#isPaused;
    this.#follower = follower;
    this.#countedThrough = follower.last;
    this.#followChanged();
  }

  /** @param {boolean} isPaused */
  #pause(isPaused) {
    // Here too, since there may be another follower from now on.
    this.#isPaused = isPaused;
    this.#follower?.pause(isPaused);
  }

  #followChanged() {
    const follower = this.#follower;
    if (!follower) return;
    this.follow.show(follower);
    this.#recountLater();
  }

  // --- counts ---------------------------------------------------------------------------------------

  /** Count again in a while, if there is anything new. One count at a time: a slow one must come to its end. */
  #recountLater() {
    const isNew = this.#follower !== null && this.#follower.last !== this.#countedThrough;
    if (!isNew || this.#counting || this.#countTimer) return;
    this.#countTimer = setTimeout(() => this.#recount(), this.#recountAfter);
  }

  #recountAfter = RECOUNT_MS;

  async #recount() {
    clearTimeout(this.#countTimer);
    this.#countTimer = 0;
    const own = (this.#counting = {});
    this.#countedThrough = this.#follower?.last ?? this.#countedThrough;
    const begun = performance.now();
    const facets = this.facets.load(this.app.logParameters, this.#place.filters);
    let mayWorkLater = false;
    try {
      await this.#countBuckets();
    } catch (error) {
      if (!isAbort(error)) this.total.textContent = "";
      mayWorkLater = error instanceof ApiError && error.isPassing;
    }
    mayWorkLater = (await facets) || mayWorkLater;
    if (own !== this.#counting) return;
    this.#counting = null;
    this.#recountAfter = Math.max(RECOUNT_MS, RECOUNT_FACTOR * (performance.now() - begun));
    if (mayWorkLater) this.#countTimer = setTimeout(() => this.#recount(), RETRY_MS);
    else this.#recountLater();
  }

  /** The timeline reaches from the first event to the last: if a clock was set back, some lie outside. */
  async #countBuckets() {
    const { since, until } = this.#place.filters;
    const mayLieOutside = since === null || until === null;
    // First: an event that comes between the two is then in the timeline, and not taken for one outside.
    const all = mayLieOutside ? await this.#count.ask("api/count", this.#parameters) : null;
    const parameters = /** @type {[string, string][]} */ ([...this.#parameters, ["buckets", String(this.timeline.buckets)]]);
    const data = (this.#histogramData = await this.#histogram.ask("api/histogram", parameters));
    this.timeline.setData(data);
    if (all?.is_exact && data.is_complete && all.count > data.total) {
      this.timeline.tell(`${counted(all.count - data.total, "event")} more, at times outside of this range.`);
      data.total = all.count;
    }
    this.#tellTotal();
  }

  #tellTotal() {
    const { total, is_complete: isComplete } = this.#histogramData;
    const text = `${counted(total, "event")}${isComplete ? "" : " counted"}`;
    if (this.total.textContent !== text) this.total.textContent = text;
  }

  #shownRange() {
    const data = this.#histogramData;
    return data && data.since_ms !== null ? { since: data.since_ms, until: data.until_ms } : null;
  }
}
