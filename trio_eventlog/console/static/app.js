"use strict";

const MOST_ROWS = 200;
const rows = document.getElementById("events");
const state = document.getElementById("state");

function add(event) {
  const row = document.createElement("tr");
  const inner = event.event;
  const cells = [
    event.seq,
    new Date(event.timestamp_ms).toISOString(),
    inner.agent_id ?? inner.module,
    inner.event_type,
    inner.payload == null ? "" : JSON.stringify(inner.payload),
  ];
  for (const text of cells) {
    const cell = document.createElement("td");
    cell.textContent = text;
    row.append(cell);
  }
  rows.prepend(row);
  while (rows.children.length > MOST_ROWS) rows.lastElementChild.remove();
}

async function authorize() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  await fetch("api/session", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token }),
  });
}

async function start() {
  await authorize();
  const answer = await fetch("api/events?limit=100");
  const page = await answer.json();
  if (!answer.ok) {
    state.textContent = page.error.message;
    return;
  }
  page.events.reverse().forEach(add);
  const stream = new EventSource(`api/events/stream?on_lag=skip&after_seq=${page.last_seq}`);
  stream.onmessage = (message) => add(JSON.parse(message.data));
  stream.addEventListener("ready", () => (state.textContent = "Live"));
  stream.onerror = () => (state.textContent = "Connecting again…");
}

start();
