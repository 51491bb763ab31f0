"""The clauses S1 to S12 on every store of the package that keeps events; NullStore; stores by URL."""

import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, note

from tests._helpers import store_oracle as oracle
from tests._helpers.longest_step import measured_steps
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    EventStore,
    LogNotFound,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
    StoreUnusable,
)
from trio_eventlog.stores import (
    MemoryStore,
    NullStore,
    SqliteStore,
    open_readers,
    open_store,
    without_secrets,
)
from trio_eventlog.stores._common import _batches as _incoming

CANCELLED = trio.Cancelled


@asynccontextmanager
async def memory_store(_directory):
    yield MemoryStore()


def sqlite_store(directory):
    return SqliteStore.open(directory / "events.db", synchronous="off")


KINDS = {"memory": memory_store, "sqlite": sqlite_store}


@pytest.fixture(params=KINDS)
def opened(request, tmp_path):
    """An async context manager around an empty store."""
    return KINDS[request.param](tmp_path)


def agent(seq, *, event_id=None, time_ms=None, agent_id="a", event_type="t", payload=None):
    return PersistedEvent(
        f"id-{seq}" if event_id is None else event_id,
        seq,
        seq * 10 if time_ms is None else time_ms,
        agent_id,
        AgentEvent(agent_id, event_type, payload),
    )


def module(seq, *, event_id=None, event_type="t", payload=None):
    event_id = f"id-{seq}" if event_id is None else event_id
    return PersistedEvent(event_id, seq, seq * 10, None, ModuleEvent("m", event_type, payload))


async def everything(store):
    return [oracle.canonical(event) for event in await store.query(EventQuery())]


def ids(events):
    return [event.id for event in events]


# --- against the oracle ---------------------------------------------------------------------------


async def run_program(store, program):
    model = oracle.Oracle()
    given_batches = [[]]
    for name, argument in program:
        note(f"{name} {argument}")
        if name == "again":
            index, start, more = argument
            batch = given_batches[index % len(given_batches)][start:] + more
            await append_and_compare(store, model, batch)
        elif name == "append":
            given_batches.append(argument)
            await append_and_compare(store, model, argument)
        elif name == "query":
            found = await store.query(argument)
            expected = model.query(argument)
            assert [oracle.canonical(e) for e in found] == [oracle.canonical(e) for e in expected]
        else:
            assert await store.last_seq() == model.highest
    assert await everything(store) == [oracle.canonical(event) for event in model.query(EventQuery())]
    assert await store.last_seq() == model.highest


async def append_and_compare(store, model, batch):
    outcome, expected = model.append(batch)
    try:
        got = "stored", list(await store.append_batch(batch))
    except EventRejected as exc:
        got = "rejected", ids(exc.events)
    except SequenceConflict as exc:
        got = "conflict", list(exc.seqs)
    assert got == (outcome, expected)


@given(program=oracle.programs)
def test_memory_answers_as_the_oracle_does(program):
    trio.run(run_program, MemoryStore(), program)


@given(program=oracle.programs)
def test_sqlite_answers_as_the_oracle_does(tmp_path_factory, program):
    async def run():
        # Keeping the files apart is cheaper than creating one log more in a growing database.
        async with sqlite_store(tmp_path_factory.mktemp("oracle")) as store:
            await run_program(store, program)

    trio.run(run)


# --- clause by clause -----------------------------------------------------------------------------


async def test_stores_are_stores(opened):
    async with opened as store:
        assert isinstance(store, EventStore)
        assert getattr(store, "max_batch", None) is None


async def test_s1_a_repeat_changes_nothing_whatever_it_carries(opened):
    async with opened as store:
        await store.append_batch([agent(1, payload={"n": 1}), agent(2)])
        before = await everything(store)

        assert list(await store.append_batch([agent(1, payload={"n": 2}, event_type="other")])) == []
        assert list(await store.append_batch([agent(7, event_id="id-1")])) == [7]

        assert await everything(store) == before
        assert await store.last_seq() == 2


async def test_s1_a_duplicate_inside_one_batch_loses_against_the_first(opened):
    async with opened as store:
        batch = [agent(1, event_id="x"), agent(2, event_id="x"), agent(3), agent(1, event_id="x"), agent(4)]

        assert list(await store.append_batch(batch)) == [2]

        assert [event.seq for event in await store.query(EventQuery())] == [1, 3, 4]


async def test_s1_an_old_batch_followed_by_newer_events(opened):
    async with opened as store:
        old = [agent(seq) for seq in range(1, 1_000)]
        await store.append_batch(old)

        assert (
            list(await store.append_batch([*old[500:], *(agent(seq) for seq in range(1_000, 1_100))])) == []
        )

        assert [event.seq for event in await store.query(EventQuery())] == list(range(1, 1_100))


async def test_s2_gaps_and_batches_in_any_order(opened):
    async with opened as store:
        for seq in (5, 2**63 - 1, 1, 9, 3):
            await store.append_batch([agent(seq, time_ms=seq)])
        await store.append_batch([agent(8, time_ms=0), agent(2, time_ms=0)])

        assert [event.seq for event in await store.query(EventQuery())] == [1, 2, 3, 5, 8, 9, 2**63 - 1]


async def test_s3_a_seq_that_is_taken(opened):
    async with opened as store:
        await store.append_batch([agent(1), agent(2), agent(3)])
        batch = [agent(4), agent(3, event_id="new"), agent(2), agent(1, event_id="newer")]

        with pytest.raises(SequenceConflict) as caught:
            await store.append_batch(batch)

        assert caught.value.seqs == (1, 3)
        assert await store.last_seq() == 3
        await store.append_batch([agent(4)])


async def test_s3_two_new_events_on_one_seq(opened):
    async with opened as store:
        with pytest.raises(SequenceConflict) as caught:
            await store.append_batch([agent(1), agent(2), agent(2, event_id="other")])

        assert caught.value.seqs == (2,)
        assert await everything(store) == []


async def test_s3_known_ids_are_set_aside_first(opened):
    async with opened as store:
        await store.append_batch([agent(1), agent(2)])

        assert list(await store.append_batch([agent(1, event_id="id-2")])) == [1]


async def test_s4_no_reader_sees_part_of_a_batch(opened):
    """However reads and appends interleave, whole batches of 700 are seen, in any order of seq."""
    async with opened as store:
        sizes = []
        done = False

        async def read():
            while not done:
                sizes.append(len(await store.query(EventQuery())))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for batch in (3, 1, 4, 0, 2):
                start = batch * 700 + 1
                await store.append_batch([agent(seq) for seq in range(start, start + 700)])
            done = True

        assert sizes
        assert all(size % 700 == 0 for size in sizes)
        assert len(await store.query(EventQuery())) == 3_500


async def test_s5_bounds_are_inclusive_and_exclusive(opened):
    async with opened as store:
        await store.append_batch([agent(seq) for seq in range(1, 6)])

        async def seqs(**fields):
            return [event.seq for event in await store.query(EventQuery(**fields))]

        assert await seqs(after_seq=2) == [3, 4, 5]
        assert await seqs(since_ms=20, until_ms=40) == [2, 3]
        assert await seqs(since_ms=20, until_ms=40, after_seq=2) == [3]
        assert await seqs(until_ms=0) == []
        assert await seqs(since_ms=30, until_ms=30) == []
        assert await seqs(limit=0) == []
        assert await seqs(limit=2) == [1, 2]
        assert await seqs(since_ms=20, limit=2) == [2, 3]
        assert await seqs(after_seq=0) == [1, 2, 3, 4, 5]
        assert await seqs(after_seq=2**64 - 1) == []
        assert await seqs(since_ms=2**64 - 1) == []
        assert await seqs(until_ms=2**64 - 1, limit=2**64 - 1) == [1, 2, 3, 4, 5]


async def test_s5_types_any_of_and_filters_all_of(opened):
    async with opened as store:
        types = ["x", "y", "z"]
        await store.append_batch(
            [agent(seq, event_type=types[seq % 3], agent_id=f"a{seq % 2}") for seq in range(1, 40)]
        )
        expected = [seq for seq in range(1, 40) if types[seq % 3] in "xz" and seq % 2 == 1]

        query = EventQuery(event_types=("z", "x", "z", "none"), member_id="a1")
        assert [event.seq for event in await store.query(query)] == expected
        query = EventQuery(event_types=("z", "x"), limit=5, after_seq=3)
        found = [event.seq for event in await store.query(query)]
        assert found == [seq for seq in range(4, 40) if types[seq % 3] in "xz"][:5]


@pytest.mark.parametrize("count", [33, 10_001, 40_000])
async def test_s5_any_number_of_types(opened, count):
    async with opened as store:
        await store.append_batch([agent(seq, event_type=f"t{seq}") for seq in range(1, 10)])
        wanted = tuple(f"t{n}" for n in range(5, 5 + count))

        assert [e.seq for e in await store.query(EventQuery(event_types=wanted))] == [5, 6, 7, 8, 9]
        assert [e.seq for e in await store.query(EventQuery(event_types=wanted, limit=2))] == [5, 6]
        assert [e.seq for e in await store.query(EventQuery(event_types=wanted, after_seq=7))] == [8, 9]


async def test_s5_no_hidden_page_size(opened):
    async with opened as store:
        await store.append_batch([agent(seq) for seq in range(1, 3_001)])

        assert len(await store.query(EventQuery())) == 3_000
        assert len(await store.query(EventQuery(event_types=("t", "u")))) == 3_000
        assert len(await store.query(EventQuery(member_id="a"))) == 3_000


async def test_s6_strings_compare_exactly(opened):
    async with opened as store:
        for seq, text in enumerate(oracle.NASTY, start=1):
            payload = dict.fromkeys(("identity", "mob_id", "run_id", "step_id"), text)
            await store.append_batch(
                [agent(seq, event_id=f"{text}!", agent_id=text, event_type=text, payload=payload)]
            )
        for seq, text in enumerate(oracle.NASTY, start=1):
            for query in (
                EventQuery(member_id=text),
                EventQuery(event_types=(text,)),
                EventQuery(identity=text),
                EventQuery(mob_id=text),
                EventQuery(run_id=text),
                EventQuery(step_id=text),
            ):
                assert [event.seq for event in await store.query(query)] == [seq]


async def test_s7_values_come_back_as_they_were(opened):
    payloads = [
        None,
        *(True, False, 0, 1, 1.0, -1, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 1e308, 5e-324, -0.0, 0.1),
        *("", "\0", "a\0b", "😀", "\u2028", '"\\', "null"),
        *([], {}, [None], [[[]]], {"": {"\0": [1, 1.0, True, None]}}),
        {"run_id": None, "step_id": 7, "identity": ["x"], "mob_id": {"a": 1}},
    ]
    async with opened as store:
        events = [agent(seq, payload=payload) for seq, payload in enumerate(payloads, start=1)]
        events += [module(seq, payload=payload) for seq, payload in enumerate(payloads, start=100)]
        events.append(PersistedEvent("", 2**63 - 1, 2**63 - 1, "", AgentEvent("other", "", None)))
        await store.append_batch(events)

        found = await store.query(EventQuery())

        assert [oracle.canonical(event) for event in found] == [oracle.canonical(event) for event in events]
        assert found == events


async def test_s7_what_every_store_holds(opened):
    """Strings of 512 bytes, events of 64 KiB, 32 levels."""
    text = "😀" * 128
    nested = []
    for _ in range(31):
        nested = [nested]
    event = PersistedEvent(
        text, 1, 0, text, AgentEvent(text, text, {"run_id": text, "deep": nested, "x": "y" * 64_000})
    )
    async with opened as store:
        await store.append_batch([event])

        assert await store.query(EventQuery(run_id=text, member_id=text, event_types=(text,))) == [event]


async def test_s8_nothing_is_shared_with_what_was_given(opened):
    payload = {"run_id": "r", "items": [1]}
    batch = [agent(1, payload=payload)]
    async with opened as store:
        await store.append_batch(batch)
        batch.append(agent(2))
        payload["run_id"] = "changed"
        payload["items"].append(2)

        (event,) = await store.query(EventQuery(run_id="r"))
        assert event.event.payload == {"run_id": "r", "items": [1]}


@pytest.mark.parametrize("query", [EventQuery(), EventQuery(run_id="r")])
async def test_s8_nothing_is_shared_with_what_was_returned(opened, query):
    async with opened as store:
        await store.append_batch([agent(1, payload={"run_id": "r", "items": [1]})])
        results = [await store.query(query) for _ in range(2)]
        results[0][0].event.payload["run_id"] = "changed"
        results[0][0].event.payload["items"].append(2)
        results[0].clear()

        assert results[1][0].event.payload == {"run_id": "r", "items": [1]}
        (event,) = await store.query(EventQuery(run_id="r"))
        assert event.event.payload == {"run_id": "r", "items": [1]}


async def test_s9_last_seq(opened):
    async with opened as store:
        assert await store.last_seq() == 0
        await store.append_batch([agent(7)])
        assert await store.last_seq() == 7
        await store.append_batch([agent(3), agent(9, event_id="id-7")])
        assert await store.last_seq() == 7


async def test_s10_an_append_is_read_by_the_next_query(opened):
    async with opened as store:
        for seq in range(1, 30):
            await store.append_batch([agent(seq)])
            assert [event.seq for event in await store.query(EventQuery(after_seq=seq - 1))] == [seq]


CALLS = {
    "append": lambda store: store.append_batch([agent(1)]),
    "append nothing": lambda store: store.append_batch([]),
    "query": lambda store: store.query(EventQuery()),
    "query nothing": lambda store: store.query(EventQuery(limit=0)),
    "query after the end": lambda store: store.query(EventQuery(after_seq=2**64 - 1)),
    "last_seq": lambda store: store.last_seq(),
    "describe": lambda store: store.describe(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
async def test_s11_every_method_is_a_checkpoint(opened, call):
    async with opened as store:
        with trio.testing.assert_checkpoints():
            await call(store)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
async def test_s11_entered_cancelled(opened, call):
    async with opened as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(CANCELLED):
                await call(store)
            scope.shield = True
            assert await store.last_seq() == 0


async def test_s11_no_step_blocks_the_loop(opened):
    events = [
        agent(seq, payload={"run_id": "r", "text": "x" * 500, "n": list(range(20))})
        for seq in range(1, 5_001)
    ]
    async with opened as store:
        with measured_steps() as longest:
            await store.append_batch(events)
            assert len(await store.query(EventQuery(run_id="r"))) == 5_000
            assert len(await store.query(EventQuery())) == 5_000
            await store.append_batch(events)

        assert longest.seconds < 0.1


@pytest.mark.parametrize(
    "payload",
    [{"run_id": "r", "n": [1] * 32_000}, {"run_id": "r", "text": "é😀" * 10_900}],
    ids=["dense", "astral"],
)
async def test_s11_no_step_blocks_the_loop_with_events_of_64_kib(opened, payload):
    """Not encoded before, so that each costs a millisecond or more."""
    events = [agent(seq, payload=payload) for seq in range(1, 151)]
    async with opened as store:
        with measured_steps() as longest:
            await store.append_batch(events)
            assert len(await store.query(EventQuery(run_id="r"))) == 150
            assert await store.query(EventQuery(run_id="s")) == []

        assert longest.seconds < 0.1


async def test_s11_appends_and_queries_at_the_same_time(opened):
    async with opened as store, trio.open_nursery() as nursery:
        for seq in range(1, 40):
            nursery.start_soon(store.append_batch, [agent(seq)])
            nursery.start_soon(store.query, EventQuery(limit=5))
            nursery.start_soon(store.last_seq)


BAD = {
    "seq 0": agent(0),
    "seq beyond": agent(2**63, time_ms=0),
    "timestamp beyond": agent(2, time_ms=2**63),
    "negative timestamp": agent(2, time_ms=-1),
    "bool as seq": agent(True),
    "text as seq": PersistedEvent("x", "7", 0, None, ModuleEvent("m", "t")),
    "id is no text": PersistedEvent(7, 7, 0, None, ModuleEvent("m", "t")),
    "surrogate in id": agent(2, event_id="\ud800"),
    "surrogate in type": agent(2, event_type="\ud800"),
    "surrogate in member": PersistedEvent("x", 2, 0, "\ud800", ModuleEvent("m", "t")),
    "surrogate in payload": agent(2, payload=["\ud800"]),
    "NaN": agent(2, payload={"x": float("nan")}),
    "tuple": agent(2, payload=(1,)),
    "no event": PersistedEvent("x", 2, 0, None, "event"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
async def test_s12_an_event_that_can_never_be_stored(opened, bad):
    async with opened as store:
        await store.append_batch([agent(1)])

        with pytest.raises(EventRejected) as caught:
            await store.append_batch([agent(10), bad, agent(11)])

        assert [id(event) for event in caught.value.events] == [id(bad)]
        assert caught.value.reason
        assert [event.seq for event in await store.query(EventQuery())] == [1]


async def test_s12_all_impossible_events_are_named(opened):
    bad = list(BAD.values())
    async with opened as store:
        with pytest.raises(EventRejected, match="and 13 other reasons") as caught:
            await store.append_batch([agent(10), *bad, agent(11)])

        assert list(map(id, caught.value.events)) == list(map(id, bad))


async def test_a_batch_is_looked_at_once(opened):
    """A list that another task changes during the append is taken as it was."""
    async with opened as store, trio.open_nursery() as nursery:
        batch = [agent(seq) for seq in range(1, 500)]
        nursery.start_soon(store.append_batch, batch)
        await trio.lowlevel.checkpoint()
        batch.clear()
        await trio.testing.wait_all_tasks_blocked()


# --- describe -------------------------------------------------------------------------------------


async def test_describe_an_empty_log(opened):
    async with opened as store:
        described = await store.describe()

    assert (described.events, described.first_seq, described.last_seq, described.highest_seq) == (
        0,
        None,
        None,
        0,
    )
    assert (described.first_timestamp_ms, described.last_timestamp_ms) == (None, None)
    assert (described.event_types, described.members, described.gaps, described.missing) == ((), (), 0, 0)


async def test_describe(opened):
    async with opened as store:
        types = ["x", "y", "x", "z", "x", "y"]
        seqs = [3, 4, 7, 8, 20, 21]
        events = [
            agent(seq, event_type=kind, agent_id=f"a{seq % 2}") for seq, kind in zip(seqs, types, strict=True)
        ]
        await store.append_batch([*events, module(22, event_type="x"), agent(30, time_ms=1, event_type="w")])
        described = await store.describe(top=2)

    assert described.events == 8
    assert (described.first_seq, described.last_seq, described.highest_seq) == (3, 30, 30)
    assert (described.first_timestamp_ms, described.last_timestamp_ms) == (1, 220)
    assert (described.distinct_event_types, described.event_types) == (4, (("x", 4), ("y", 2)))
    assert (described.distinct_members, described.members) == (3, (("a0", 3), ("a1", 3)))
    assert (described.gaps, described.missing) == (3, 2 + 11 + 7)
    assert described.first_gaps == ((5, 6), (9, 19), (23, 29))


async def test_describe_shows_the_first_gaps_only(opened):
    async with opened as store:
        await store.append_batch([agent(seq) for seq in range(1, 5_000, 2)])
        described = await store.describe(top=0)

    assert (described.gaps, described.missing, len(described.first_gaps)) == (2_499, 2_499, 10)
    assert described.first_gaps[0] == (2, 2)
    assert (described.event_types, described.distinct_event_types) == ((), 1)


@pytest.mark.parametrize(
    ("top", "kind"),
    [(-1, ValueError), (True, TypeError), ("3", TypeError), (1.0, TypeError), (None, TypeError)],
)
async def test_describe_checks_top(opened, top, kind):
    async with opened as store:
        with pytest.raises(kind, match="top: expected"):
            await store.describe(top=top)
        # More than a database could take.
        assert (await store.describe(top=2**70)).events == 0


# --- memory only ----------------------------------------------------------------------------------


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


# --- by URL ----------------------------------------------------------------------------------------


async def test_open_store_memory_and_null():
    async with open_store("memory:") as store:
        assert type(store) is MemoryStore
    async with open_store("null:") as store:
        assert type(store) is NullStore


async def test_open_store_entered_cancelled():
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(CANCELLED):
            async with open_store("memory:"):
                pytest.fail("not cancelled")  # pragma: no cover


async def test_open_store_sqlite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite:a%3fb%20%25.db?log=l%26%C3%A9&synchronous=normal") as store:
        await store.append_batch([agent(1)])
    assert (tmp_path / "a?b %.db").exists()
    async with SqliteStore.open(tmp_path / "a?b %.db", log="l&é") as store:
        assert await store.last_seq() == 1
    assert await SqliteStore.logs("a?b %.db") == ["l&é"]
    async with open_store(f"sqlite://{tmp_path}/a%3fb%20%25.db?log=l%26%C3%A9", read_only=True) as store:
        assert await store.last_seq() == 1
        with pytest.raises(StoreUnusable, match="read-only"):
            await store.append_batch([agent(2)])
    async with open_store(f"SQLITE:{tmp_path}/plain.db?") as store:
        assert await store.last_seq() == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty"),
        ("events.db", r"write 'sqlite:events\.db'"),
        ("/tmp/events.db", r"write 'sqlite:/tmp/events\.db'"),  # noqa: S108 - not opened
        ("C:\\events.db", "no store URL"),
        ("mysql://host/db", "unknown scheme 'mysql'"),
        ("sqlite:", "names no file"),
        ("sqlite://", "names no file"),
        ("sqlite:?log=x", "names no file"),
        ("sqlite://host/events.db", "host 'host'.*sqlite:PATH"),
        ("sqlite:x.db?mode=ro", "unknown option 'mode'"),
        ("sqlite:x.db?log", "'log'.*no value"),
        ("sqlite:x.db?log=a&log=b", "'log' appears twice"),
        ("sqlite:x.db?log=a&", "unknown option ''"),
        ("sqlite:x.db?log=", "1 to 512 bytes"),
        ("sqlite:x.db?log=%zz", "starts no escape"),
        ("sqlite:x%.db", "starts no escape"),
        ("sqlite:x.db?log=%ff", "not UTF-8"),
        ("sqlite:x.db?synchronous=maybe", "synchronous must be one of"),
        ("sqlite::memory:", "MemoryStore"),
        ("memory:x", "'memory:'"),
        ("memory:?log=x", "'memory:'"),
        ("null://x", "'null:'"),
        ("postgresql://me:se/cret@db/app", r"^'postgresql://\*\*\*@db/app': write %2F"),
        ("nats://me:se/cret@n1/S", r"^'nats://\*\*\*@n1/S': write %2F"),
    ],
)
async def test_open_store_explains_what_is_wrong(url, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        async with open_store(url):
            pytest.fail("opened")  # pragma: no cover
    assert not list(tmp_path.iterdir())


async def test_open_store_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="starts empty"):
        async with open_store("memory:", read_only=True):
            pytest.fail("opened")  # pragma: no cover
    with pytest.raises(TypeError, match="str"):
        async with open_store(None):
            pytest.fail("opened")  # pragma: no cover


async def test_open_readers_by_url(tmp_path):
    path = tmp_path / "events.db"
    for name in ("a", "b"):
        async with SqliteStore.open(path, log=name) as store:
            await store.append_batch([agent(1)])
    async with open_readers(f"sqlite:{path}?synchronous=normal") as readers:
        assert list(readers) == ["a", "b"]
        assert [await reader.last_seq() for reader in readers.values()] == [1, 1]
        with pytest.raises(StoreUnusable, match="read-only"):
            await readers["a"].append_batch([agent(2)])
    async with open_readers(f"sqlite:{path}", logs=["b"]) as readers:
        assert [await reader.last_seq() for reader in readers.values()] == [1]
    with pytest.raises(LogNotFound, match=r"no log 'new' in .*; it has 'a', 'b'"):
        async with open_readers(f"sqlite:{path}", logs=["b", "new"]):
            pytest.fail("opened")  # pragma: no cover
    with pytest.raises(LogNotFound, match="no log 'c'"):
        async with open_store(f"sqlite:{path}?log=c", read_only=True):
            pytest.fail("opened")  # pragma: no cover


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:x.db?log=a", "'sqlite:x.db.log=a' names one log; leave out log="),
        ("postgresql://u:secret@h/d?log=a", "leave out log="),
        ("memory:", "has one log"),
        ("null:", "has one log"),
        ("mysql://host/db", "unknown scheme 'mysql'"),
    ],
)
async def test_open_readers_explains_what_is_wrong(url, message):
    with pytest.raises(ValueError, match=message) as refused:
        async with open_readers(url):
            pytest.fail("opened")  # pragma: no cover
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db/app?log=a", "postgresql://***@db/app?log=a"),
        ("postgres://db/app?password=secret&log=a", "postgres://db/app?password=***&log=a"),
        ("postgresql://me:secret@/#?@db/app", "postgresql://***@db/app"),
        ("nats://secret@n1,secret@n2/S?log=a", "nats://***@n2/S?log=a"),
        ("postgresq://me:secret@db/app", "postgresq://***@db/app"),
        ("nats://n1/S", "nats://n1/S"),
        ("nats://n1/S?token=secret&log=a", "nats://n1/S?token=***&log=a"),
        ("nats://n1/S?PASSWORD=secret", "nats://n1/S?PASSWORD=***"),
        ("me:secret@db/app", "***@db/app"),
        ("postgresql:me:secret@db/app", "***@db/app"),
        (r"host=db password='my \'secret' dbname=app", "host=db password=*** dbname=app"),
        ("sqlite:a//b@c.db?log=d@e", "sqlite:a//b@c.db?log=d@e"),
        ("SQLite:///b@c.db", "SQLite:///b@c.db"),
        ("", ""),
    ],
)
def test_urls_are_shown_without_secrets(url, shown):
    assert without_secrets(url) == shown


async def test_open_readers_entered_cancelled(tmp_path):
    async with SqliteStore.open(tmp_path / "events.db"):
        pass
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(CANCELLED):
            async with open_readers(f"sqlite:{tmp_path}/events.db"):
                pytest.fail("not cancelled")  # pragma: no cover


# --- importing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import trio_eventlog", False),
        ("from trio_eventlog.stores import MemoryStore, NullStore, open_store", False),
        ("from trio_eventlog.stores import SqliteStore", True),
    ],
)
def test_the_driver_is_loaded_when_it_is_needed(statement, loaded):
    program = f"import sys, json\n{statement}\nprint(json.dumps('apsw' in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)

    assert json.loads(done.stdout) is loaded


def test_a_store_that_does_not_exist():
    import trio_eventlog.stores

    assert "SqliteStore" in dir(trio_eventlog.stores)
    with pytest.raises(AttributeError, match="NoStore"):
        trio_eventlog.stores.NoStore  # noqa: B018 - under test


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": "\ud800"}, "id"),
        ({"id": b"x"}, "id"),
        ({"seq": True}, "seq"),
        ({"seq": 5.0}, "seq"),
        ({"seq": 0}, "seq"),
        ({"timestamp_ms": -5}, "timestamp_ms"),
        ({"timestamp_ms": 1.5}, "timestamp_ms"),
        ({"timestamp_ms": 2**63}, "timestamp_ms"),
        ({"member_id": 7}, "member_id"),
    ],
)
async def test_what_was_read_and_then_changed_is_checked_again(opened, changes, field):
    """That the event in it was sealed says nothing of the rest."""
    async with opened as store:
        await store.append_batch([agent(1)])
        (stored,) = await store.query(EventQuery())
        changed = attrs.evolve(stored, **{"id": "other", "seq": 2, **changes})
        with pytest.raises(EventRejected, match=f"^{field}: "):
            await store.append_batch([changed])
        assert await store.query(EventQuery()) == [stored]
