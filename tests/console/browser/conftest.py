"""A browser, and pages in it that have nothing to complain of."""

import os
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from tests._helpers.console_site import WIDE, ConsoleSite, kept
from trio_eventlog.stores import MemoryStore

expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "no Chromium: install Debian's package `chromium`, or name it by the variable CHROMIUM"
    with sync_playwright() as playwright:
        # It runs as root in CI, where its own sandbox is not to be had. It opens nothing but the console.
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Opens pages, each with its own cookies; afterwards none may have had an error."""
    complaints = []
    contexts = []

    def opened(url, *, viewport=WIDE, color_scheme="light", may_complain=False, **options):
        context = browser.new_context(viewport=viewport, color_scheme=color_scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if not may_complain:
            page.on("console", lambda message: _note(complaints, message))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def _note(complaints, message):
    # What the page's policy refuses comes as an error.
    if message.type in {"error", "warning"}:
        complaints.append(message.text)


@pytest.fixture
def make_site():
    """Makes logs with consoles."""
    sites = []

    def made(store=None, *, events=(), **options):
        opened = MemoryStore() if store is None else store
        site = ConsoleSite(lambda: kept(opened), events=list(events), **options)
        sites.append(site)
        return site

    yield made
    for site in sites:
        site.stop()
