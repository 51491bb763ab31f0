"""JSON-RPC in the forms that MobKit documents."""

import json

import pytest

from tests._helpers.console import ask, call, post
from tests._helpers.events import agent
from trio_eventlog import EventQuery, PersistedEvent, StoreError, from_json
from trio_eventlog.console import _mob, create_app
from trio_eventlog.console._rpc import MAX_BATCH, MAX_BODY, subscribe_url
from trio_eventlog.mobkit import MobEvent
from trio_eventlog.stores import MemoryStore


async def test_query_events_is_a_bare_array_with_numbers_as_numbers(app):
    answer = await post(
        app,
        "/rpc",
        b'{"jsonrpc":"2.0","id":"q-1","method":"mobkit/query_events","params":{"run_id":"r-2","limit":1}}',
    )
    assert answer.status == 200
    assert answer.body == (
        b'{"jsonrpc":"2.0","id":"q-1","result":[{"id":"id-2","seq":2,"timestamp_ms":20,"member_id":"w-2",'
        b'"event":{"kind":"agent","agent_id":"w-2","event_type":"started","payload":{"run_id":"r-2"}}}]}'
    )


async def test_query_events_has_every_event_and_no_page(app):
    answer = await call(app, "mobkit/query_events", {})
    assert [event["seq"] for event in answer["result"]] == [1, 2, 3, 6, 7, 8, 9]
    found = [from_json(json.dumps(event), PersistedEvent) for event in answer["result"]]
    assert found[0].event.payload == {"run_id": "r-1", "order_id": "o-1"}
    assert (await call(app, "mobkit/query_events"))["result"] == answer["result"]
    assert (await call(app, "mobkit/query_events", {"limit": 0}))["result"] == []


async def test_without_a_log(autojump_clock):
    app = create_app({})
    assert await call(app, "mobkit/query_events", {}) == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"status": "no_event_log_configured", "events": []},
    }
    assert (await call(app, "mobkit/mob_events/query", {}))["error"]["code"] == -32000
    assert (await ask(app, "/api/logs")).json()["logs"] == []
    assert (await ask(app, "/api/events")).status == 404


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"limit": "1"}, "limit"),
        ({"limit": -1}, "limit"),
        ({"after_seq": 1.0}, "after_seq"),
        ({"event_types": "a"}, "event_types"),
        ({"run_id": 5}, "run_id"),
        ([], "object"),
        ("x", "object"),
    ],
)
async def test_invalid_params(app, params, word):
    for method in ("mobkit/query_events", "mobkit/mob_events/query", "mobkit/mob_events/subscribe"):
        error = (await call(app, method, params))["error"]
        assert error["code"] == -32602
        assert error["message"].startswith("Invalid params: ")
        assert word in error["message"]


async def test_a_store_that_fails():
    class Failing(MemoryStore):
        async def last_seq(self):
            raise StoreError("down")

        async def query_page(self, query, *, max_bytes):
            raise StoreError("down")

    for method in ("query_events", "mob_events/query", "mob_events/subscribe"):
        error = (await call(create_app(Failing()), f"mobkit/{method}", {}))["error"]
        assert error == {"code": -32000, "message": f"{method} failed: the store failed: down"}


# --- mob events -----------------------------------------------------------------------------------


async def test_mob_events_ascend_and_are_the_latest(app):
    answer = await call(app, "mobkit/mob_events/query", {"limit": 2})
    assert [event["cursor"] for event in answer["result"]["events"]] == [8, 9]
    assert answer["result"]["next_after_seq"] == 9
    assert list(answer["result"]) == ["events", "next_after_seq"]
    first = answer["result"]["events"][0]
    assert first == {
        "event_id": "mob-evt-8",
        "cursor": 8,
        "mob_id": "",
        "timestamp_ms": 80,
        "kind": "tick",
        "data": [1, 1.0, True],
    }


async def test_the_default_is_256():
    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in range(1, 601)])
    app = create_app(store)
    events = (await call(app, "mobkit/mob_events/query"))["result"]["events"]
    assert [event["cursor"] for event in events] == [*range(345, 601)]
    result = (await call(app, "mobkit/mob_events/query", {"after_seq": 0}))["result"]
    assert [event["cursor"] for event in result["events"]] == [*range(1, 257)]
    assert result["next_after_seq"] == 256


@pytest.mark.parametrize(
    ("params", "expected", "resume_after"),
    [({}, [7, 8, 9], 9), ({"after_seq": 0}, [1, 2, 3], 3), ({"after_seq": 3}, [4, 5, 6], 6)],
)
async def test_mob_events_are_bounded_in_bytes(params, expected, resume_after, monkeypatch):
    monkeypatch.setattr(_mob, "MAX_BYTES", 3500)
    store = MemoryStore()
    await store.append_batch([agent(seq, payload="x" * 1000) for seq in range(1, 10)])
    result = (await call(create_app(store), "mobkit/mob_events/query", params))["result"]
    assert [event["cursor"] for event in result["events"]] == expected
    assert result["next_after_seq"] == resume_after
    # One comes however large it is.
    monkeypatch.setattr(_mob, "MAX_BYTES", 10)
    result = (await call(create_app(store), "mobkit/mob_events/query", params))["result"]
    assert len(result["events"]) == 1


async def test_a_cursor_walks_through_all_of_them(app):
    cursor, found = 0, []
    while True:
        result = (await call(app, "mobkit/mob_events/query", {"after_seq": cursor, "limit": 2}))["result"]
        found += [event["cursor"] for event in result["events"]]
        if not result["events"]:
            break
        cursor = result["next_after_seq"]
    assert found == [1, 2, 3, 6, 7, 8, 9]
    assert result["next_after_seq"] == 9


async def test_nothing_that_matches_still_has_a_number_to_go_on_from(app):
    for params in ({"run_id": "none"}, {"run_id": "none", "after_seq": 2}, {"limit": 0}):
        result = (await call(app, "mobkit/mob_events/query", params))["result"]
        assert (result["events"], result["next_after_seq"]) == ([], 9)
    result = (await call(app, "mobkit/mob_events/query", {"limit": 0, "after_seq": 2}))["result"]
    assert result["next_after_seq"] == 2


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"identity": "boss"}, [9]),
        ({"member_id": "w-1"}, [1, 6, 7]),
        ({"identity": "w-2"}, [2]),
        ({"identity": "w-1", "limit": 2}, [6, 7]),
        ({"identity": "w-1", "limit": 2, "after_seq": 0}, [1, 6]),
        ({"event_types": ["started", "tick"], "after_seq": 1}, [2, 3, 8]),
        ({"run_id": "r-2"}, [2, 9]),
        ({"mob_id": "none"}, []),
        ({"mob_id": ""}, [1, 2, 3, 6, 7, 8, 9]),
        ({"since_ms": 60, "until_ms": 80}, [6, 7]),
    ],
)
async def test_filters_of_mob_events(app, params, expected):
    result = (await call(app, "mobkit/mob_events/query", params))["result"]
    assert [event["cursor"] for event in result["events"]] == expected


async def test_a_stale_cursor(app):
    for method in ("mobkit/mob_events/query", "mobkit/mob_events/subscribe"):
        answer = await call(app, method, {"after_seq": 10})
        assert answer["error"] == {
            "code": -32010,
            "message": "stale mob event cursor: requested 10, latest 9",
            "data": {"error": "event_query_stale", "after_cursor": 10, "latest_cursor": 9},
        }
    answer = await call(app, "mobkit/mob_events/query", {"after_seq": 2**64 - 1})
    assert answer["error"]["data"]["after_cursor"] == 2**64 - 1


async def test_subscribe_says_where_to_go_on(app):
    result = (await call(app, "mobkit/mob_events/subscribe", {"run_id": "r-1", "event_types": ["failed"]}))[
        "result"
    ]
    assert list(result) == ["stream", "events", "next_after_seq", "subscribe_url", "keep_alive"]
    assert result["stream"] == "mob_events"
    assert result["keep_alive"] == {"interval_ms": 15000, "event": "keep_alive"}
    assert [MobEvent.from_json(json.dumps(event)).cursor for event in result["events"]] == [6]
    assert result["subscribe_url"] == "/mobkit/mob_events/stream?after_seq=9&run_id=r-1&event_types=failed"


def test_the_url_has_every_filter_escaped():
    query = EventQuery(
        since_ms=1,
        until_ms=2,
        member_id="m&",
        identity="i=",
        mob_id="ä",
        run_id="r",
        step_id="s",
        event_types=("a", "b"),
    )
    assert subscribe_url(query, 5) == (
        "/mobkit/mob_events/stream?after_seq=5&mob_id=%C3%A4&run_id=r&step_id=s&identity=i%3D&member_id=m%26"
        "&since_ms=1&until_ms=2&event_types=a%2Cb"
    )


# --- the protocol ---------------------------------------------------------------------------------


async def test_capabilities(app):
    result = (await call(app, "mobkit/capabilities", {}))["result"]
    assert result == {
        "contract_version": "0.4.0",
        "methods": [
            "mobkit/capabilities",
            "mobkit/mob_events/query",
            "mobkit/mob_events/subscribe",
            "mobkit/query_events",
        ],
        "loaded_modules": [],
    }


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"[" * 5000, -32700),
        (b"\xff", -32700),
        (b"1", -32600),
        (b"[]", -32600),
        (b"[1]", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"mobkit/capabilities"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"mobkit/capabilities"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"mobkit/capabilities"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"mobkit/spawn_member"}', -32601),
        (b'{"jsonrpc":"2.0","id":null,"method":"x"}', -32601),
    ],
)
async def test_what_is_no_call(app, body, code):
    answer = await post(app, "/rpc", body)
    assert answer.status == 200
    content = answer.json()
    error = content[0] if isinstance(content, list) else content
    assert error["error"]["code"] == code
    assert error["jsonrpc"] == "2.0"
    assert "result" not in error


async def test_parameters_in_the_url_are_refused(app):
    answer = await post(app, "/rpc", {}, parameters={"after_seq": 1})
    assert (answer.status, answer.error["field"]) == (400, "after_seq")


async def test_batches_and_notifications(app):
    one = {"jsonrpc": "2.0", "id": "a", "method": "mobkit/capabilities"}
    told = {"jsonrpc": "2.0", "method": "mobkit/capabilities"}
    answers = (await post(app, "/rpc", [one, told, {"x": 1}])).json()
    assert [answer["id"] for answer in answers] == ["a", None]
    assert (await post(app, "/rpc", told)).status == 204
    assert (await post(app, "/rpc", [told, told])).status == 204
    assert (await post(app, "/rpc", [one] * MAX_BATCH)).json()[-1]["id"] == "a"
    assert (await post(app, "/rpc", [one] * (MAX_BATCH + 1))).json()["error"]["code"] == -32600


async def test_a_body_is_bounded_and_says_that_it_is_json(app):
    answer = await post(app, "/rpc", b" " * (MAX_BODY + 1))
    assert (answer.status, answer.error["code"]) == (413, "too_large")
    answer = await post(app, "/rpc", {}, headers={"content-type": "text/plain"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    answer = await post(
        app, "/rpc", {"jsonrpc": "2.0"}, headers={"content-type": "Application/JSON; charset=utf-8"}
    )
    assert answer.status == 200
