"""Events that are pruned before a command has read them."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import attrs
import pytest
import trio

from tests._helpers.cli import (
    envelope,
)
from trio_eventlog import (
    EventQuery,
    PersistedEvent,
)
from trio_eventlog.cli import (
    _copy,
    _export,
    _query,
)
from trio_eventlog.stores import MemoryStore


class Pruning(MemoryStore):
    """Loses events 101 to 150 once somebody has read the first page."""

    async def query(self, query):
        if query.after_seq:
            self.pruned = 150
        found = await super().query(attrs.evolve(query, limit=None))
        return [event for event in found if not 100 < event.seq <= self.pruned][: query.limit]

    pruned = 0

    async def pruned_seq(self):
        await trio.lowlevel.checkpoint()
        return self.pruned


@pytest.fixture
def pruning():
    store = Pruning()

    async def fill():
        await store.append_batch(
            [PersistedEvent(f"event-{n}", n, n, "agent-1", envelope(n).event) for n in range(1, 251)]
        )

    trio.run(fill)
    return store


PRUNED = "trio-eventlog: events were pruned before they were read (seq 101 to 150)\n"


@pytest.mark.parametrize("first", [[], ["--after-seq", 100]])
@pytest.mark.parametrize("command", ["query", "export"])
def test_readers_say_what_was_pruned(cli, use_store, pruning, monkeypatch, command, first):
    monkeypatch.setattr(_export, "_PAGE_SIZE", 100)
    monkeypatch.setattr(_query, "_PAGE_SIZE", 100)
    use_store(pruning)
    done = cli(command, "--store", "memory:", *first)
    assert (done.status, done.err) == (1, PRUNED)
    assert len(done.out.splitlines()) == (100 if first else 200)


def test_copy_says_what_was_pruned(capfd, pruning, small_pages):
    async def main():
        target = MemoryStore()
        return await _copy.copy_events(pruning, target, max_shown=1), await target.query(EventQuery())

    status, copied = trio.run(main)
    assert (status, len(copied)) == (1, 200)
    assert capfd.readouterr() == ("200 events copied; up to seq 250\n", PRUNED)


def test_what_was_pruned_before_does_not_concern_who_begins_at_the_first(cli, filled, tmp_path):
    cli("prune", "--store", filled, "--keep", 1_500)
    for command in (
        ["query"],
        ["export"],
        ["export", "--output", tmp_path / "out.jsonl"],
        ["tail", "--last", 1_500, "--limit", 1_500],
        ["tail", "--last", 3_000, "--run-id", "run-1", "--limit", 150],
        ["query", "--all-logs"],
    ):
        done = cli(*command, "--store", filled)
        assert (done.status, done.err) == (0, "")
    done = cli("copy", "--from", filled, "--to", f"sqlite:{tmp_path / 'copy.db'}")
    assert (done.status, done.err, done.out) == (0, "", "1,500 events copied; up to seq 2500\n")
