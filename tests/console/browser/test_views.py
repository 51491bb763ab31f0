"""The views of runs, of tasks and of the log's state."""

import re

import trio
from playwright.sync_api import expect

from tests._helpers.console_site import OutageStore
from tests._helpers.events import agent
from trio_eventlog import AgentEvent, StoreError
from trio_eventlog.recorder import record_tasks
from trio_eventlog.stores import MemoryStore, begin_epoch

START = 1_784_019_600_000


def run_events():
    """A run of two members; number 6 is missing."""
    story = [
        ("w-1", "run_started", 0, {}),
        ("w-1", "step_started", 10, {"step_id": "r/plan"}),
        ("w-1", "step_done", 110, {"step_id": "r/plan"}),
        ("w-2", "run_started", 120, {}),
        ("w-2", "step_started", 130, {"step_id": "r/act"}),
        None,
        ("w-2", "step_failed", 400, {"step_id": "r/act", "error": "it went wrong"}),
        ("w-2", "run_failed", 410, {}),
        ("w-1", "step_done", 500, {"step_id": "r/check"}),
        ("w-1", "step_started", 510, {"step_id": "r/report"}),
    ]
    return [
        agent(seq, time_ms=START + at, agent_id=member, event_type=kind, payload={"run_id": "r", **payload})
        for seq, entry in enumerate(story, 1)
        if entry is not None
        for member, kind, at, payload in [entry]
    ]


def test_a_run_that_goes_on_after_a_restore_lacks_nothing(make_site, open_page):
    """Where an epoch begins, numbers were skipped, and no event is lost."""
    store = MemoryStore()

    async def fill():
        await store.append_batch(run_events()[:5])
        seq = (await begin_epoch(store, reason="restored")).seq + 1
        last = agent(
            seq, time_ms=START + 600, agent_id="w-1", event_type="run_completed", payload={"run_id": "r"}
        )
        await store.append_batch([last])

    trio.run(fill)
    page = open_page(make_site(store).url + "?view=runs&run=r")

    expect(page.locator(".lane")).to_have_count(2)
    expect(page.get_by_text("run_completed").first).to_be_visible()
    assert page.locator(".notice").all_inner_texts() == []
    expect(page.locator(".band")).to_have_count(0)


def test_a_run_as_bars_across_members(make_site, open_page):
    page = open_page(make_site(events=run_events()).url)

    page.locator(".rows > .row[data-key=e10]").click()
    page.get_by_role("button", name="Show run").click()

    expect(page.get_by_role("heading", name="r", exact=True)).to_be_visible()
    first, second = page.locator(".lane").all()
    assert first.get_by_role("heading").inner_text() == "w-1"
    assert second.get_by_role("heading").inner_text() == "w-2"

    def bar(name):
        return page.locator(".bar", has_text=re.compile(f"^{name}"))

    plan, act, check, report = (bar(name) for name in ("plan", "act", "check", "report"))
    expect(plan).to_have_class(re.compile(r"bar tone-\d$"))
    expect(plan).to_contain_text("100 ms")
    # Failed; its start is not in the log; its end is not.
    expect(act).to_have_class(re.compile("is-failed"))
    expect(check).to_have_class(re.compile("is-guessed"))
    expect(report).to_have_class(re.compile("is-open"))
    assert act.bounding_box()["x"] > plan.bounding_box()["x"] + plan.bounding_box()["width"]
    wide, narrow = act.bounding_box()["width"], plan.bounding_box()["width"]
    assert 2.5 < wide / narrow < 2.9

    # Where a number is missing, an event of the run may have been.
    expect(page.locator(".band")).to_have_count(1)
    expect(page.locator(".notice")).to_contain_text("1 number of the log")

    act.click()
    expect(page.locator(".inspector")).to_contain_text("failed")
    page.locator(".inspector summary", has_text="step_failed").click()
    expect(page.locator(".inspector .json")).to_contain_text('"error": "it went wrong"')
    page.go_back()
    expect(page.locator(".table")).to_be_visible()


def test_a_run_goes_on_while_one_looks(make_site, open_page):
    site = make_site(events=run_events())
    page = open_page(f"{site.url}?view=runs&run=r")
    expect(page.locator(".bar.is-open")).to_have_count(2)

    site.ingest(AgentEvent("w-1", "step_done", {"run_id": "r", "step_id": "r/report"}))

    expect(page.locator(".bar.is-open")).to_have_count(1)


def test_runs_that_were_at_work_lately(make_site, open_page):
    page = open_page(f"{make_site(events=run_events()).url}?view=runs")

    row = page.locator("table").first.locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("step_started")
    expect(row.locator("td").nth(2)).to_have_text("2")
    row.get_by_role("link", name="r").click()
    expect(page.locator(".lane")).to_have_count(2)


async def _record(log):
    with record_tasks(log, run_id="recorded"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_outer, nursery, name="outer")
    await log.flush()


async def _outer(nursery):
    with trio.move_on_after(0.05):
        async with trio.open_nursery() as inner:  # noqa: ASYNC112 - its task is to be seen
            inner.start_soon(trio.sleep_forever, name="cancelled one")


def test_recorded_tasks_as_a_tree(make_site, open_page):
    site = make_site()
    site.call(_record, site.log)
    page = open_page(f"{site.url}?view=tasks&tab=recorded")

    tree = page.get_by_role("treegrid", name="Recorded tasks")
    outer = tree.get_by_role("row", name=re.compile("^outer"))
    inner = tree.get_by_role("row", name=re.compile("^cancelled one"))
    expect(inner).to_contain_text("cancelled")
    levels = [int(row.get_attribute("aria-level")) for row in (outer, inner)]
    assert levels[1] == levels[0] + 1
    expect(page.get_by_label("Recording")).to_have_value("recorded")

    outer.locator(".twist").click()
    expect(inner).to_have_count(0)
    expect(outer).to_have_attribute("aria-expanded", "false")
    tree.press("ArrowRight")
    expect(inner).to_be_visible()
    tree.press("ArrowDown")
    expect(page.locator(".inspector")).to_contain_text("cancelled one")


def test_tasks_of_the_program_and_where_they_stand(make_site, open_page):
    site = make_site()
    page = open_page(f"{site.url}?view=tasks")

    tree = page.get_by_role("treegrid", name="Tasks")
    row = tree.get_by_role("row", name=re.compile("ConsoleSite._main"))
    expect(row).to_contain_text("_serve_until_stopped")
    row.click()
    expect(page.locator(".frames")).to_contain_text("console_site.py")
    before = tree.get_by_role("row").count()
    page.get_by_label("with the console's own").check()
    expect(page.locator(".tree-note", has_text="of the console").first).to_be_visible()
    assert tree.get_by_role("row").count() > before


def test_no_tasks_without_a_recording(make_site, open_page):
    page = open_page(f"{make_site().url}?view=tasks&tab=recorded")

    expect(page.locator(".empty")).to_contain_text("No tasks are recorded")


def test_a_store_fails_and_recovers(make_site, open_page):
    store = OutageStore(MemoryStore(), StoreError("down, for this test"))
    site = make_site(store)
    page = open_page(f"{site.url}?view=health")
    status = page.locator("#header .status")
    expect(status).to_have_text("All stored")
    expect(page.get_by_role("heading", name="All is well")).to_be_visible()

    store.is_down = True
    site.call(_ingest_only, site.log, 5)
    expect(page.get_by_role("heading", name="The store is failing")).to_be_visible()
    expect(status).to_contain_text("Store failing for")
    expect(page.locator(".card", has_text="Pending").first).to_contain_text("5")

    store.is_down = False
    expect(page.get_by_role("heading", name="All is well")).to_be_visible()
    expect(page.locator(".card", has_text="Ingested")).to_contain_text("5 events stored")
    expect(page.locator(".chart-line").first).to_have_attribute("d", re.compile("M"))


async def _ingest_only(log, number):
    await trio.lowlevel.checkpoint()
    for _ in range(number):
        log.ingest(AgentEvent("w-1", "tick"))


def test_the_theme_is_switched_and_kept(make_site, open_page):
    page = open_page(make_site().url, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)

    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(background)
    page.reload()

    assert light != dark
    assert page.evaluate(background) == dark


def test_long_names_of_runs_leave_the_numbers_in_sight(make_site, open_page):
    events = [
        agent(1, event_type="T" * 300, agent_id="m" * 300, payload={"run_id": "R" * 300}),
        agent(2, event_type="done", payload={"run_id": "short"}),
    ]
    page = open_page(f"{make_site(events=events).url}?view=runs")

    expect(page.locator(".scrolls")).to_have_count(2)
    for scrolls in page.locator(".scrolls").all():
        assert scrolls.evaluate("each => each.scrollWidth <= each.clientWidth")


def test_the_focus_stays_while_a_run_goes_on(make_site, open_page):
    site = make_site(events=run_events())
    page = open_page(f"{site.url}?view=runs&run=r")
    button = page.get_by_role("button", name="Show its events")
    for focused in (button, page.locator(".bar", has_text="plan")):
        focused.focus()
        expect(focused).to_be_focused()
        number = page.locator(".card strong").nth(2)
        count = int(number.inner_text())
        site.ingest(AgentEvent("w-1", "more", {"run_id": "r"}))
        expect(number).to_have_text(str(count + 1))
        expect(focused).to_be_focused()


def test_all_is_not_well_when_events_were_lost(make_site, open_page):
    page = open_page(make_site().url)

    def with_losses(route):
        answer = route.fetch()
        value = answer.json()
        value["live"] |= {"lost_total": 3, "lost": {"overflow": 3}}
        route.fulfill(response=answer, json=value)

    page.route("**/api/statistics*", with_losses)
    page.get_by_role("link", name="Health").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Events were lost")
    expect(page.locator(".card.is-failure")).to_contain_text("3 overflow")
