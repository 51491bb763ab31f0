// The token, exchanged for a cookie that scripts cannot read.

import { ask } from "./api.js";
import { h, icon } from "./dom.js";

/** @param {string} token */
async function exchange(token) {
  const body = JSON.stringify({ token });
  await ask("api/session", [], { method: "POST", body, headers: { "content-type": "application/json" } });
}

/** Take the token from the address, or ask for it; returns when there is a session, or none is needed. */
export async function openSession() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) {
    history.replaceState(null, "", location.pathname + location.search);
    await exchange(token).catch(() => {});
  }
  const { token_required: isRequired, authorized } = await ask("api/session");
  if (isRequired && !authorized) await askForToken();
}

/** @type {Promise<void>|null} */
let asking = null;

/**
 * Ask for the token. Afterwards there is a session.
 *
 * @returns {Promise<void>}
 */
export function askForToken() {
  asking ??= new Promise((resolve) => showDialog(resolve)).then(() => {
    asking = null;
  });
  return asking;
}

/** @param {(value: any) => void} done */
function showDialog(done) {
  const input = h("input", { type: "password", autocomplete: "off", required: true, "aria-describedby": "token-error" });
  const error = h("p", { id: "token-error", class: "notice is-error", role: "alert", hidden: true });
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await exchange(input.value);
      dialog.close();
      dialog.remove();
      done(undefined);
    } catch (problem) {
      error.replaceChildren(icon("warning"), /** @type {Error} */ (problem).message);
      error.hidden = false;
      input.select();
    }
  };
  const dialog = h(
    "dialog",
    { class: "token", "aria-labelledby": "token-title" },
    h("h1", { id: "token-title" }, "This console wants a token"),
    h("p", { class: "muted" }, "Whoever started it has seen it: the address printed then ends with it, after #token=."),
    h("form", { class: "fields", onsubmit: submit }, h("label", {}, "Token", input), error, h("button", { type: "submit", class: "button is-primary" }, "Open")),
  );
  dialog.addEventListener("cancel", (/** @type {Event} */ event) => event.preventDefault());
  document.body.append(dialog);
  dialog.showModal();
}
