// Requests to the console.

import { parseExact } from "./exact.js";

/** An error that the console answered with, or that kept it from answering. */
export class ApiError extends Error {
  /**
   * @param {number} status 0 if there was no answer
   * @param {string} code
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether the same may work later. */
  get isPassing() {
    return this.status === 0 || this.status === 503 || this.status === 504;
  }
}

/** Called when the console wants a token. @type {() => void} */
let onUnauthorized = () => {};

/** @param {() => void} handler */
export function whenUnauthorized(handler) {
  onUnauthorized = handler;
}

/**
 * @param {string} path below the console
 * @param {Iterable<[string, string]>} [parameters]
 */
export function addressOf(path, parameters = []) {
  const address = new URL(path, document.baseURI);
  address.search = String(new URLSearchParams([...parameters]));
  address.hash = "";
  return address;
}

/**
 * @param {URL} address
 * @param {RequestInit} options
 */
async function answerOf(address, options) {
  try {
    const answer = await fetch(address, { ...options, credentials: "same-origin", cache: "no-store" });
    return { answer, text: await answer.text() };
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "The console does not answer. Is the program still running?");
  }
}

/**
 * @param {string} path
 * @param {Iterable<[string, string]>} [parameters]
 * @param {RequestInit} [options]
 * @returns {Promise<any>} what was answered; null if that was empty
 */
export async function ask(path, parameters = [], options = {}) {
  const { answer, text } = await answerOf(addressOf(path, parameters), options);
  let value = null;
  try {
    value = text === "" ? null : parseExact(text);
  } catch {
    throw new ApiError(answer.status, "not_json", "The answer was not from a console.");
  }
  if (answer.ok) return value;
  const { code = "unknown", message = answer.statusText } = value?.error ?? {};
  if (answer.status === 401) onUnauthorized();
  throw new ApiError(answer.status, code, message);
}

/**
 * The newest of several requests: asking again ends the one before.
 */
export class Latest {
  #controller = new AbortController();

  /**
   * @param {string} path
   * @param {Iterable<[string, string]>} [parameters]
   * @returns {Promise<any>}
   */
  async ask(path, parameters) {
    this.stop();
    const controller = new AbortController();
    this.#controller = controller;
    const value = await ask(path, parameters, { signal: controller.signal });
    // One that was answered before it could be ended.
    controller.signal.throwIfAborted();
    return value;
  }

  stop() {
    this.#controller.abort();
  }
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";

/**
 * Call a function again and again while the page is visible.
 */
export class Poll {
  #timer = 0;
  #stopped = false;
  #running = false;

  /**
   * @param {() => Promise<void>} run
   * @param {number} interval ms between the end of one call and the next
   */
  constructor(run, interval) {
    this.run = run;
    this.interval = interval;
    this.wake = () => {
      if (document.visibilityState === "visible") this.now();
    };
    document.addEventListener("visibilitychange", this.wake);
    this.now();
  }

  /** Call it at once. */
  async now() {
    if (this.#stopped || this.#running) return;
    clearTimeout(this.#timer);
    this.#running = true;
    try {
      await this.run();
    } finally {
      this.#running = false;
      this.#again();
    }
  }

  #again() {
    if (this.#stopped || document.visibilityState !== "visible") return;
    this.#timer = setTimeout(() => this.now(), this.interval);
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.wake);
  }
}
