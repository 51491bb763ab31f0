"""The view of events: filters, the timeline, and what comes while one looks."""

import json
import re
import signal
import subprocess
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import expect

from tests._helpers.cli import PROGRAM, add, start
from tests._helpers.events import agent, module
from trio_eventlog import AgentEvent, EventEnvelope, ModuleEvent, PersistedEvent

HOUR = 3_600_000
START = 1_784_019_600_000
BIG = 18_446_744_073_709_551_615


def work(count, *, start=START, step=1000):
    """Events of three types and four members, one each `step` ms."""
    types = ("step_done", "step_started", "run_failed")
    return [
        agent(
            seq,
            time_ms=start + seq * step,
            agent_id=f"w-{seq % 4}",
            event_type=types[seq % 3],
            payload={"run_id": f"r-{seq % 10}", "order_id": seq % 5, "trace": BIG - seq},
        )
        for seq in range(1, count + 1)
    ]


def rows(page):
    """The rows of events in the page."""
    return page.locator(".rows > .row[data-key^=e]")


def row_of(page, seq):
    return page.locator(f".rows > .row[data-key='e{seq}']")


def parameters(page):
    return parse_qs(urlsplit(page.url).query)


def total(page):
    return page.locator(".toolbar .total")


def facet(page, field, value):
    return page.locator(f"[data-facet='{field}={value}']")


def test_newest_events_are_on_top(make_site, open_page):
    page = open_page(make_site(events=work(300)).url)

    expect(rows(page).first).to_contain_text("w-0")
    expect(total(page)).to_have_text("300 events")
    assert rows(page).first.get_attribute("data-key") == "e300"


def test_facets_filter_and_the_address_keeps_it(make_site, open_page):
    page = open_page(make_site(events=work(300)).url)

    facet(page, "event_type", "run_failed").click()
    facet(page, "member_id", "w-1").click()

    expect(total(page)).to_have_text("25 events")
    assert parameters(page) == {"event_type": ["run_failed"], "member_id": ["w-1"]}
    # The counts of a field that is filtered by are those of its other values, too.
    expect(facet(page, "event_type", "step_done")).to_contain_text("25")
    for row in rows(page).all():
        assert "run_failed" in row.inner_text()

    page.reload()
    expect(total(page)).to_have_text("25 events")
    page.go_back()
    expect(total(page)).to_have_text("100 events")
    page.go_back()
    expect(total(page)).to_have_text("300 events")
    page.go_forward()
    expect(facet(page, "event_type", "run_failed")).to_have_attribute("aria-pressed", "true")
    expect(total(page)).to_have_text("100 events")


def test_every_field_can_be_filtered_by(make_site, open_page):
    scopes = {name: f"the {name}" for name in ("run_id", "step_id", "identity", "mob_id")}
    events = [
        *work(50),
        agent(51, time_ms=START + HOUR, agent_id="the member_id", payload={**scopes, "big": BIG}),
    ]
    events.append(
        PersistedEvent("id-52", 52, START + HOUR, None, ModuleEvent("the module", "the event_type"))
    )
    page = open_page(make_site(events=events).url)

    for field in ("event_type", "member_id", "module", *scopes):
        page.get_by_role("button", name="Add a filter").click()
        page.get_by_label("Field").select_option(field)
        page.get_by_label("Value").fill(f"the {field}")
        page.get_by_label("Value").press("Enter")
        expect(total(page)).to_have_text("1 event")
        page.get_by_role("button", name="Clear all filters").first.click()
        expect(total(page)).to_have_text("52 events")

    page.get_by_role("button", name="Add a filter").click()
    page.get_by_label("Field").select_option("fields.")
    page.get_by_label("Key", exact=True).fill("big")
    page.get_by_label("Value").fill(str(BIG))
    page.get_by_label("Value").press("Enter")
    expect(total(page)).to_have_text("1 event")
    # Not 18446744073709552000, which is what JavaScript would make of it.
    assert parameters(page)["fields"] == [f'{{"big":{BIG}}}']
    page.reload()
    expect(total(page)).to_have_text("1 event")


def test_a_row_opens_into_its_payload(make_site, open_page):
    page = open_page(make_site(events=work(50)).url, permissions=["clipboard-read", "clipboard-write"])

    row_of(page, 48).click()

    payload = row_of(page, 48).locator(".json")
    expect(payload).to_contain_text(f'"trace": {BIG - 48}')
    assert parameters(page)["open"] == ["48"]
    row_of(page, 48).get_by_role("button", name="Copy JSON").click()
    expect(page.locator("#announcer")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert f'"trace": {BIG - 48}' in copied

    payload.get_by_role("button", name="Filter by order_id = 3").click()
    expect(total(page)).to_have_text("10 events")
    page.go_back()
    expect(row_of(page, 48).locator(".json")).to_be_visible()


def test_large_payload_is_loaded_when_it_is_opened(make_site, open_page):
    text = "x" * 100_000
    page = open_page(make_site(events=[agent(1, payload={"text": text})]).url)

    expect(row_of(page, 1)).to_contain_text("97.7 KiB of payload")
    row_of(page, 1).click()

    expect(row_of(page, 1).locator(".json")).to_contain_text(text)


def test_dragging_over_the_timeline_zooms(make_site, open_page):
    page = open_page(make_site(events=work(1000)).url)
    timeline = page.get_by_label("Events over time")
    expect(page.locator(".bars path").first).to_be_attached()
    box = timeline.bounding_box()

    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40, steps=5)
    page.mouse.up()

    expect(total(page)).not_to_have_text("1,000 events")
    expect(total(page)).to_have_text(re.compile(r"^(1[89]\d|2[0-2]\d) events$"))
    expect(rows(page).first).not_to_have_attribute("data-key", "e1000")
    chosen = parameters(page)
    since, until = int(chosen["since_ms"][0]), int(chosen["until_ms"][0])
    assert START < since < until < START + 1000 * 1000
    newest = int(rows(page).first.get_attribute("data-key")[1:])
    assert START + newest * 1000 < until <= START + (newest + 1) * 1000

    page.get_by_role("button", name="Zoom out").click()
    expect(total(page)).to_have_text(re.compile(r"^(3[6-9]\d|4[0-4]\d) events$"))
    page.go_back()
    page.go_back()
    expect(total(page)).to_have_text("1,000 events")


def test_the_timeline_works_from_the_keyboard(make_site, open_page):
    page = open_page(make_site(events=work(1000)).url)
    expect(page.locator(".bars path").first).to_be_attached()

    timeline = page.get_by_label("Events over time")
    timeline.focus()
    for key in ("ArrowLeft", "ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowLeft"):
        timeline.press(key)
    expect(page.locator("#announcer")).to_contain_text("events")
    timeline.press("Enter")

    expect(total(page)).not_to_have_text("1,000 events")
    assert set(parameters(page)) == {"since_ms", "until_ms"}


def test_a_click_on_the_timeline_goes_there(make_site, open_page):
    page = open_page(make_site(events=work(3000)).url)
    expect(page.locator(".bars path").first).to_be_attached()
    box = page.get_by_label("Events over time").bounding_box()

    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 40)

    expect(rows(page).first).not_to_have_attribute("data-key", "e3000")
    seqs = [int(row.get_attribute("data-key")[1:]) for row in rows(page).all()]
    assert 1400 < min(seqs) < max(seqs) < 1600
    expect(total(page)).to_have_text("3,000 events")


def test_new_events_come_on_top(make_site, open_page):
    site = make_site(events=work(10))
    page = open_page(site.url)
    expect(page.locator(".follow-state")).to_have_text("Live")

    site.ingest(AgentEvent("w-9", "just_now"))

    expect(rows(page).first).to_contain_text("just_now")
    expect(total(page)).to_have_text("11 events")


def test_while_it_is_paused_events_are_counted(make_site, open_page):
    site = make_site(events=work(10))
    page = open_page(site.url)
    expect(page.locator(".follow-state")).to_have_text("Live")

    page.get_by_role("button", name="Pause").click()
    site.ingest(*(AgentEvent("w-9", "meanwhile") for _ in range(7)))

    expect(page.locator(".pill")).to_have_text("7 new events")
    expect(page.locator(".follow-state")).to_have_text("Paused")
    assert "meanwhile" not in page.locator(".rows").inner_text()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".rows > .row", has_text="meanwhile")).to_have_count(7)
    expect(page.locator(".pill")).to_be_hidden()


def test_while_one_reads_below_events_are_counted(make_site, open_page):
    site = make_site(events=work(500))
    page = open_page(site.url)
    expect(page.locator(".follow-state")).to_have_text("Live")
    page.locator(".table").evaluate("table => { table.scrollTop = 3000; }")
    expect(row_of(page, 405)).to_be_visible()
    place = row_of(page, 405).bounding_box()

    site.ingest(*(AgentEvent("w-9", "meanwhile") for _ in range(7)))

    expect(page.locator(".pill")).to_have_text("7 new events")
    assert row_of(page, 405).bounding_box() == place
    page.locator(".pill").click()
    expect(rows(page).first).to_contain_text("meanwhile")
    assert rows(page).first.get_attribute("data-key") == "e507"


def test_more_than_can_be_kept_meanwhile(make_site, open_page):
    site = make_site(events=work(10))
    page = open_page(site.url)
    expect(page.locator(".follow-state")).to_have_text("Live")

    page.get_by_role("button", name="Pause").click()
    # In parts, since the console skips what waits for too long.
    for part in range(1, 6):
        site.ingest(*(AgentEvent("w-9", "meanwhile", {"n": n}) for n in range(500)))
        expect(page.locator(".pill")).to_have_text(f"{part * 500:,} new events")
    page.get_by_role("button", name="Resume").click()

    expect(row_of(page, 2510)).to_be_visible()
    site.ingest(AgentEvent("w-9", "after_it"))
    expect(row_of(page, 2511)).to_be_visible()


def stream_of(*messages):
    """The body of a stream that ends."""
    return "".join(f"event: {name}\nid: {seq}\ndata: {json.dumps(data)}\n\n" for name, seq, data in messages)


def test_what_came_too_fast_is_said(make_site, open_page):
    site = make_site(events=work(20))
    page = open_page(f"{site.url}?view=health")
    skipped = {"first_seq": "21", "last_seq": "120"}
    body = stream_of(("ready", 20, {"after_seq": "20", "last_seq": "20"}), ("skipped", 120, skipped))
    page.route(
        "**/api/events/stream*", lambda route: route.fulfill(content_type="text/event-stream", body=body)
    )

    page.get_by_role("link", name="Events").click()

    expect(page.locator(".row-gap.is-skipped")).to_contain_text("100 events")
    site.ingest(*(AgentEvent("w-9", "burst") for _ in range(100)))
    page.unroute("**/api/events/stream*")
    page.get_by_role("button", name="Show them").click()
    expect(page.locator(".row-gap")).to_have_count(0)
    expect(row_of(page, 120)).to_be_visible()


def test_what_is_seen_stays_when_newer_events_are_loaded_above(make_site, open_page):
    page = open_page(make_site(events=work(2000)).url + "?open=777")
    expect(row_of(page, 777).locator(".json")).to_be_visible()
    before = wait_for_height(page, more_than=200 * 34)

    seq, place = page.locator(".table").evaluate(GO_UP)
    wait_for_height(page, more_than=before + 10 * 34)

    expect(row_of(page, seq)).to_be_attached()
    assert abs(row_of(page, seq).bounding_box()["y"] - place) <= 1


def wait_for_height(page, *, more_than):
    """Wait until there are more rows. The page's policy does not allow Playwright's own way to wait."""
    for _ in range(200):
        height = page.evaluate("document.querySelector('.rows').offsetHeight")
        if height > more_than:
            return height
        page.wait_for_timeout(50)
    raise AssertionError(f"not more than {more_than} px high")


GO_UP = """async (table) => {
  // Where newer events are loaded; tells which row is seen, and where.
  table.scrollTop = 50 * 34;
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  const top = table.getBoundingClientRect().top + 100;
  const rows = [...table.querySelectorAll(".rows > .row[data-key^=e]")];
  const row = rows.find((each) => each.getBoundingClientRect().top > top);
  return [Number(row.dataset.key.slice(1)), row.getBoundingClientRect().top];
}"""


def test_only_what_matches_is_followed(make_site, open_page):
    site = make_site(events=work(10))
    page = open_page(f"{site.url}?member_id=w-1")
    expect(page.locator(".follow-state")).to_have_text("Live")

    site.ingest(AgentEvent("w-2", "of_another"), AgentEvent("w-1", "of_this"))

    expect(rows(page).first).to_contain_text("of_this")
    assert "of_another" not in page.locator(".rows").inner_text()


def test_lost_events_are_gaps(make_site, open_page):
    events = [event for event in work(30) if event.seq not in {11, 12, 13, 20}]
    site = make_site(events=events)
    page = open_page(site.url)

    gaps = page.locator(".row-gap")
    expect(gaps).to_have_count(2)
    expect(gaps.nth(0)).to_contain_text("1 event is missing")
    expect(gaps.nth(1)).to_contain_text("3 events are missing")
    expect(gaps.nth(1)).to_contain_text("numbers 11 to 13")
    box = page.locator(".row-gap", has_text="11 to 13").bounding_box()
    assert row_of(page, 14).bounding_box()["y"] < box["y"] < row_of(page, 10).bounding_box()["y"]

    expect(page.locator(".follow-state")).to_have_text("Live")
    # One that opens while one looks: the log gives a duplicate a number before the store refuses it.
    again = EventEnvelope("id-30", "agent", START, AgentEvent("w-9", "again"))
    site.ingest(again, AgentEvent("w-9", "after_it"))
    expect(rows(page).first).to_contain_text("after_it")
    expect(gaps.nth(0)).to_contain_text("number 31")


def test_an_event_by_its_link(make_site, open_page):
    page = open_page(f"{make_site(events=work(2000)).url}?open=777")

    expect(row_of(page, 777).locator(".json")).to_be_visible()
    expect(row_of(page, 778)).to_be_visible()
    expect(row_of(page, 776)).to_be_visible()


def test_what_is_around_an_event_that_was_found_by_a_filter(make_site, open_page):
    page = open_page(f"{make_site(events=work(500)).url}?event_type=run_failed")

    row_of(page, 491).click()
    row_of(page, 491).get_by_role("button", name="Show what happened around it").click()

    expect(row_of(page, 490)).to_be_visible()
    expect(row_of(page, 492)).to_be_visible()
    expect(row_of(page, 491).locator(".json")).to_be_visible()


def test_the_table_works_from_the_keyboard(make_site, open_page):
    page = open_page(make_site(events=work(1000)).url)
    expect(row_of(page, 1000)).to_be_visible()
    table = page.get_by_role("treegrid", name="Events, newest first")

    table.focus()
    table.press("ArrowDown")
    table.press("ArrowDown")
    expect(table).to_have_attribute("aria-activedescendant", "row-e999")
    table.press("Enter")
    expect(row_of(page, 999)).to_have_attribute("aria-expanded", "true")
    table.press("ArrowLeft")
    expect(row_of(page, 999)).to_have_attribute("aria-expanded", "false")
    table.press("End")
    expect(row_of(page, 1)).to_be_visible()
    table.press("Home")
    expect(row_of(page, 1000)).to_be_visible()


def test_no_event_matches(make_site, open_page):
    page = open_page(f"{make_site(events=work(10)).url}?member_id=nobody")

    expect(page.locator(".empty")).to_contain_text("No event matches these filters")
    page.locator(".empty").get_by_role("button").click()
    expect(rows(page)).to_have_count(10)


def test_an_empty_log_fills(make_site, open_page):
    site = make_site()
    page = open_page(site.url)

    expect(page.locator(".empty")).to_contain_text("No events yet")
    site.ingest(ModuleEvent("m", "the_first"))
    expect(rows(page)).to_have_count(1)
    expect(page.locator(".empty")).to_be_hidden()


def test_range_of_time_by_the_clock(make_site, open_page):
    page = open_page(make_site(events=work(1000)).url, timezone_id="UTC")

    page.get_by_role("button", name="Range of time").click()
    page.get_by_label("From").fill("2026-07-14T09:05:00.000")
    page.get_by_label("To (exclusive)").fill("2026-07-14T09:06:00.000")
    page.get_by_role("button", name="Apply").click()

    expect(total(page)).to_have_text("60 events")
    expect(page.locator(".time")).to_contain_text("2026-07-14 09:05:00 \N{EN DASH} 09:06:00")


def test_only_module_events_have_modules(make_site, open_page):
    page = open_page(make_site(events=[module(1), agent(2)]).url)

    facet(page, "module", "m").click()

    expect(total(page)).to_have_text("1 event")
    expect(rows(page)).to_have_count(1)


def test_the_timeline_can_be_used_while_events_come(make_site, open_page):
    site = make_site(events=work(100))
    page = open_page(site.url)
    expect(page.locator(".bars path").first).to_be_attached()
    timeline = page.get_by_label("Events over time")
    timeline.focus()
    timeline.press("ArrowRight")
    timeline.press("Shift+ArrowRight")
    expect(page.locator(".tip")).to_be_visible()

    site.ingest(AgentEvent("w-1", "new"))
    expect(page.locator(".toolbar .total")).to_have_text("101 events")

    expect(page.locator(".tip")).to_be_visible()
    timeline.press("Enter")
    expect(page.locator(".time")).to_contain_text("2026-07-14")


def test_another_year_is_said(make_site, open_page):
    long_ago = agent(1, time_ms=1_343_000_000_000)
    page = open_page(make_site(events=[long_ago, agent(2, time_ms=1_353_000_000_000)]).url)

    expect(row_of(page, 1).locator("time")).to_contain_text("2012-07-2")
    expect(page.locator(".axes")).to_contain_text("2012-")
    # Nothing of it is cut off.
    assert row_of(page, 1).locator(".cell-time").evaluate("each => each.scrollWidth <= each.clientWidth")


def test_a_rare_value_that_is_filtered_by_has_no_false_count(make_site, open_page):
    types = [f"often_{number}" for number in range(50)] * 2
    events = [agent(seq, time_ms=START, event_type=kind) for seq, kind in enumerate([*types, "rare"], 1)]
    page = open_page(f"{make_site(events=events).url}?event_type=rare")

    expect(page.locator(".toolbar .total")).to_have_text("1 event")
    chosen = page.locator("[data-facet='event_type=rare']")
    expect(chosen).to_have_attribute("aria-pressed", "true")
    expect(chosen.locator(".facet-count")).to_have_text("")


def test_one_event_is_a_bar(make_site, open_page):
    page = open_page(make_site(events=[agent(1, time_ms=START)]).url)

    bar = page.locator(".bars path")
    expect(bar).to_have_count(1)
    assert bar.bounding_box()["width"] < 100
    expect(page.locator(".axes")).to_contain_text(".000")


def test_the_form_of_the_range_of_time_is_not_cut_off(make_site, open_page):
    for viewport in ({"width": 1400, "height": 900}, {"width": 400, "height": 800}):
        site = make_site(events=work(3))
        page = open_page(f"{site.url}?since_ms={START}&until_ms={START + HOUR}", viewport=viewport)
        page.get_by_role("button", name="Range of time").click()
        panel = page.get_by_role("dialog", name="Range of time")
        box, inner = panel.bounding_box(), panel.get_by_label("From").bounding_box()
        assert inner["x"] + inner["width"] < box["x"] + box["width"] - 8


def test_an_epoch_that_begins_meanwhile_is_no_loss(open_page, tmp_path):
    """Numbers are skipped there, which no event ever had."""
    db = tmp_path / "events.db"
    add(db, 1, 3)
    with start("serve", "--store", f"sqlite:{db}", "--port", 0, cwd=tmp_path) as child:
        try:
            page = open_page(child.stdout.readline().decode().strip(), may_complain=True)
            expect(page.locator(".rows > .row[data-key^=e]")).to_have_count(3)
            subprocess.run([*PROGRAM, "adopt", "--store", f"sqlite:{db}"], check=True, cwd=tmp_path)
            expect(page.locator(".rows > .row", has_text="epoch_began")).to_have_count(1)
            expect(page.locator(".row-gap")).to_have_count(0)
        finally:
            child.send_signal(signal.SIGINT)
