"""Following a stream of mob events, and taking it into a log."""

from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests._helpers.events import agent
from trio_eventlog import AgentEvent, CodecError, EventQuery, RetryPolicy, StaleCursor, open_event_log
from trio_eventlog.console import serve_console
from trio_eventlog.mobkit import MobEvent, MobStreamError, follow_mob_events, ingest_mob_events, sse_message
from trio_eventlog.stores import MemoryStore

PATH = "mobkit/mob_events/stream"
FAST = RetryPolicy(initial=0.01, maximum=0.01)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def mob_event(cursor, **fields):
    return MobEvent(cursor=cursor, mob_id="home", timestamp_ms=1000 + cursor, kind="k", **fields)


def messages(*cursors):
    return b"".join(
        sse_message(mob_event(cursor).to_json(), event="k", event_id=f"mob-evt-{cursor}")
        for cursor in cursors
    )


@asynccontextmanager
async def serving(*answers):
    """A server that answers each connection with the next of ``answers``; yields its URL and the requests."""
    asked, left = [], list(answers)

    async def answer(stream):
        async with stream:
            asked.append((await stream.receive_some()).decode())
            content = left.pop(0) if left else HEAD + b"\r\n"
            if isinstance(content, bytes):
                await stream.send_all(content)
            else:
                await content(stream)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
            yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/{PATH}", asked
            nursery.cancel_scope.cancel()


async def take(events, count):
    return [(await anext(events)).cursor for _ in range(count)]


async def test_a_connection_that_ends_is_opened_again_after_the_last_event():
    async with serving(
        HEAD + b"\r\n" + messages(5, 6),
        b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno",
        b"",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz",
        HEAD + b"content-length: 5000\r\n\r\n" + messages(7),
    ) as (url, asked):
        failures = []
        async with follow_mob_events(
            f"{url}?mob_id=home&after_seq=2",
            retry=FAST,
            on_failure=failures.append,
            token="secret",  # noqa: S106 - of a test
        ) as events:
            assert events.cursor == 2
            assert await take(events, 3) == [5, 6, 7]
            assert events.cursor == 7
    lines = [request.split("\r\n")[0] for request in asked]
    assert lines[0] == f"GET /{PATH}?mob_id=home&after_seq=2 HTTP/1.1"
    assert set(lines[1:]) == {f"GET /{PATH}?mob_id=home&after_seq=6 HTTP/1.1"}
    assert all("authorization: Bearer secret" in request for request in asked)
    assert len(failures) == 4


async def test_a_server_that_is_not_there_is_tried_again():
    async with serving() as (url, _):
        pass
    failures = []
    async with follow_mob_events(url, retry=FAST, on_failure=failures.append) as events:
        with trio.move_on_after(0.5):
            await anext(events)
    assert len(failures) > 2
    assert all(isinstance(error, OSError) for error in failures)


async def test_silence_is_a_failure():
    async def say_nothing(stream):
        await stream.send_all(HEAD + b"\r\n")
        await stream.receive_some()

    async with serving(say_nothing, HEAD + b"\r\n" + messages(1)) as (url, asked):
        async with follow_mob_events(url, retry=FAST, idle_timeout=0.1) as events:
            assert await take(events, 1) == [1]
        assert len(asked) == 2


async def test_a_stale_cursor():
    body = b'{"error":"event_query_stale","after_cursor":9,"latest_cursor":4}'
    answer = b"HTTP/1.1 410 Gone\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with serving(answer) as (url, _), follow_mob_events(url, after_seq=9) as events:
        with pytest.raises(StaleCursor) as caught:
            await anext(events)
    assert (caught.value.after_seq, caught.value.last_seq) == (9, 4)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", 401),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", 404),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 1\r\n\r\nx", 410),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n", 200),
        (b"HTTP/1.1 302 There\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", 302),
        (b"220 smtp.example.org\r\n\r\n", None),
    ],
)
async def test_a_server_that_gives_no_stream(answer, status):
    async with serving(answer) as (url, _), follow_mob_events(url) as events:
        with pytest.raises(MobStreamError) as caught:
            await anext(events)
    assert caught.value.status == status


async def test_a_malformed_event_is_said_and_the_rest_goes_on():
    async with serving(HEAD + b"\r\n" + messages(1) + b"data: {}\n\n" + messages(2)) as (url, _):
        async with follow_mob_events(url) as events:
            assert await take(events, 1) == [1]
            with pytest.raises(CodecError):
                await anext(events)
            assert events.cursor == 1
            assert await take(events, 1) == [2]


async def test_pages_have_what_has_arrived():
    async with serving(HEAD + b"\r\n" + messages(*range(1, 9))) as (url, _):
        async with follow_mob_events(url) as events:
            found = []
            while len(found) < 8:
                found += await events.next_page()
        assert [event.cursor for event in found] == [*range(1, 9)]


async def test_a_step_that_is_cancelled_skips_nothing():
    async def drip(stream):
        await stream.send_all(HEAD + b"\r\n")
        for byte in messages(1, 2, 3):
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.0005)
        await stream.receive_some()

    async with serving(drip) as (url, _), follow_mob_events(url) as events:
        # A connection takes longer than the steps that follow.
        found = await take(events, 1)
        while len(found) < 3:
            with trio.move_on_after(0.003):
                found.append((await anext(events)).cursor)
    assert found == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"url": 5}, TypeError, "url"),
        ({"url": "ftp://a/"}, ValueError, "url"),
        ({"url": "http:///x"}, ValueError, "url"),
        ({"url": "http://a:x/"}, ValueError, "url"),
        ({"url": "http://a/ b"}, ValueError, "url"),
        ({"url": "http://a/?after_seq=x"}, ValueError, "url"),
        ({"after_seq": True}, TypeError, "after_seq"),
        ({"after_seq": -1}, ValueError, "after_seq"),
        ({"idle_timeout": 0}, ValueError, "idle_timeout"),
        ({"idle_timeout": "1"}, TypeError, "idle_timeout"),
    ],
)
async def test_wrong_arguments(arguments, error, name):
    with pytest.raises(error, match=rf"^{name}: "):
        async with follow_mob_events(**{"url": "http://localhost/", **arguments}):
            pass


# --- from a console into a log --------------------------------------------------------------------


async def test_from_a_console_into_a_log_and_never_twice(caplog):
    source, target = MemoryStore(), MemoryStore()
    await source.append_batch(
        [
            agent(seq, agent_id="w", event_type="flow_started", payload={"mob_id": "home", "n": seq})
            for seq in range(1, 51)
        ]
    )
    async with open_event_log(source, flush_interval=0.01) as original, trio.open_nursery() as nursery:
        url = await nursery.start(partial(serve_console, original, port=0))
        stream = f"{url}{PATH}"
        with trio.fail_after(20):
            for expected in (50, 51):
                if expected == 51:
                    original.ingest(AgentEvent("w", "flow_completed", {"mob_id": "home"}))
                    await original.flush()
                async with open_event_log(target, flush_interval=0.01) as copy, trio.open_nursery() as inner:
                    inner.start_soon(partial(ingest_mob_events, copy, stream, after_seq=0))
                    async with copy.subscribe(after_seq=0) as events:
                        async for event in events:
                            if event.id == f"mob-evt-{expected}":
                                break
                    inner.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    stored = await target.query(EventQuery())
    assert [event.id for event in stored] == [f"mob-evt-{seq}" for seq in range(1, 52)]
    first = stored[0]
    assert (first.member_id, first.event.event_type, first.timestamp_ms) == ("w", "flow_started", 10)
    assert first.event.payload == {"mob_id": "home", "data": {"mob_id": "home", "n": 1}}
    assert MobEvent.of(first).data == {"mob_id": "home", "n": 1}


async def test_an_event_that_the_log_does_not_take_is_left_out(caplog):
    source = MemoryStore()
    await source.append_batch([agent(1), agent(2, payload="x" * 5000), agent(3)])
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(serve_console, source, port=0))
        with trio.fail_after(20):
            async with (
                open_event_log(MemoryStore(), flush_interval=0.01, max_event_bytes=2000) as copy,
                trio.open_nursery() as inner,
            ):
                inner.start_soon(partial(ingest_mob_events, copy, f"{url}{PATH}", after_seq=0))
                async with copy.subscribe(after_seq=0) as events:
                    assert [(await anext(events)).id for _ in range(2)] == ["mob-evt-1", "mob-evt-3"]
                inner.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    assert "left out" in caplog.text


async def test_without_the_extra(monkeypatch):
    monkeypatch.setattr("trio_eventlog.mobkit._client.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'h11>=0.14'"):
        async with follow_mob_events("http://localhost/"):
            pass
