// Elements. Whatever comes from an event becomes text here, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Node|string|number|null|undefined|false} Child */

/**
 * @param {Element} element
 * @param {Record<string, any>} attributes
 */
function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") throw new Error("use style.setProperty: the page's policy refuses the attribute");
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

/**
 * @param {Element} element
 * @param {Child[]} children
 */
function appendAll(element, children) {
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(child instanceof Node ? child : String(child));
    }
  }
}

/**
 * An element: `h("button", {class: "x", onclick: f}, "text")`.
 *
 * @param {string} tag
 * @param {Record<string, any>} [attributes] `on…` are listeners
 * @param {...Child} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  appendAll(element, children);
  return element;
}

/**
 * The same for an element of SVG.
 *
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...Child} children
 * @returns {any}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  setAttributes(element, attributes);
  appendAll(element, children);
  return element;
}

/** @type {Record<string, string>} */
const ICONS = {
  "chevron": "M6 4l4 4-4 4",
  "close": "M4 4l8 8M12 4l-8 8",
  "filter": "M2 3.5h12L9.5 9v4l-3-1.5V9z",
  "copy": "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  "check": "M3 8.5l3.5 3.5L13 4.5",
  "link": "M6.5 9.5l3-3M7 4.5l1.5-1.5a3 3 0 014.5 4.5L11.5 9M9 11.5l-1.5 1.5a3 3 0 01-4.5-4.5L4.5 7",
  "pause": "M5.5 3.5v9M10.5 3.5v9",
  "play": "M5 3l8 5-8 5z",
  "up": "M8 13V3M4 7l4-4 4 4",
  "down": "M8 3v10M4 9l4 4 4-4",
  "plus": "M8 3v10M3 8h10",
  "clock": "M8 4.5V8l2.5 1.5M8 14A6 6 0 108 2a6 6 0 000 12z",
  "zoom-out": "M7 12A5 5 0 107 2a5 5 0 000 10zM11 11l3 3M5 7h4",
  "left": "M10 4l-4 4 4 4",
  "right": "M6 4l4 4-4 4",
  "run": "M2 4h6M5 8h7M9 12h5",
  "warning": "M8 2.5l6.5 11.5h-13zM8 7v3M8 12v.1",
  "theme": "M8 2a6 6 0 100 12zM8 14A6 6 0 008 2",
  "around": "M3 8h10M8 3v2M8 11v2",
  "sliders": "M2 5h7M13 5h1M2 11h1M7 11h7M11 3.3a1.7 1.7 0 110 3.4 1.7 1.7 0 010-3.4M5 9.3a1.7 1.7 0 110 3.4 1.7 1.7 0 010-3.4",
};

/**
 * An icon that says nothing to a screen reader.
 *
 * @param {string} name
 */
export function icon(name) {
  const path = svg("path", { d: ICONS[name] });
  return svg("svg", { class: `icon icon-${name}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, path);
}

/**
 * A button with an icon, and with text or a name for screen readers.
 *
 * @param {{icon?: string, label: string, text?: string, class?: string, onclick: (event: MouseEvent) => void}} options
 */
export function button(options) {
  const { icon: name, label, text, onclick } = options;
  return h(
    "button",
    {
      type: "button",
      class: `button ${options.class ?? ""}`,
      // Also where the text is what the label says: on a narrow screen, only the icon is shown.
      "aria-label": label,
      title: text === label ? null : label,
      onclick,
    },
    name ? icon(name) : null,
    text ? h("span", {}, text) : null,
  );
}

/** @type {HTMLElement|null} */
let announcer = null;

/**
 * Have a screen reader say something, politely.
 *
 * @param {string} text
 */
export function announce(text) {
  announcer ??= document.getElementById("announcer");
  if (announcer) announcer.textContent = text;
}

/**
 * Put text on the clipboard, and show on the button that it is there.
 *
 * @param {HTMLElement} element
 * @param {string} text
 */
export async function copy(element, text) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyBySelection(text);
  }
  announce(done ? "Copied" : "The browser did not allow copying");
  if (!done) return;
  element.classList.add("is-done");
  setTimeout(() => element.classList.remove("is-done"), 1200);
}

/**
 * Without HTTPS, on another host than localhost, there is no other way.
 *
 * @param {string} text
 */
function copyBySelection(text) {
  const area = h("textarea", { class: "visually-hidden", readonly: true, "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/**
 * Call a function at most once a frame.
 *
 * @param {() => void} run
 */
export function eachFrame(run) {
  let asked = 0;
  return () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      run();
    });
  };
}
