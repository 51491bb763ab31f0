"""The stores that the harness is tested on: the correct ones tell a plain story, the broken ones open."""

import pickle

import pytest
import trio
import trio.testing

from tests._helpers import correct_stores
from tests._helpers.broken_stores import BROKEN
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    EventStore,
    LogBusy,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
    StoreUnusable,
)

CORRECT = {"memory": correct_stores.open_memory, "file": correct_stores.open_file}
CANCELLED = trio.Cancelled


@pytest.fixture(params=CORRECT)
def open_store(request):
    return CORRECT[request.param]


def agent(seq, *, event_id=None, payload=None):
    event_id = f"id-{seq}" if event_id is None else event_id
    return PersistedEvent(event_id, seq, seq * 10, "a", AgentEvent("a", "t", payload))


def module(seq):
    return PersistedEvent(f"id-{seq}", seq, seq * 10, None, ModuleEvent("m", "u", {"run_id": "r"}))


async def seqs(store, **filters):
    return [event.seq for event in await store.query(EventQuery(**filters))]


async def test_story(open_store, tmp_path):
    async with open_store(tmp_path) as store:
        assert isinstance(store, EventStore)
        assert await store.last_seq() == 0
        events = [agent(7, payload={"text": "a\0\t\n😀", "n": [1, 1.0, True, None]}), agent(3), module(5)]
        assert list(await store.append_batch(events)) == []
        assert list(await store.append_batch([agent(8), agent(9, event_id="id-3"), agent(8)])) == [9]
        with pytest.raises(SequenceConflict) as conflict:
            await store.append_batch(
                [agent(10), agent(3, event_id="new"), agent(11), agent(11, event_id="x")]
            )
        assert conflict.value.seqs == (3, 11)
        with pytest.raises(EventRejected) as rejected:
            await store.append_batch([agent(10), agent(0), agent(11, payload=float("nan"))])
        assert [event.seq for event in rejected.value.events] == [0, 11]

        found = await store.query(EventQuery())
        assert found == [events[1], events[2], events[0], agent(8)]
        assert repr(found[2].event.payload) == repr(events[0].event.payload)
        assert await seqs(store, after_seq=3, limit=2) == [5, 7]
        assert await seqs(store, since_ms=50, until_ms=80) == [5, 7]
        assert await seqs(store, event_types=("u", "v"), run_id="r") == [5]
        assert await seqs(store, member_id="a", limit=2**64 - 1) == [3, 7, 8]
        assert await seqs(store, limit=0) == []
        assert await store.last_seq() == 8
    for call in (store.append_batch([agent(20)]), store.query(EventQuery()), store.last_seq()):
        with pytest.raises(StoreUnusable):
            await call


CALLS = {
    "append": lambda store: store.append_batch([agent(1)]),
    "append nothing": lambda store: store.append_batch([]),
    "query nothing": lambda store: store.query(EventQuery(limit=0)),
    "last_seq": lambda store: store.last_seq(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
async def test_checkpoints(open_store, tmp_path, call):
    async with open_store(tmp_path) as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(CANCELLED):
                await call(store)
        assert await store.last_seq() == 0
        with trio.testing.assert_checkpoints():
            await call(store)


async def test_the_file_keeps_what_was_appended(tmp_path):
    async with correct_stores.open_file_reader(tmp_path) as reader:
        assert await seqs(reader) == []
        async with correct_stores.open_file(tmp_path) as store:
            await store.append_batch([agent(1), agent(4)])
            with pytest.raises(LogBusy):
                async with correct_stores.open_file(tmp_path):
                    pytest.fail("opened")  # pragma: no cover
            assert await seqs(reader) == [1, 4]
        # A process that died while it wrote.
        with (tmp_path / "log").open("ab") as file:
            file.write(b'{"id":"id-5","seq":5,')
        assert await seqs(reader) == [1, 4]
        async with correct_stores.open_file(tmp_path) as store:
            await store.append_batch([agent(4), agent(2)])
        assert await seqs(reader) == [1, 2, 4]
        assert await reader.last_seq() == 4
        with pytest.raises(StoreUnusable):
            await reader.append_batch([agent(9)])
    async with correct_stores.open_file(tmp_path) as store:
        assert await seqs(store) == [1, 2, 4]


def test_broken_stores_are_told_apart():
    assert len({broken.name for broken in BROKEN}) == len(BROKEN)
    known = {f"S{number}" for number in range(1, 19)}
    assert {broken.clause for broken in BROKEN} == known
    assert all(broken.also <= known for broken in BROKEN)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.clause} {broken.name}")
async def test_broken_stores_open(broken, tmp_path):
    """With one plain event all but one do what they should: a fault is no store that does not work at all."""
    for opener in filter(None, (broken.open_store, broken.open_reader)):
        again = pickle.loads(pickle.dumps(opener))  # noqa: S301 - our own
        assert again == opener or again.args == opener.args
    async with broken.open_store(tmp_path) as store:
        assert isinstance(store, EventStore)
        await store.append_batch([agent(1)])
        assert len(await store.query(EventQuery())) == (broken.name != "seen one append later")
        assert await store.last_seq() == 1
        if broken.open_reader is not None:
            async with broken.open_reader(tmp_path) as reader:
                assert await seqs(reader) == [1]
