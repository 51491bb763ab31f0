// Whether the table follows the log: a button to pause, and what came meanwhile.

import { button, h, icon } from "./dom.js";
import { counted } from "./text.js";

const STATES = /** @type {Record<string, string>} */ ({
  live: "Live",
  connecting: "Connecting…",
  closed: "The log was closed",
});

/** The controls. */
export class FollowControl {
  isPaused = false;

  /** @param {{onPause: () => void, onNewest: () => void}} handlers */
  constructor(handlers) {
    this.state = h("span", { class: "follow-state" });
    this.button = button({ icon: "pause", label: "Pause", text: "Pause", class: "follow-button", onclick: handlers.onPause });
    this.control = h("div", { class: "follow" }, this.state, this.button);
    this.pill = button({ icon: "up", label: "Show new events", text: "New events", class: "pill", onclick: handlers.onNewest });
    this.pill.hidden = true;
  }

  /** @param {boolean} isAvailable false: the range of time is over */
  setAvailable(isAvailable) {
    this.control.hidden = !isAvailable;
    if (!isAvailable) this.pill.hidden = true;
  }

  /** @param {import("./follow.js").Follower} follower */
  show(follower) {
    const { isPaused, meanwhile, state } = follower;
    const text = isPaused && state === "live" ? "Paused" : STATES[state];
    if (this.state.textContent !== text) this.state.textContent = text;
    this.control.dataset.state = isPaused ? "paused" : state;
    if (isPaused !== this.isPaused) this.#showButton(isPaused);
    this.isPaused = isPaused;
    this.pill.hidden = meanwhile === 0n;
    const label = /** @type {HTMLElement} */ (this.pill.querySelector("span"));
    const shown = counted(meanwhile, "new event");
    if (label.textContent === shown) return;
    label.textContent = shown;
    this.pill.setAttribute("aria-label", `Show ${shown}`);
  }

  /** @param {boolean} isPaused */
  #showButton(isPaused) {
    const text = isPaused ? "Resume" : "Pause";
    this.button.replaceChildren(icon(isPaused ? "play" : "pause"), h("span", {}, text));
    this.button.setAttribute("aria-label", text);
  }
}
