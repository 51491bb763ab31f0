// The state of the log, asked for again and again.

import { ApiError, Poll, ask } from "./api.js";

const INTERVAL_MS = 1000;

/** Asks for `api/statistics`, and tells whoever listens. */
export class Status extends EventTarget {
  /** The last answer. @type {any} */
  latest = null;
  /** Why there is none. @type {Error|null} */
  error = null;
  /** @type {string|null} */
  log = null;
  /** @type {Poll|null} */
  #poll = null;

  /** @param {import("./main.js").App} app */
  constructor(app) {
    super();
    this.app = app;
  }

  start() {
    this.log = this.app.place.log;
    this.#poll = new Poll(() => this.#ask(), INTERVAL_MS);
  }

  /** Of another log. */
  restart() {
    this.#poll?.stop();
    this.latest = null;
    this.start();
  }

  async #ask() {
    const log = this.app.place.log;
    try {
      const latest = await ask("api/statistics", this.app.logParameters);
      if (log !== this.log) return;
      this.latest = latest;
      this.error = null;
    } catch (error) {
      this.error = /** @type {Error} */ (error);
    }
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * How the log is, in a word.
 *
 * @param {any} latest
 * @param {Error|null} error
 * @returns {"missing"|"unknown"|"unreachable"|"stored"|"failing"|"closed"|"open"}
 */
export function conditionOf(latest, error) {
  if (error instanceof ApiError && error.status === 404) return "missing";
  if (error) return "unreachable";
  if (!latest) return "unknown";
  if (!latest.live) return "stored";
  if (latest.live.failing_since_ms !== null) return "failing";
  return latest.live.state === "open" ? "open" : "closed";
}
