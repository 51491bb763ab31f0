"""Restarts, tokens, attacks, and more events than a page can hold."""

import os
import re
import time
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests._helpers.console_site import ConsoleSite, kept
from tests._helpers.events import agent
from trio_eventlog import AgentEvent, ModuleEvent, PersistedEvent
from trio_eventlog.stores import MemoryStore, SqliteStore

TOKEN = "correct+horse&battery=staple"  # noqa: S105 - of a test
START = 1_784_019_600_000


def rows(page):
    return page.locator(".rows > .row[data-key^=e]")


@pytest.fixture
def site_in_file(tmp_path):
    site = ConsoleSite(lambda: SqliteStore.open(tmp_path / "events.db"))
    yield site
    site.stop()


def test_it_goes_on_after_a_restart(site_in_file, open_page):
    site = site_in_file
    page = open_page(site.url, may_complain=True)
    site.ingest(AgentEvent("w-1", "before"))
    expect(rows(page)).to_have_count(1)

    site.stop()
    expect(page.locator(".follow-state")).to_have_text("Connecting…")
    expect(page.locator("#header .status")).to_have_text("No answer")
    site.start()
    site.ingest(AgentEvent("w-1", "while_away"), AgentEvent("w-1", "after"))

    expect(rows(page)).to_have_count(3)
    expect(rows(page).first).to_contain_text("after")
    expect(page.locator(".follow-state")).to_have_text("Live")
    expect(page.locator(".row-gap")).to_have_count(0)


def test_a_stream_that_was_refused_is_asked_for_again(make_site, open_page):
    site = make_site(events=[agent(1)])
    page = open_page(f"{site.url}?view=health", may_complain=True)
    page.route("**/api/events/stream*", lambda route: route.fulfill(status=503, body="{}"), times=1)

    page.get_by_role("link", name="Events").click()
    expect(page.locator(".follow-state")).to_have_text("Connecting…")
    expect(page.locator(".follow-state")).to_have_text("Live")

    site.ingest(AgentEvent("w-1", "after_it"))
    expect(rows(page).first).to_contain_text("after_it")


def test_another_log_in_the_same_place(open_page):
    site = ConsoleSite(lambda: kept(MemoryStore()), events=[agent(seq) for seq in range(1, 10)])
    try:
        page = open_page(site.url, may_complain=True)
        expect(rows(page)).to_have_count(9)
        expect(page.locator(".follow-state")).to_have_text("Live")

        site.stop()
        site.start()
        site.ingest(AgentEvent("w-1", "of_the_other_log"))

        expect(rows(page)).to_have_count(1)
        expect(rows(page)).to_contain_text("of_the_other_log")
    finally:
        site.stop()


def test_a_view_that_cannot_be_loaded_tries_again(site_in_file, open_page):
    site = site_in_file
    site.ingest(AgentEvent("w-1", "there"))
    page = open_page(f"{site.url}?view=health", may_complain=True)
    expect(page.locator(".cards")).to_be_visible()

    site.stop()
    page.get_by_role("link", name="Events").click()
    expect(page.get_by_role("alert").first).to_contain_text("does not answer")
    site.start()

    expect(rows(page)).to_have_count(1)
    expect(page.locator(".notice.is-error")).to_be_hidden()


def test_the_token_is_taken_from_the_address(make_site, open_page):
    site = make_site(token=TOKEN, events=[agent(1)])
    page = open_page(f"{site.url}#token={quote(TOKEN)}")

    expect(rows(page)).to_have_count(1)
    assert "token" not in page.url
    page.reload()
    expect(rows(page)).to_have_count(1)
    assert page.evaluate("document.cookie") == ""


def test_the_token_is_asked_for(make_site, open_page):
    page = open_page(make_site(token=TOKEN, events=[agent(1)]).url, may_complain=True)

    dialog = page.get_by_role("dialog", name="This console wants a token")
    dialog.get_by_label("Token").fill("something else, and wrong")
    dialog.get_by_label("Token").press("Enter")
    expect(dialog.get_by_role("alert")).to_be_visible()
    dialog.get_by_label("Token").fill(TOKEN)
    dialog.get_by_label("Token").press("Enter")

    expect(rows(page)).to_have_count(1)


MARKUP = '<img src=x onerror="window.wasAttacked = 1"><script>window.wasAttacked = 1</script>'
DIRECTION = "\u202egpj.exe\u202c\u2066"
ATTACKS = [
    MARKUP,
    f"'\"><svg onload=window.wasAttacked=1>{DIRECTION}",
    "javascript:window.wasAttacked=1",
    "</bdi></div><iframe srcdoc='<script>parent.wasAttacked=1</script>'>",
    "__proto__",
    "\x00\x07\x1b[2J\r\n\u2028\ufeff",
    "W" * 5000,
    "\U0001f4a3" * 300,
    "",
]


def attack(seq, text):
    """An event whose every field that can be is `text`."""
    scopes = ("run_id", "step_id", "identity", "mob_id")
    payload = {
        text: text,
        "nested": {text: [text, {text: None}]},
        "error": text,
        **dict.fromkeys(scopes, text),
    }
    payload["constructor"] = payload["__proto__"] = {"toString": text}
    inner = AgentEvent(text, text, payload) if seq % 2 else ModuleEvent(text, text, payload)
    return PersistedEvent(f"{text}-{seq}", seq, START + seq, text if seq % 2 else None, inner)


def attacked(page):
    return page.evaluate(
        "window.wasAttacked === 1 || Object.keys(Object.prototype).length > 0"
        " || document.querySelectorAll('main img, main script, main iframe').length > 0"
    )


def test_whatever_an_event_holds_is_text(make_site, open_page):
    events = [attack(seq, text) for seq, text in enumerate([*ATTACKS, *ATTACKS], 1)]
    page = open_page(make_site(events=events).url)
    expect(rows(page)).to_have_count(len(events))
    expect(page.locator(".facet").first).to_be_visible()
    page.get_by_label("Events over time").hover()
    table = page.locator(".table")
    table.focus()
    for event in reversed(events):
        table.press("ArrowDown")
        table.press("Enter")
        expect(page.locator(f".rows > .row[data-key=e{event.seq}] .json")).to_be_attached()
        assert not attacked(page)
    table.evaluate("table => { table.scrollTop = 0; }")
    text = page.locator(".table-wrap").inner_text() + page.locator(".side").inner_text()
    assert MARKUP in text
    assert not set(text) & {"\u202e", "\x00", "\x07", "\x1b"}
    assert "\\u202e" in text

    for field in ("event_type", "member_id", "run_id"):
        page.goto(page.url.partition("?")[0])
        page.locator(f"[data-facet^='{field}=<img']").click()
        expect(page.locator(".chip")).to_have_count(1)
        assert not attacked(page)
    page.locator(".rows > .row[data-key=e1]").click()
    page.get_by_role("button", name="Show run").click()
    expect(page.locator(".lane").first).to_be_visible()
    page.locator(".bar").first.click()
    assert not attacked(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_addresses_that_make_no_sense(make_site, open_page):
    site = make_site(events=[agent(1)])
    for search in (
        "?view=nowhere&open=x&since_ms=soon&fields=[",
        "?fields=%7B%22__proto__%22%3A1%7D&view=health",
        "?view=runs&run=%3Cscript%3Ealert(1)%3C/script%3E",
        "?view=tasks&tab=%00",
    ):
        page = open_page(site.url + search)
        expect(page.locator("#main > *").first).to_be_visible()
        assert not attacked(page)


MANY = int(os.environ.get("TRIO_EVENTLOG_CONSOLE_EVENTS", "50_000"))


async def _fill(path, number):
    async with SqliteStore.open(path) as store:
        for start in range(1, number + 1, 10_000):
            batch = [
                agent(
                    seq,
                    time_ms=START + seq * 10,
                    agent_id=f"w-{seq % 7}",
                    event_type=f"t-{seq % 5}",
                    payload={"run_id": f"r-{seq // 20}", "n": seq},
                )
                for seq in range(start, min(start + 10_000, number + 1))
            ]
            await store.append_batch(batch)


def test_many_events(tmp_path, open_page):
    """The table stays quick, holds few rows, and reaches both ends."""
    import trio

    path = tmp_path / "many.db"
    trio.run(_fill, path, MANY)
    site = ConsoleSite(lambda: SqliteStore.open(path))
    try:
        page = open_page(site.url)
        expect(rows(page).first).to_have_attribute("data-key", f"e{MANY}")
        expect(page.locator(".bars path").first).to_be_attached(timeout=60_000)

        page.locator(".table").focus()
        begun = time.perf_counter()
        usual, longest = page.evaluate(SCROLL)
        took = time.perf_counter() - begun
        frames = f"frames of {usual:.0f} ms, at most {longest:.0f} ms"
        print(f"{MANY:,} events: 5,000 rows in {took:.1f} s; {frames}")  # noqa: T201 - for -rP
        # Generous: there may be other work on the machine, and no graphics card.
        assert usual < 150
        assert page.locator(".rows > .row").count() < 80
        # What is far above is forgotten.
        assert page.locator(".rows").bounding_box()["height"] < 3300 * 34
        shown = [int(row.get_attribute("data-key")[1:]) for row in rows(page).all()]
        assert shown == list(range(shown[0], shown[-1] - 1, -1))
        assert shown[-1] < MANY - 4_900

        page.locator(".table").press("End")
        expect(page.locator(".rows > .row[data-key=e1]")).to_be_visible()
        page.evaluate("document.querySelector('.table').scrollTop = 0")
        # Newer ones are put on top of the oldest.
        expect(rows(page).first).to_have_attribute("data-key", re.compile(r"^e\d{3}$"))
        first = rows(page).first.get_attribute("data-key")
        page.evaluate("document.querySelector('.table').scrollTop = 0")
        expect(rows(page).first).not_to_have_attribute("data-key", first)
        page.locator(".table").press("Home")
        expect(rows(page).first).to_have_attribute("data-key", f"e{MANY}")
        page.close()
    finally:
        site.stop()


SCROLL = """async () => {
  // Scrolls down past 5,000 rows, as fast as they come; returns the median and the longest time between two
  // frames, in ms.
  const table = document.querySelector(".table");
  const frame = () => new Promise(requestAnimationFrame);
  const first = Number(document.querySelector(".rows > .row").dataset.key.slice(1));
  const lowest = () => [...document.querySelectorAll(".rows > .row[data-key^=e]")].at(-1);
  const seen = () => Number(lowest().dataset.key.slice(1));
  const times = [];
  let last = performance.now();
  for (let frames = 0; frames < 5000 && first - seen() < 5000; frames++) {
    table.scrollTop += 800;
    await frame();
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  times.sort((a, b) => a - b);
  return [times[times.length >> 1], times.at(-1)];
}"""


def test_a_burst(make_site, open_page):
    site = make_site()
    page = open_page(site.url)
    expect(page.locator(".follow-state")).to_have_text("Live")

    for _ in range(8):
        site.ingest(*(AgentEvent("w-1", "burst", {"n": n}) for n in range(1000)))

    expect(page.locator(".toolbar .total")).to_have_text("8,000 events")
    expect(rows(page).first).to_have_attribute("data-key", "e8000")
    # All are there, or it is said that they are not.
    page.locator(".table").focus()
    page.locator(".table").press("End")
    expect(page.locator(".rows > .row[data-key=e1]")).to_be_visible()


def test_counts_are_asked_for_again(site_in_file, open_page):
    """Though no event has come since, so that nothing else asks for them."""
    site = site_in_file
    site.ingest(AgentEvent("w-1", "there"))
    page = open_page(f"{site.url}?view=health", may_complain=True)
    expect(page.locator(".cards")).to_be_visible()

    site.stop()
    page.get_by_role("link", name="Events").click()
    expect(page.locator(".side .notice")).to_be_visible()
    site.start()

    expect(page.locator(".toolbar .total")).to_have_text("1 event")
    expect(page.locator("[data-facet='event_type=there']")).to_be_visible()


def test_a_run_that_cannot_be_loaded_for_a_while(site_in_file, open_page):
    site = site_in_file
    site.ingest(AgentEvent("w-1", "step_done", {"run_id": "r", "step_id": "s"}))
    page = open_page(f"{site.url}?view=runs&run=r", may_complain=True)
    expect(page.locator(".lane")).to_have_count(1)

    site.stop()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("does not answer")
    # A screen reader says it once, not each time that it is tried.
    alert.evaluate("alert => { alert.dataset.seen = 'yes'; }")
    page.wait_for_event("requestfailed", lambda request: "api/events" in request.url)
    page.wait_for_event("requestfailed", lambda request: "api/statistics" in request.url)
    expect(alert).to_have_attribute("data-seen", "yes")
    site.start()

    expect(alert).to_have_count(0)
    expect(page.locator(".lane")).to_have_count(1)


def test_a_link_to_an_event_that_is_not_there(make_site, open_page):
    page = open_page(f"{make_site(events=[agent(1), agent(2)]).url}?open=99", may_complain=True)

    expect(page.get_by_role("alert")).to_contain_text("Event 99 is not in this log")
    expect(rows(page)).to_have_count(2)
    expect(page.locator(".empty")).to_be_hidden()


def test_a_link_to_a_log_that_is_not_there(make_site, open_page):
    site = make_site(events=[agent(1)])
    page = open_page(f"{site.url}?log=elsewhere", may_complain=True)

    expect(page.locator("#main")).to_contain_text("There is no log named")
    expect(page.locator("#header .status")).to_have_text("No such log")
    page.locator("#main a").click()
    expect(rows(page)).to_have_count(1)


def test_what_comes_between_two_counts_is_not_outside(make_site, open_page):
    site = make_site(events=[agent(1, time_ms=START)])
    page = open_page(f"{site.url}?view=health")

    def more_come_meanwhile(route):
        answer = route.fetch()
        site.ingest(AgentEvent("w-1", "meanwhile"))
        route.fulfill(response=answer)

    page.route("**/api/histogram*", more_come_meanwhile, times=1)
    page.get_by_role("link", name="Events").click()

    expect(page.locator(".toolbar .total")).to_have_text("1 event")
    expect(page.locator(".timeline-note")).to_be_hidden()
    expect(page.locator(".toolbar .total")).to_have_text("2 events")
