// Events as they come.

import { addressOf, ask } from "./api.js";
import { parseExact } from "./exact.js";

/** ms until the next try after the console refused a stream; a browser tries again by itself only if it broke. */
const RETRY_MS = 2000;

/**
 * @typedef {object} StreamHandlers
 * @property {(event: any) => void} onEvent
 * @property {(gap: {first_seq: string, last_seq: string, reason: string}) => void} onGap
 * @property {(state: "live"|"connecting"|"closed") => void} onState
 * @property {() => void} onStale the log is another one now, and ends before the cursor
 */

/** A stream of events that connects again for as long as it is not closed. */
export class EventStream {
  /** @type {EventSource|null} */
  #source = null;
  #timer = 0;
  #isOver = false;
  #isClosed = false;

  /**
   * @param {[string, string][]} parameters
   * @param {string} afterSeq
   * @param {StreamHandlers} handlers
   */
  constructor(parameters, afterSeq, handlers) {
    this.parameters = parameters;
    this.cursor = afterSeq;
    this.handlers = handlers;
    this.#connect();
  }

  #connect() {
    this.handlers.onState("connecting");
    const address = addressOf("api/events/stream", [
      ...this.parameters,
      ["after_seq", this.cursor],
      ["on_lag", "skip"],
    ]);
    const source = new EventSource(address);
    this.#source = source;
    source.onmessage = (message) => this.#take(message, this.handlers.onEvent);
    source.addEventListener("ready", () => this.handlers.onState("live"));
    source.addEventListener("gap", (message) => this.#take(message, this.handlers.onGap));
    source.addEventListener("skipped", (message) =>
      this.#take(message, (gap) => this.handlers.onGap({ ...gap, reason: "skipped" })),
    );
    source.addEventListener("cut_off", (message) => this.#cutOff(parseExact(message.data)));
    source.addEventListener("failed", () => this.#again());
    source.onerror = () => this.#broken(source);
  }

  /**
   * @param {MessageEvent} message
   * @param {(value: any) => void} handler
   */
  #take(message, handler) {
    if (message.lastEventId) this.cursor = message.lastEventId;
    handler(parseExact(message.data));
  }

  /** @param {{reason: string}} marker */
  #cutOff(marker) {
    if (marker.reason === "closed") this.#isOver = true;
    this.#again();
  }

  /** @param {EventSource} source */
  #broken(source) {
    if (this.#isOver) return;
    // Otherwise the browser connects again, and tells what it has.
    if (source.readyState === EventSource.CLOSED) this.#again();
    else this.handlers.onState("connecting");
  }

  /** Whether the log ends before the cursor. A browser does not tell why a stream was refused. */
  async #isStale() {
    const log = this.parameters.filter(([name]) => name === "log");
    try {
      const page = await ask("api/events", [...log, ["limit", "1"], ["max_payload", "0"]]);
      return BigInt(page.last_seq) < BigInt(this.cursor);
    } catch {
      return false;
    }
  }

  #again() {
    this.#source?.close();
    clearTimeout(this.#timer);
    this.handlers.onState(this.#isOver ? "closed" : "connecting");
    // A log that was closed may be opened again, by the same program or its successor.
    this.#isOver = false;
    this.#timer = setTimeout(() => this.#retry(), RETRY_MS);
  }

  async #retry() {
    const isStale = await this.#isStale();
    if (this.#isClosed) return;
    if (isStale) this.handlers.onStale();
    else this.#connect();
  }

  close() {
    this.#isOver = this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#source?.close();
  }
}
