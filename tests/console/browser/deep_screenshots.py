"""Makes the pictures of the console in the docs. Look at them before you commit them."""

import io
import os
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from PIL import Image
from playwright.sync_api import expect

from tests._helpers.console_site import NARROW, OutageStore
from tests._helpers.console_story import history
from trio_eventlog import AgentEvent, StoreError
from trio_eventlog.recorder import record_tasks
from trio_eventlog.stores import MemoryStore

IMAGES = Path(__file__).parents[3] / "docs" / "images"
IMAGES = Path(os.environ.get("TRIO_EVENTLOG_IMAGES", IMAGES))
SIZE = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def events():
    return history(until_ms=int(time.time() * 1000), hours=3)


@pytest.fixture
def site(make_site, events):
    return make_site(events=events)


def take(page, name):
    page.mouse.move(0, 0)
    taken = page.screenshot(animations="disabled")
    # 256 colours are enough, and a fifth of the bytes.
    picture = Image.open(io.BytesIO(taken)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(IMAGES / f"console-{name}.png", optimize=True)


def settled(page):
    expect(page.locator(".bars path").first).to_be_attached()
    expect(page.locator(".facet-value").first).to_be_visible()
    expect(page.locator("#header .status")).to_have_text("All stored")


async def _work(log, seconds):
    with trio.move_on_after(seconds), record_tasks(log, run_id="trio-7c1e", filter=_is_shown):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_heartbeat, log, name="heartbeat")
            for number in range(1, 5):
                nursery.start_soon(_worker, log, number, name=f"worker {number}")


def _is_shown(task):
    # Those of the test have the names of functions.
    return "." not in task.name


async def _heartbeat(log):
    while True:
        await trio.sleep(0.2)
        log.ingest(AgentEvent("agent-7", "tick"))


async def _worker(log, number):
    chance = random.Random(number)  # noqa: S311 - the same each time
    for step in range(20):
        with trio.move_on_after(0.3):
            async with trio.open_nursery() as nursery:
                for kind in ("fetch", "parse"):
                    nursery.start_soon(trio.sleep, chance.uniform(0.02, 0.32), name=f"{kind} {step}")
        if (number, step) == (1, 1):
            time.sleep(0.18)  # noqa: ASYNC251 - a slow step, to be seen
        log.ingest(AgentEvent(f"agent-{number}", "step_done", {"run_id": f"run-live-{number}", "n": step}))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_events(site, open_page, scheme):
    page = open_page(site.url, viewport=SIZE, color_scheme=scheme)
    settled(page)
    take(page, f"events-{scheme}")


def test_an_open_event(site, open_page, events):
    seq = next(each.seq for each in reversed(events) if each.event.event_type == "step_done")
    page = open_page(f"{site.url}?open={seq}", viewport=SIZE)
    settled(page)
    take(page, "open")


def test_a_run(site, open_page, events):
    lost_after = next(a.seq for a, b in pairwise(events) if b.seq > a.seq + 1)
    runs = {}
    for each in events:
        if (run := each.event.payload.get("run_id")) is not None:
            runs.setdefault(run, []).append(each)
    # One that has lost an event, and failed if there is such a one, of as many members as possible.
    run = max(
        (run for run, own in runs.items() if own[0].seq < lost_after < own[-1].seq),
        key=lambda run: (
            any(each.event.event_type == "run_failed" for each in runs[run]),
            len({each.member_id for each in runs[run]}),
        ),
    )
    page = open_page(f"{site.url}?view=runs&run={run}", viewport={**SIZE, "height": 800})
    expect(page.locator(".bar").first).to_be_visible()
    page.locator(".bar").last.click()
    page.locator("main").evaluate("main => { main.scrollTop = 0; }")
    take(page, "run")


def test_recorded_tasks(site, open_page):
    site.call(_work, site.log, 3)
    page = open_page(f"{site.url}?view=tasks&tab=recorded", viewport={**SIZE, "height": 640})
    expect(page.locator(".life").nth(5)).to_be_visible()
    take(page, "tasks")


def test_health(make_site, open_page):
    store = OutageStore(MemoryStore(), StoreError("down, for this picture"))
    site = make_site(store)
    site.call(_work, site.log, 6)
    store.is_down = True
    site.call(_work, site.log, 4)
    page = open_page(f"{site.url}?view=health", viewport={**SIZE, "height": 640})
    expect(page.get_by_role("heading", name="The store is failing")).to_be_visible()
    expect(page.locator(".chart-line").first).to_be_visible()
    take(page, "health")
    store.is_down = False


def test_on_a_telephone(site, open_page):
    page = open_page(site.url, viewport=NARROW, color_scheme="dark", device_scale_factor=2)
    expect(page.locator(".bars path").first).to_be_attached()
    expect(page.locator("#header .status")).to_have_text("All stored")
    take(page, "narrow")
