// A button that opens a small panel below it. The browser closes it on Escape and on a click elsewhere.

import { button, h } from "./dom.js";

let number = 0;

/**
 * @param {{icon?: string, label: string, text?: string, class?: string}} options of the button
 * @param {() => Node} content made anew each time the panel opens
 * @returns {{button: HTMLElement, panel: any, close: () => void}}
 */
export function menu(options, content) {
  number += 1;
  const panel = h("div", { id: `panel-${number}`, class: "panel", popover: "auto" });
  const opener = button({ ...options, onclick: () => {} });
  opener.setAttribute("popovertarget", panel.id);
  opener.setAttribute("aria-haspopup", "dialog");
  panel.setAttribute("role", "dialog");
  panel.setAttribute("aria-label", options.label);
  panel.addEventListener("beforetoggle", (/** @type {any} */ event) => {
    if (event.newState === "open") panel.replaceChildren(content());
  });
  panel.addEventListener("toggle", (/** @type {any} */ event) => {
    if (event.newState !== "open") return;
    placeBelow(panel, opener);
    panel.querySelector("input, select, button")?.focus();
  });
  return { button: opener, panel, close: () => panel.hidePopover() };
}

/**
 * @param {HTMLElement} panel
 * @param {HTMLElement} opener
 */
function placeBelow(panel, opener) {
  const { left, bottom } = opener.getBoundingClientRect();
  const most = document.documentElement.clientWidth - panel.offsetWidth - 8;
  panel.style.setProperty("left", `${Math.max(8, Math.min(left, most))}px`);
  panel.style.setProperty("top", `${bottom + 6}px`);
}
