"""A policy, applied again and again while a log is written to."""

from __future__ import annotations

import logging
import math
import time

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.events import agent
from tests._helpers.examples import few
from trio_eventlog import EventQuery, StoreError, StoreUnusable, to_json
from trio_eventlog.retention import RetentionPolicy, retain, verify_archive
from trio_eventlog.retention._archive import Archive
from trio_eventlog.retention._retain import apply_policy
from trio_eventlog.stores import MemoryStore

NOW = 1_700_000_000_000


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: NOW * 1_000_000)


async def seqs(store):
    return [event.seq for event in await store.query(EventQuery())]


CRITERIA = st.fixed_dictionaries(
    {},
    optional={
        "older_than": st.sampled_from([0, 0.5, 2, 5]),
        "most_events": st.integers(0, 9),
        "most_bytes": st.integers(0, 1_500),
    },
).filter(bool)


def expected(events, criteria):
    """The definition."""
    left = [
        event
        for event in events
        if "older_than" not in criteria or event.timestamp_ms >= NOW - criteria["older_than"] * 1000
    ]
    left = (
        left[max(len(left) - criteria.get("most_events", math.inf), 0) :]
        if "most_events" in criteria
        else left
    )
    while left and sum(len(to_json(event)) + 1 for event in left) > criteria.get("most_bytes", math.inf):
        del left[0]
    return [event.seq for event in left]


@few(20)
@given(st.lists(st.integers(-6_000, 2_000), max_size=8), CRITERIA, st.booleans())
def test_what_is_left_is_what_the_policy_allows(tmp_path_factory, ages, criteria, is_archived):
    events = [agent(seq, time_ms=NOW + age, payload="x" * seq * 10) for seq, age in enumerate(ages, 1)]
    directory = tmp_path_factory.mktemp("retention") / "archive"
    policy = RetentionPolicy(**criteria, archive=directory if is_archived else None)

    async def run():
        store = MemoryStore()
        await store.append_batch(events)
        await apply_policy(store, store, policy)
        return await seqs(store)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: NOW * 1_000_000)
        left = trio.run(run)

    assert left == expected(events, criteria)
    if is_archived:
        found = verify_archive(directory)
        assert (found.events, found.problems) == (len(events) - len(left), ())


async def test_it_comes_back_after_a_while(autojump_clock):
    store = MemoryStore()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: retain(store, RetentionPolicy(most_events=2), every=60))
        for first in (1, 11, 21):
            await store.append_batch([agent(seq) for seq in range(first, first + 10)])
            await trio.sleep(61)
            assert await seqs(store) == [first + 8, first + 9]
        nursery.cancel_scope.cancel()


async def test_a_failure_in_passing_is_told_and_the_next_round_tries_again(autojump_clock, caplog, tmp_path):
    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in range(1, 4)])
    prune, errors = store.prune, [StoreError("down"), OSError(28, "No space left on device")]

    async def failing(**arguments):
        if errors:
            await trio.lowlevel.checkpoint()
            raise errors.pop(0)
        return await prune(**arguments)

    store.prune = failing
    with trio.move_on_after(5), caplog.at_level(logging.WARNING):
        await retain(store, RetentionPolicy(most_events=1), every=2)

    assert await seqs(store) == [3]
    assert [record.getMessage() for record in caplog.records] == [
        "retention: trying again in 2 seconds: down",
        "retention: trying again in 2 seconds: [Errno 28] No space left on device",
    ]


async def test_it_waits_while_another_one_writes_to_the_archive(caplog, tmp_path):
    """A prune by hand, for example, must not end the program."""
    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in range(1, 4)])
    policy = RetentionPolicy(most_events=1, archive=tmp_path)
    with Archive(tmp_path, None), trio.move_on_after(0.05), caplog.at_level(logging.WARNING):
        await retain(store, policy, every=0.01)

    assert await seqs(store) == [1, 2, 3]
    assert "is writing to this archive" in caplog.records[0].getMessage()
    await apply_policy(store, store, policy)
    assert await seqs(store) == [3]


async def test_a_store_that_is_unusable_ends_it():
    class Broken(MemoryStore):
        async def prune(self, **_):
            await trio.lowlevel.checkpoint()
            raise StoreUnusable("gone")

    with pytest.raises(StoreUnusable, match="gone"):
        await retain(Broken(), RetentionPolicy(most_events=1))


@pytest.mark.parametrize(
    ("fields", "error", "why"),
    [
        ({}, ValueError, "older_than, most_events, most_bytes: expected at least one"),
        ({"archive": "x"}, ValueError, "expected at least one"),
        ({"older_than": "1d"}, TypeError, "older_than: expected seconds, got str"),
        ({"older_than": True}, TypeError, "older_than: expected seconds, got bool"),
        ({"older_than": -1}, ValueError, "older_than: expected 0 or more seconds, got -1"),
        ({"older_than": math.nan}, ValueError, "older_than: expected 0 or more seconds, got nan"),
        ({"older_than": math.inf}, ValueError, "older_than: expected 0 or more seconds, got inf"),
        ({"most_events": 1.0}, TypeError, "most_events: expected an integer, got float"),
        ({"most_bytes": -1}, ValueError, r"most_bytes: expected 0 to 2\*\*63 - 1, got -1"),
        ({"most_bytes": 1, "archive": 1}, TypeError, "archive: expected the path of a directory, got int"),
        ({"most_bytes": 1, "archive": "\0"}, ValueError, "archive: expected the path of a directory"),
    ],
)
def test_a_policy_is_checked(fields, error, why):
    with pytest.raises(error, match=why):
        RetentionPolicy(**fields)


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"every": 0}, ValueError, "every: expected more than 0 seconds"),
        ({"every": "1h"}, TypeError, "every: expected seconds, got str"),
        ({"policy": None}, TypeError, "policy: expected a RetentionPolicy, got NoneType"),
        ({"store": 1}, TypeError, "store: expected one that can be pruned, got int"),
    ],
)
async def test_arguments_are_checked(arguments, error, why):
    arguments = {"store": MemoryStore(), "policy": RetentionPolicy(most_events=1), **arguments}
    with pytest.raises(error, match=why):
        await retain(arguments.pop("store"), arguments.pop("policy"), **arguments)
