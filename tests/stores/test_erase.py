"""Erasing what events say, in every store that needs no server."""

from __future__ import annotations

import hashlib
import hmac

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.events import agent
from tests._helpers.examples import few
from tests._helpers.stores import KINDS
from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent, open_event_log
from trio_eventlog._model._epochs import EPOCH_TYPE
from trio_eventlog.abc import ErasableStore
from trio_eventlog.reading import iter_events, list_epochs
from trio_eventlog.stores import MemoryStore, NullStore, begin_epoch
from trio_eventlog.testing import queries

NAMES = st.sampled_from(["ann", "bob"])
PAYLOADS = st.none() | st.dictionaries(st.sampled_from(["identity", "run_id", "x"]), NAMES, max_size=3)
EVENTS = st.builds(AgentEvent, NAMES, NAMES, PAYLOADS) | st.builds(ModuleEvent, NAMES, NAMES, PAYLOADS)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
async def store(request, tmp_path):
    async with request.param(tmp_path) as opened:
        yield opened


def without_payload(event):
    return attrs.evolve(event, event=attrs.evolve(event.event, payload=None))


@few(15)
@given(st.lists(EVENTS, max_size=8), st.builds(EventQuery, identity=NAMES) | queries())
def test_what_matches_loses_its_payload_and_nothing_else_changes(tmp_path_factory, events, query):
    directory = tmp_path_factory.mktemp("erase")
    stored = [
        PersistedEvent(
            f"id-{seq}", seq, seq, event.agent_id if isinstance(event, AgentEvent) else None, event
        )
        for seq, event in enumerate(events, 1)
    ]

    async def run(kind):
        async with kind(directory) as store:
            await store.append_batch(stored)
            matching = {event.id for event in await store.query(query)}
            assert await store.erase(query, reason="a request") == len(matching)
            found = await store.query(EventQuery())
            assert list(map(without_payload, found)) == list(map(without_payload, stored))
            for before, after in zip(stored, found, strict=True):
                if before.id in matching:
                    assert set(after.event.payload) == {"@erased"}
                    assert after.event.payload["@erased"]["reason"] == "a request"
                else:
                    assert after == before
            # It is in no scope any more, and still known.
            scoped = await store.query(EventQuery(identity="ann"))
            assert not matching & {event.id for event in scoped}
            assert await store.append_batch(stored) == ()
            assert await store.query(EventQuery()) == found
            assert await store.last_seq() == len(stored)

    for kind in KINDS.values():
        trio.run(run, kind)


async def test_a_tombstone_has_reason_time_and_commitment(store, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    await store.append_batch([agent(1, payload={"identity": "ann"}), agent(2)])

    def commit(event):
        return hmac.digest(b"a secret", repr(event.event.payload).encode(), hashlib.sha256).hex()

    expected = commit(agent(1, payload={"identity": "ann"}))
    assert await store.erase(EventQuery(identity="ann"), reason="request 17", commitment=commit) == 1

    found = await store.query(EventQuery())
    assert found[0].event.payload == {
        "@erased": {"reason": "request 17", "at_ms": 1_700_000_000_000, "commitment": expected}
    }
    assert found[1].event.payload is None


async def test_what_is_erased_is_not_erased_again(store):
    """Its commitment would be lost."""
    await store.append_batch([agent(seq, payload={"run_id": "r"}) for seq in (1, 2, 3)])
    assert await store.erase(EventQuery(limit=2), reason="first") == 2

    assert await store.erase(EventQuery(), reason="second") == 1

    found = await store.query(EventQuery())
    assert [event.event.payload["@erased"]["reason"] for event in found] == ["first", "first", "second"]


@pytest.mark.parametrize(
    "payload",
    [
        {"@erased": "ann"},
        {"@erased": {"identity": "ann"}},
        {"@erased": {"reason": ["ann"], "at_ms": 1, "commitment": None}},
        {"@erased": {"reason": "why", "at_ms": 1, "commitment": {"identity": "ann"}}},
        {"@erased": {"reason": "why", "at_ms": 1, "commitment": None, "identity": "ann"}},
    ],
)
async def test_what_only_looks_like_a_tombstone_is_erased(store, payload):
    await store.append_batch([agent(1, payload=payload)])

    assert await store.erase(EventQuery(), reason="request 17") == 1

    (found,) = await store.query(EventQuery())
    assert found.event.payload["@erased"]["reason"] == "request 17"
    assert await store.erase(EventQuery(), reason="another") == 0


async def test_the_beginning_of_an_epoch_stays_and_cursors_stay_valid(store):
    await store.append_batch([agent(seq, payload={"run_id": "r"}) for seq in (1, 2, 3)])
    epoch = await begin_epoch(store, reason="restored")

    assert await store.erase(EventQuery(), reason="everything") == 3

    assert await list_epochs(store) == [epoch]
    assert [event.seq async for event in iter_events(store, EventQuery(after_seq=2))] == [3, epoch.seq]
    disguised = {"after_seq": 3, "reason": "x", "name": "ann"}
    await store.append_batch(
        [PersistedEvent("e", epoch.seq + 1, 1, None, ModuleEvent("trio_eventlog", EPOCH_TYPE, disguised))]
    )
    assert await store.erase(EventQuery(), reason="everything") == 1


async def test_many_events_are_erased_and_a_limit_holds(store):
    await store.append_batch([agent(seq, payload={"run_id": "r"}) for seq in range(1, 3_001)])

    assert await store.erase(EventQuery(after_seq=100, limit=2_500), reason="why") == 2_500

    left = [event.seq for event in await store.query(EventQuery(run_id="r"))]
    assert left == [*range(1, 101), *range(2_601, 3_001)]


async def test_a_log_goes_on_and_its_readers_too(store):
    """Also one that is in the middle of the log."""
    async with open_event_log(store) as log:
        for number in range(10):
            log.ingest(AgentEvent("w", "t", {"identity": "ann", "number": number}))
        await log.flush()
        async with log.subscribe(EventQuery(after_seq=0)) as events:
            assert (await anext(events)).seq == 1
            assert await store.erase(EventQuery(identity="ann"), reason="why") == 10
            log.ingest(AgentEvent("w", "t", {"identity": "bob"}))
            await log.flush()
            assert [(await anext(events)).seq for _ in range(10)] == list(range(2, 12))
    assert len(await store.query(EventQuery())) == 11


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"query": {}}, TypeError, "query: expected an EventQuery, got dict"),
        ({"reason": None}, TypeError, "reason: expected a string, got NoneType"),
        ({"reason": ""}, ValueError, "reason: expected a few words"),
        ({"reason": "\ud800"}, ValueError, "reason: expected text that UTF-8 can carry"),
        ({"commitment": "x"}, TypeError, "commitment: expected a function or None, got str"),
        ({"commitment": lambda _: b"x"}, TypeError, "commitment: expected it to return a string, got bytes"),
    ],
)
async def test_arguments_are_checked(store, arguments, error, why):
    await store.append_batch([agent(1, payload="x")])
    arguments = {"query": EventQuery(), "reason": "why", **arguments}

    with pytest.raises(error, match=why):
        await store.erase(arguments.pop("query"), **arguments)

    assert (await store.query(EventQuery()))[0].event.payload == "x"


def test_who_can_erase():
    assert isinstance(MemoryStore(), ErasableStore)
    assert not isinstance(NullStore(), ErasableStore)
