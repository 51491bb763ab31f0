"""What axe finds: nothing serious, in any view."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests._helpers.console_site import NARROW, WIDE
from tests._helpers.events import agent

SERIOUS = {"serious", "critical"}
VIEWS = {
    "events": ("", ".rows > .row[data-key]"),
    "an event that is open": ("?open=7", ".json"),
    "filters": ("?event_type=run_failed&member_id=w-1&since_ms=1", ".chip"),
    "nothing": ("?member_id=nobody", ".empty"),
    "runs": ("?view=runs", "table"),
    "a run": ("?view=runs&run=r-1", ".bar"),
    "tasks": ("?view=tasks", ".tree-row"),
    "recorded tasks": ("?view=tasks&tab=recorded", ".empty"),
    "health": ("?view=health", ".chart"),
}


def events():
    kinds = ("run_started", "step_started", "step_done", "run_failed", "log.warning")
    return [
        agent(
            seq,
            time_ms=1_784_019_600_000 + seq * 100,
            agent_id=f"w-{seq % 3}",
            event_type=kinds[seq % 5],
            payload={
                "run_id": f"r-{seq % 2}",
                "step_id": f"s-{seq // 5}",
                "ok": True,
                "none": None,
                "n": seq,
            },
        )
        for seq in range(1, 30)
        if seq != 20
    ]


@pytest.mark.parametrize(("viewport", "scheme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide", "narrow"])
def test_axe_finds_nothing_serious(make_site, open_page, viewport, scheme):
    site = make_site(events=events())
    page = open_page(site.url, viewport=viewport, color_scheme=scheme)
    found = []
    for name, (search, awaited) in VIEWS.items():
        page.goto(site.url + search)
        expect(page.locator(awaited).first).to_be_visible()
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in SERIOUS:
                places = [node["html"][:160] for node in violation["nodes"][:3]]
                found.append(f"{name}: {violation['id']}: {violation['help']}: {places}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert not found, "\n".join(found)


def test_panels_and_the_facets_on_a_telephone(make_site, open_page):
    page = open_page(make_site(events=events()).url, viewport=NARROW)
    expect(page.locator(".rows > .row").first).to_be_visible()

    for name in ("Range of time", "Add a filter"):
        page.get_by_role("button", name=name).click()
        panel = page.get_by_role("dialog", name=name)
        expect(panel).to_be_visible()
        box = panel.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= NARROW["width"]
        assert not [each for each in Axe().run(page).response["violations"] if each["impact"] in SERIOUS]
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()

    page.get_by_role("button", name="Facets").click()
    page.locator("[data-facet='event_type=run_failed']").click()
    expect(page.locator(".chip")).to_have_count(1)
    expect(page.locator(".side")).to_be_hidden()
