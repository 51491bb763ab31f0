"""Readers of a log that was restored."""

from contextlib import AsyncExitStack

import attrs
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from tests._helpers.events import agent
from trio_eventlog import AgentEvent, EventQuery, EventsPruned, StaleCursor, open_event_log
from trio_eventlog._model import _epochs
from trio_eventlog.reading import iter_events, list_epochs, merge_events, tail
from trio_eventlog.stores import MemoryStore, begin_epoch

FILTERS = {"all": EventQuery(), "some": EventQuery(event_types=("t",))}


async def add(store, name, count):
    after = await store.last_seq()
    await store.append_batch([agent(after + 1 + n, event_id=f"{name}-{n}") for n in range(count)])


async def restored(store, keep):
    """What a backup would give: the log as it was when it had ``keep`` events."""
    older = MemoryStore()
    await older.append_batch((await store.query(EventQuery()))[:keep])
    return older


async def outcome(store, reader, query):
    """The ids that a reader finds after its cursor, or ``"stale"``."""
    try:
        async with AsyncExitStack() as stack:
            if reader == "iter":
                return [event.id async for event in iter_events(store, query, page_size=3)]
            if reader == "tail":
                events = await stack.enter_async_context(tail(store, query, poll_interval=0.01))
            else:
                log = await stack.enter_async_context(open_event_log(store))
                events = await stack.enter_async_context(log.subscribe(query))
            found = []
            with trio.move_on_after(1):
                while True:
                    found.append((await anext(events)).id)
            return found
    except StaleCursor:
        return "stale"


class PrunesFromTheFront(MemoryStore):
    """Can only tell that everything before its first event may have been pruned, as JetStream does."""

    async def pruned_seq(self):
        found = await self.query(EventQuery(limit=1))
        return found[0].seq - 1 if found else await self.last_seq()


@pytest.mark.parametrize("reader", ["iter", "tail", "subscribe"])
@pytest.mark.parametrize("kind", sorted(FILTERS))
async def test_seqs_that_an_epoch_has_skipped_were_not_pruned(reader, kind, autojump_clock):
    store = PrunesFromTheFront()
    await add(store, "old", 5)
    await store.prune(keep=0)
    await begin_epoch(store, reason="a test")
    await begin_epoch(store, reason="another test")
    await add(store, "new", 2)
    query = attrs.evolve(FILTERS[kind], after_seq=5)

    found = await outcome(store, reader, query)

    assert found[-2:] == ["new-0", "new-1"]
    with pytest.raises(EventsPruned) as caught:
        await outcome(store, reader, attrs.evolve(query, after_seq=3))
    assert (caught.value.first_seq, caught.value.last_seq) == (4, 5)


@given(
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), min_size=1, max_size=4),
    reader=st.sampled_from(["iter", "tail", "subscribe"]),
    kind=st.sampled_from(sorted(FILTERS)),
    last=st.sampled_from([0, 3]),
)
@example(steps=[(5, 2)], reader="iter", kind="some", last=0)
def test_a_cursor_is_valid_exactly_if_what_was_read_is_still_there(steps, reader, kind, last):
    """Whatever the log went through, and wherever the reader had stopped."""

    async def check():
        store, seen = MemoryStore(), {}
        for number, (count, keep) in enumerate(steps):
            await add(store, f"e{number}", count)
            seen |= {event.seq: event.id for event in await store.query(EventQuery())}
            store = await restored(store, keep)
            await begin_epoch(store)
        await add(store, "last", last)
        now = {event.seq: event.id for event in await store.query(EventQuery())}
        wanted = {event.seq: event.id for event in await store.query(FILTERS[kind])}
        for seq, event_id in [*seen.items(), (0, "")]:
            found = await outcome(store, reader, attrs.evolve(FILTERS[kind], after_seq=seq))
            if now.get(seq, "") == (event_id if seq else ""):
                assert found == [wanted[one] for one in wanted if one > seq]
            else:
                assert found == "stale"

    trio.run(check, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_tail_refuses_a_cursor_on_entering():
    store = MemoryStore()
    await add(store, "e", 5)
    await begin_epoch(store)
    with pytest.raises(StaleCursor):
        await tail(store, after_seq=6).__aenter__()


@pytest.mark.parametrize("kind", FILTERS)
async def test_a_subscriber_that_finds_more_than_a_page(kind):
    store = MemoryStore()
    await add(store, "e", 5)
    await begin_epoch(store)
    await add(store, "new", 1000)
    async with open_event_log(store) as log, log.subscribe(FILTERS[kind], after_seq=6) as events:
        with pytest.raises(StaleCursor):
            await anext(events)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("was_at_end", [False, True])
async def test_it_is_restored_while_it_is_followed(kind, was_at_end):
    """Between two looks at the store: a reader goes on if it was not beyond what was restored."""
    store = MemoryStore()
    await add(store, "e", 9)
    async with tail(store, FILTERS[kind], after_seq=9 if was_at_end else 3, poll_interval=0.001) as events:
        if not was_at_end:
            assert (await anext(events)).seq == 4
        older = await restored(store, 6)
        store.__dict__.update(older.__dict__)
        await begin_epoch(store)
        await add(store, "new", 1)
        if was_at_end:
            with pytest.raises(StaleCursor) as info:
                await anext(events)
            assert (info.value.after_seq, info.value.last_seq) == (9, 6)
            assert info.value.epoch_seq == (await list_epochs(store))[0].seq
        else:
            # Of the page that was read before.
            found = [(await anext(events)).id for _ in range(5)]
            assert found == [f"e-{n}" for n in range(4, 9)]
            with pytest.raises(StaleCursor):
                await anext(events)


async def test_merged_logs_say_which_one_was_restored():
    stores = {"a": MemoryStore(), "b": MemoryStore()}
    await add(stores["a"], "a", 9)
    await add(stores["b"], "b", 5)
    await begin_epoch(stores["b"])

    merged = merge_events(stores, cursors={"a": 4, "b": 9})

    with pytest.raises(StaleCursor) as info:
        await anext(merged)
    assert info.value.__notes__ == ["in the log 'b'"]


async def test_epochs_are_listed_in_order():
    store = MemoryStore()
    assert await list_epochs(store) == []
    await add(store, "e", 2)
    one = await begin_epoch(store, reason="first")
    await add(store, "f", 2)
    two = await begin_epoch(store)
    assert await list_epochs(store) == [one, two]
    assert [(epoch.after_seq, epoch.reason) for epoch in (one, two)] == [
        (2, "first"),
        (one.seq + 2, "adopted"),
    ]
    assert two.seq > one.seq + 2


async def test_a_log_that_was_never_restored_is_not_asked_for_epochs(monkeypatch):
    """Reading it costs what it did before."""

    def fail(cursor):
        pytest.fail("asked")

    monkeypatch.setattr("trio_eventlog._reading._epochs.epochs_after", fail)
    store = MemoryStore()
    await add(store, "e", 9)
    found = [event.seq async for event in iter_events(store, EventQuery(after_seq=2, event_types=("t",)))]
    assert found == list(range(3, 10))


@pytest.mark.parametrize("behind", [False, True])
async def test_the_log_goes_on_behind_the_epoch(behind, monkeypatch):
    """Also if the clock is behind what the log has come to."""
    store = MemoryStore()
    await add(store, "e", 3)
    first = await begin_epoch(store)
    if behind:
        monkeypatch.setattr("time.time_ns", lambda: (first.seq - 5) * 1000)
    epoch = await begin_epoch(store)
    async with open_event_log(store) as log:
        assert log.ingest(AgentEvent("a", "t")) == epoch.seq + 1
    assert epoch.seq > first.seq
    assert (epoch.seq == first.seq + _epochs._STEP) is behind


async def test_bad_arguments():
    with pytest.raises(TypeError, match="store"):
        await begin_epoch(None)
    with pytest.raises(TypeError, match="store"):
        await list_epochs(None)
    with pytest.raises(TypeError, match="reason: expected a str, got int"):
        await begin_epoch(MemoryStore(), reason=1)
    with pytest.raises(ValueError, match="surrogate"):
        await begin_epoch(MemoryStore(), reason="\ud800")


async def test_the_epoch_of_another_log_makes_no_cursor_stale() -> None:
    """Its event may be ingested, from an export for example."""
    other, store = MemoryStore(), MemoryStore()
    epoch = await begin_epoch(other)
    foreign = (await other.query(EventQuery()))[0]
    await begin_epoch(store)
    await add(store, "e", 1_500)
    cursor = await store.last_seq()
    await store.append_batch([attrs.evolve(foreign, seq=cursor + 1)])

    assert [event.id async for event in iter_events(store, EventQuery(after_seq=cursor - 1))] == [
        "e-1499",
        epoch.id,
    ]
    assert len(await list_epochs(store)) == 1
