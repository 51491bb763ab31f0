"""MemoryStore and NullStore."""

import attrs
import pytest
import trio
import trio.testing

from tests._helpers.events import agent
from trio_eventlog import (
    EventQuery,
    EventStore,
)
from trio_eventlog.stores import (
    MemoryStore,
    NullStore,
)
from trio_eventlog.stores._common import _batches as _incoming

CANCELLED = trio.Cancelled


async def test_a_long_scan_of_memory_is_a_snapshot(monkeypatch):
    """Appends that come between its steps, at the end or in the middle, do not show."""
    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in range(2, 6_000, 2)])
    monkeypatch.setattr(_incoming, "_SLICE_SECONDS", 0)
    results = []

    async def read():
        results.append(await store.query(EventQuery()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        await store.append_batch([agent(5_999), agent(7_000)])

        assert not results
        await trio.testing.wait_all_tasks_blocked()

    assert [event.seq for event in results[0]] == list(range(2, 6_000, 2))
    assert len(await store.query(EventQuery())) == 3_001


async def test_two_calls_of_erase_do_not_undo_each_other(monkeypatch):
    """The commitment of the first would be lost. Nor is an event taken for one that had its id."""
    store, erased = MemoryStore(), []
    await store.append_batch([agent(seq) for seq in range(1, 101)])
    monkeypatch.setattr(_incoming, "_SLICE_SECONDS", 0)

    async def erase(reason):
        erased.append(await store.erase(EventQuery(), reason=reason))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(erase, "one")
        nursery.start_soon(erase, "two")
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        await store.prune(through_seq=1)
        await store.append_batch([attrs.evolve(agent(1), seq=200)])

    assert sorted(erased) == [0, 99]
    found = await store.query(EventQuery())
    assert [event.seq for event in found] == [*range(2, 101), 200]
    assert len({event.event.payload["@erased"]["reason"] for event in found[:-1]}) == 1
    assert found[-1].event.payload is None


@pytest.mark.parametrize("calls", ["query", "describe"])
async def test_a_scan_of_memory_goes_by_the_clock(monkeypatch, calls):
    """What an event costs, nobody knows before: after each of them it looks whether its time is over."""
    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in range(1, 101)])
    monkeypatch.setattr(_incoming, "_SLICE_SECONDS", 0)
    steps = []

    class CountSteps(trio.abc.Instrument):
        def before_task_step(self, task):
            steps.append(task)

    instrument = CountSteps()
    trio.lowlevel.add_instrument(instrument)
    await (store.query(EventQuery()) if calls == "query" else store.describe())
    trio.lowlevel.remove_instrument(instrument)
    assert len(steps) > 100


async def test_memory_puts_late_events_in_their_places():
    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in range(10, 1_000, 10)])
    late = [agent(seq) for seq in (1, 2, 15, 16, 17, 500_000, 985, 989, 991)]
    await store.append_batch(late)

    expected = sorted([*range(10, 1_000, 10), *(event.seq for event in late)])
    assert [event.seq for event in await store.query(EventQuery())] == expected
    assert [event.seq for event in await store.query(EventQuery(after_seq=988))] == [989, 990, 991, 500_000]
    assert await store.last_seq() == 500_000


async def test_memory_looks_once_for_one_of_many_types():
    """Thousands of types cost no more than one."""

    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other):
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    store = MemoryStore()
    await store.append_batch([agent(seq, event_type=f"t{seq % 7}") for seq in range(1, 101)])
    query = EventQuery(event_types=[f"x{n}" for n in range(5_000)] + ["t3", "t4"], limit=20)
    # Past the check of the query, which takes plain strings only.
    object.__setattr__(query, "event_types", tuple(map(Counted, query.event_types)))

    found = await store.query(query)

    assert [event.seq for event in found] == [seq for seq in range(1, 101) if seq % 7 in (3, 4)][:20]
    assert Counted.compared < 1_000


@pytest.mark.parametrize(
    ("arguments", "gone"), [({"keep": 2}, [1, 2, 3]), ({"before_ms": 30}, [1, 2]), ({"keep": 9}, [])]
)
async def test_the_progress_of_pruning_memory(arguments, gone):
    """Told once, when the events are gone; not if there are none, nor by a dry run."""
    store = MemoryStore()
    await store.append_batch([agent(seq, time_ms=seq * 10) for seq in range(1, 6)])
    told = []

    def tell(*numbers):
        told.append((*numbers, len(store._events)))

    assert await store.prune(**arguments, dry_run=True, on_progress=tell) == len(gone)
    assert told == []
    assert await store.prune(**arguments, on_progress=tell) == len(gone)

    assert told == ([(len(gone), len(gone), 5 - len(gone))] if gone else [])
    assert [event.seq for event in await store.query(EventQuery())] == list(range(len(gone) + 1, 6))
    assert await store.pruned_seq() == len(gone)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "before_ms, keep, through_seq: expected one of them"),
        ({"keep": 1, "before_ms": 1}, ValueError, "before_ms, keep, through_seq: expected one of them"),
        ({"keep": 1, "through_seq": 1}, ValueError, "before_ms, keep, through_seq: expected one of them"),
        ({"through_seq": -1}, ValueError, r"through_seq: expected 0 to 2\*\*63 - 1, got -1"),
        ({"keep": -1}, ValueError, r"keep: expected 0 to 2\*\*63 - 1, got -1"),
        ({"keep": True}, TypeError, "keep: expected an integer, got bool"),
        ({"keep": "1"}, TypeError, "keep: expected an integer, got str"),
        ({"before_ms": 2**63}, ValueError, r"before_ms: expected 0 to 2\*\*63 - 1, got"),
        ({"before_ms": 1.0}, TypeError, "before_ms: expected an integer, got float"),
    ],
)
async def test_what_pruning_refuses(arguments, error, message):
    """The same in every store, which share the check."""
    with pytest.raises(error, match=message):
        await MemoryStore().prune(**arguments)


def test_memory_store_says_what_it_is():
    assert repr(MemoryStore()) == "<MemoryStore with 0 events>"


# --- nothing --------------------------------------------------------------------------------------


async def test_null_store_keeps_nothing():
    store = NullStore()
    assert isinstance(store, EventStore)
    with trio.testing.assert_checkpoints():
        assert list(await store.append_batch([agent(1)])) == []
    with trio.testing.assert_checkpoints():
        assert await store.query(EventQuery()) == []
    with trio.testing.assert_checkpoints():
        assert await store.last_seq() == 0
