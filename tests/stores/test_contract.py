"""The clauses S1 to S12 on every store of the package that keeps events."""

import pytest
import trio
import trio.testing
from hypothesis import given, note

from tests._helpers import store_oracle as oracle
from tests._helpers.events import agent, everything, ids, module
from tests._helpers.longest_step import measured_steps
from tests._helpers.stores import sqlite_store
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    EventStore,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
)
from trio_eventlog.stores import (
    MemoryStore,
)

CANCELLED = trio.Cancelled


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
