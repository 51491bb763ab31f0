"""The programs of the pages about every store do on servers what they do on a file."""

import pytest

from tests._helpers.nats_server import running_server
from tests._helpers.pages import ROOT, fences, normal, run_program
from tests._helpers.postgres_server import postgres_server

PAGES = {
    "how-to/choose-a-store.md": "EVENT_STORE",
    "explanation/from-one-machine-to-many.md": "EVENT_PLACE",
}
"""Each with the variable by which its program is told where to keep logs."""


@pytest.fixture(params=["postgresql", "nats"])
def place(request):
    """An empty one."""
    if request.param == "postgresql":
        with postgres_server() as server:
            yield server.url()
    else:
        with running_server() as server:
            yield f"{server.url}/EVENTS"


@pytest.mark.parametrize("page", PAGES)
def test_one_url_is_all_that_changes(monkeypatch, tmp_path, place, page):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PAGES[page], place)
    path = ROOT / "docs" / page
    program, shown, *_ = [one for one in fences(path) if one.language == "python" or "output" in one.notes]

    output = run_program(program.text, path, program.line)

    assert normal(output) == normal(shown.text)
