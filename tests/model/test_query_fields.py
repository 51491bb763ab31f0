"""A new field of a query has to be known in many places: here each is asked for every field.

PostgreSQL and JetStream are asked in ``tests/stores/servers/test_query_fields.py``.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import pytest
import trio

from tests._helpers.cli import run_main
from tests._helpers.correct_stores import CorrectMemoryStore, opened_memory
from tests._helpers.harness import hardly_shrunk  # noqa: F401 - a fixture
from tests._helpers.query_fields import (
    FIELDS,
    MATCHING,
    assert_filters_by_every_field,
    query_by,
    three_events,
)
from trio_eventlog import EventQuery, PersistedEvent, from_json, to_json
from trio_eventlog._engine._recent_events import RecentEvents
from trio_eventlog._model._sealed import seal_persisted
from trio_eventlog.stores import MemoryStore, SqliteStore, open_store
from trio_eventlog.testing import check_store

OPTIONS = {
    "since_ms": "--since",
    "until_ms": "--until",
    "event_types": "--event-type",
    "fields": "--field",
}
"""The options of the command line that have another name than the field."""


def test_every_field_has_a_case() -> None:
    """The first test to fail if there is a new field. Enter it there, and see which others fail."""
    assert list(MATCHING) == FIELDS


@pytest.mark.parametrize("field", FIELDS)
def test_the_definition_of_a_filter(field: str) -> None:
    """A limit is about a result, not about an event."""
    found = [event.seq for event in three_events() if query_by(field).matches(event)]
    assert found == ([1, 2, 3] if field == "limit" else MATCHING[field][1])


@pytest.mark.parametrize("field", FIELDS)
def test_the_wire_form_has_every_field(field: str) -> None:
    """And nothing but the field."""
    query = query_by(field)
    assert from_json(to_json(query), EventQuery) == query != EventQuery()
    assert list(json.loads(to_json(query))) == [field]


async def test_memory_and_sqlite_filter_by_every_field(tmp_path: Path) -> None:
    """Also the pages of SQLite."""
    await assert_filters_by_every_field(MemoryStore())
    async with SqliteStore.open(tmp_path / "events.db", synchronous="off") as store:
        await assert_filters_by_every_field(store)


@pytest.mark.parametrize("field", [field for field in FIELDS if field not in ("limit", "after_seq")])
def test_recent_events_filter_by_every_field(field: str) -> None:
    """They look at outlines of the events. Cursor and limit are arguments of their own."""
    recent = RecentEvents(0, most_events=10, most_bytes=10_000)
    recent.add([seal_persisted(event) for event in three_events()], is_complete=True)
    read = recent.read(0, query_by(field), 10)
    assert read is not None
    assert [event.seq for event in read[0]] == MATCHING[field][1]


async def test_the_command_line_filters_by_every_field(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With an option for each."""
    url = f"sqlite:{tmp_path / 'events.db'}"
    async with open_store(url) as store:
        await store.append_batch(three_events())
    for field in FIELDS:
        value, seqs = MATCHING[field]
        option = OPTIONS.get(field, f"--{field.replace('_', '-')}")
        if isinstance(value, dict):
            ((key, asked),) = value.items()
            text = f"{key}={json.dumps(asked)}"
        else:
            text = value[0] if isinstance(value, tuple) else value
        assert await trio.to_thread.run_sync(run_main, "query", "--store", url, option, text) == 0
        found = capfd.readouterr().out.splitlines()
        assert [from_json(line, PersistedEvent).seq for line in found] == seqs, field


@pytest.mark.usefixtures("hardly_shrunk")
@pytest.mark.parametrize("field", FIELDS)
def test_the_harness_finds_a_store_that_ignores_a_field(field: str) -> None:
    """Each field alone."""

    class Ignoring(CorrectMemoryStore):
        async def query(self, query: EventQuery) -> list[PersistedEvent]:
            default = attrs.fields_dict(EventQuery)[field].default
            return await super().query(attrs.evolve(query, **{field: default}))

    def open_ignoring(location: Path) -> AbstractAsyncContextManager[Ignoring]:
        return opened_memory(Ignoring, location)

    report = check_store(open_ignoring, clauses=["S5"], durable=False, max_examples=5, seed=1, budget=20.0)
    assert report.failures
