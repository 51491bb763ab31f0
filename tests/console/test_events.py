"""Pages of events."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.console import PlainStore, ask
from tests._helpers.events import agent
from trio_eventlog import EventQuery, PersistedEvent, from_json
from trio_eventlog.console import _source as source
from trio_eventlog.console import create_app
from trio_eventlog.console._source import Source, gaps_in
from trio_eventlog.stores import MemoryStore


def seqs(page):
    return [int(event["seq"]) for event in page["events"]]


async def test_the_newest_come_first(app):
    page = (await ask(app, "/api/events", {"limit": 3})).json()
    assert seqs(page) == [9, 8, 7]
    assert (page["next"], page["is_complete"], page["last_seq"]) == ("7", False, "9")
    page = (await ask(app, "/api/events", {"limit": 3, "before_seq": page["next"]})).json()
    assert seqs(page) == [6, 3, 2]
    assert page["gaps"] == [{"first_seq": "4", "last_seq": "5", "reason": "missing"}]
    page = (await ask(app, "/api/events", {"limit": 3, "before_seq": page["next"]})).json()
    assert seqs(page) == [1]
    assert (page["next"], page["is_complete"]) == (None, True)


async def test_forward_from_a_cursor(app):
    page = (await ask(app, "/api/events", {"order": "oldest", "limit": 4, "after_seq": 1})).json()
    assert seqs(page) == [2, 3, 6, 7]
    assert (page["next"], page["is_complete"]) == ("7", False)
    assert page["gaps"] == [{"first_seq": "4", "last_seq": "5", "reason": "missing"}]
    page = (await ask(app, "/api/events", {"order": "oldest", "after_seq": page["next"]})).json()
    assert seqs(page) == [8, 9]
    assert (page["next"], page["is_complete"]) == ("9", True)
    page = (await ask(app, "/api/events", {"order": "oldest", "after_seq": page["next"]})).json()
    assert (page["events"], page["next"], page["gaps"]) == ([], "9", [])


async def test_an_event_is_what_was_stored(app):
    page = (await ask(app, "/api/events", {"limit": 2})).json()
    assert page["events"][1] == {
        "seq": "8",
        "id": "id-8",
        "timestamp_ms": 80,
        "member_id": None,
        "event": {"kind": "module", "module": "m", "event_type": "tick", "payload": [1, 1.0, True]},
    }
    answer = await ask(app, "/api/events", {"limit": 2})
    assert b"[1,1.0,true]" in answer.body


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"member_id": "w-1"}, [7, 6, 1]),
        ({"event_type": ["started", "ended"]}, [9, 2, 1]),
        ({"run_id": "r-2", "since_ms": 30}, [9]),
        ({"until_ms": 20}, [1]),
        ({"identity": "boss"}, [9]),
        ({"after_seq": 7}, [9, 8]),
        ({"run_id": ""}, []),
        ({"module": "m"}, [8, 3]),
        ({"module": "other"}, []),
        ({"fields": '{"order_id":"o-1"}'}, [7, 6, 1]),
        ({"fields": '{"order_id":"o-1","run_id":"r-2"}'}, []),
        ({"fields": '{"order_id":1}'}, []),
    ],
)
async def test_filters(app, parameters, expected):
    page = (await ask(app, "/api/events", parameters)).json()
    assert seqs(page) == expected
    assert (page["gaps"] is None) == (parameters.keys() != {"after_seq"})


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"order": "up"}, "order"),
        ({"order": "oldest", "before_seq": 3}, "before_seq"),
        ({"max_payload": 2**20 + 1}, "max_payload"),
        ({"after_seq": 2**63}, "after_seq"),
        ({"log": "other"}, "log"),
    ],
)
async def test_wrong_parameters(app, parameters, field):
    answer = await ask(app, "/api/events", parameters)
    assert answer.status == (404 if field == "log" else 400)
    assert answer.error["field"] == field


async def test_a_stale_cursor(app):
    for order in ("newest", "oldest"):
        answer = await ask(app, "/api/events", {"after_seq": 10, "order": order})
        assert answer.status == 410
        expected = {"code": "stale_cursor", "after_seq": "10", "last_seq": "9"}
        assert expected.items() <= answer.error.items()


async def test_one_event(app):
    assert (await ask(app, "/api/events/6")).json()["event"]["id"] == "id-6"
    for seq, status in (("4", 404), ("10", 404), ("0", 400), ("x", 400), (str(2**63), 400)):
        assert (await ask(app, f"/api/events/{seq}")).status == status


async def test_large_payloads_are_left_out_of_lists():
    store = MemoryStore()
    await store.append_batch([agent(1, payload="x" * 5000), agent(2, payload="é")])
    app = create_app(store)
    page = (await ask(app, "/api/events", {"max_payload": 1000})).json()
    small, large = page["events"]
    assert "payload_bytes" not in small
    assert small["event"]["payload"] == "é"
    assert "payload" not in large["event"]
    assert 5000 < large["payload_bytes"] < 5020
    whole = (await ask(app, "/api/events/1")).json()["event"]
    assert whole["event"]["payload"] == "x" * 5000


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_a_page_has_a_bounded_size_and_the_next_goes_on(order, monkeypatch):
    monkeypatch.setattr("trio_eventlog.console._events.MAX_PAGE_BYTES", 20_000)
    store = MemoryStore()
    await store.append_batch([agent(seq, payload="x" * 5000) for seq in range(1, 21)])
    app = create_app(store)
    cursor, found = None, []
    for _ in range(20):
        name = "before_seq" if order == "newest" else "after_seq"
        answer = await ask(app, "/api/events", {"order": order} | ({name: cursor} if cursor else {}))
        page = answer.json()
        assert len(answer.body) < 22_000
        found += seqs(page)
        if page["is_complete"] or not page["events"]:
            break
        cursor = page["next"]
    assert found == sorted(range(1, 21), reverse=order == "newest")


async def test_an_integer_of_64_bits_and_hostile_text_pass_through():
    hostile = "</script><script>alert(1)</script>\u2028\0\"'<img src=x onerror=alert(1)>"
    store = MemoryStore()
    await store.append_batch(
        [
            agent(
                1,
                event_id=hostile,
                agent_id=hostile,
                event_type=hostile,
                payload={hostile: [2**64 - 1, hostile]},
            )
        ]
    )
    answer = await ask(create_app(store), "/api/events")
    assert answer.headers["content-type"] == "application/json"
    assert b"18446744073709551615" in answer.body
    (event,) = answer.json()["events"]
    assert event["event"]["payload"] == {hostile: [2**64 - 1, hostile]}
    assert event["id"] == event["member_id"] == event["event"]["event_type"] == hostile
    text = json.dumps(event | {"seq": int(event["seq"])})
    assert from_json(text, PersistedEvent).id == hostile


async def test_pruned_events_are_told_from_missing_ones():
    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in (1, 2, 3, 6, 7)])
    await store.prune(keep=3)
    page = (await ask(create_app(store), "/api/events")).json()
    assert seqs(page) == [7, 6, 3]
    assert page["gaps"] == [
        {"first_seq": "1", "last_seq": "2", "reason": "pruned"},
        {"first_seq": "4", "last_seq": "5", "reason": "missing"},
    ]
    page = (await ask(create_app(store), "/api/events", {"order": "oldest", "limit": 1})).json()
    assert (seqs(page), page["gaps"]) == ([3], [{"first_seq": "1", "last_seq": "2", "reason": "pruned"}])


# --- properties -----------------------------------------------------------------------------------


@given(
    held=st.sets(st.integers(1, 60), max_size=40),
    first=st.integers(1, 60),
    length=st.integers(0, 60),
    pruned=st.integers(0, 70),
)
def test_gaps_are_what_is_not_there(held, first, length, pruned):
    last = first + length - 1
    present = sorted(seq for seq in held if first <= seq <= last)
    told = {}
    for gap in gaps_in(present, first, last, pruned):
        for seq in range(int(gap["first_seq"]), int(gap["last_seq"]) + 1):
            assert seq not in told
            told[seq] = gap["reason"]
    assert told.keys() == set(range(first, last + 1)) - set(present)
    assert all((reason == "pruned") == (seq <= pruned) for seq, reason in told.items())


@given(
    held=st.sets(st.integers(1, 300), min_size=1, max_size=60),
    limit=st.integers(1, 20),
    wanted=st.sampled_from([None, "a", "b", "none"]),
    plain=st.booleans(),
)
async def test_paging_either_way_finds_every_event_once(held, limit, wanted, plain):
    events = [agent(seq, agent_id="ab"[seq % 2]) for seq in sorted(held)]
    memory = MemoryStore()
    await memory.append_batch(events)
    app = create_app(PlainStore(memory) if plain else memory)
    filters = {} if wanted is None else {"member_id": wanted}
    expected = [event.seq for event in events if wanted in {None, event.member_id}]

    found, cursor = [], {}
    while True:
        page = (await ask(app, "/api/events", filters | cursor | {"limit": limit})).json()
        found += seqs(page)
        if page["next"] is None:
            break
        cursor = {"before_seq": page["next"]}
    assert found == expected[::-1]

    found, cursor = [], {}
    while True:
        asked = filters | cursor | {"limit": limit, "order": "oldest"}
        page = (await ask(app, "/api/events", asked)).json()
        found += seqs(page)
        cursor = {"after_seq": page["next"]}
        if page["is_complete"]:
            break
    assert found == expected


async def test_a_store_that_cannot_read_backwards_is_searched_for_a_while_only(monkeypatch):
    monkeypatch.setattr(source, "MAX_SCAN", 2000)
    memory = MemoryStore()
    await memory.append_batch([agent(1, agent_id="rare"), *map(agent, range(2, 7001))])
    app = create_app(PlainStore(memory))
    cursor, pages = {}, []
    while True:
        page = (await ask(app, "/api/events", {"member_id": "rare"} | cursor)).json()
        pages.append(page)
        if page["next"] is None:
            break
        assert not page["is_complete"]
        cursor = {"before_seq": page["next"]}
    assert [seqs(page) for page in pages] == [[]] * (len(pages) - 1) + [[1]]
    assert 2 < len(pages) < 6


async def test_a_place_beyond_the_end_is_the_end_with_every_store():
    memory = MemoryStore()
    await memory.append_batch([agent(seq) for seq in range(1, 11)])
    for store in (memory, PlainStore(memory)):
        for beyond in (11, 1000, 2**62):
            page = (await ask(create_app(store), "/api/events", {"before_seq": beyond, "limit": 2})).json()
            assert seqs(page) == [10, 9]
            assert await Source("default", store).count(EventQuery(), beyond, 100) == (10, True)


async def test_counting_says_whether_it_is_exact(monkeypatch):
    memory = MemoryStore()
    await memory.append_batch([agent(seq) for seq in range(1, 101)])
    found = Source("default", PlainStore(memory))
    assert await found.count(EventQuery(), None, 1000) == (100, True)
    assert await found.count(EventQuery(), None, 100) == (100, True)
    assert await found.count(EventQuery(), None, 99) == (99, False)
    assert await found.count(EventQuery(after_seq=50), 61, 1000) == (10, True)
    assert await found.count(EventQuery(after_seq=50), 20, 1000) == (0, True)
    monkeypatch.setattr(source, "MAX_SCAN", 40)
    assert await found.count(EventQuery(), None, 1000) == (40, False)
