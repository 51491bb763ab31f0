"""Streams of events. Under a clock of the test: what takes 15 seconds takes none."""

import json
import math
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests._helpers.console import ask, streaming
from tests._helpers.events import agent
from trio_eventlog import AgentEvent, StoreError, open_event_log
from trio_eventlog.console import ConsoleLimits, create_app
from trio_eventlog.console._app import make_app, sources_of
from trio_eventlog.console._guard import Sessions
from trio_eventlog.console._state import Console
from trio_eventlog.stores import MemoryStore

PATH = "/api/events/stream"


def app_of(shown, **limits):
    console = Console(
        sources=sources_of(shown),
        limits=ConsoleLimits(**limits),
        sessions=Sessions(None),
        allowed_hosts=frozenset(),
    )
    return make_app(console, {})


@pytest.fixture(params=["log", "store"])
async def live(request):
    """What is shown, and how to add events: a log of this program, or a store that another one writes."""
    store = MemoryStore()
    async with open_event_log(store, flush_interval=0.01, retry_buffer_cap=10_000) as log:

        async def add(count, **fields):
            for _ in range(count):
                log.ingest(AgentEvent(fields.get("agent_id", "w"), "t", fields))
            await log.flush()

        yield (log if request.param == "log" else store), add


async def test_what_is_stored_and_then_what_comes(live, autojump_clock):
    shown, add = live
    await add(3)
    async with streaming(app_of(shown), PATH, {"after_seq": 1}) as stream:
        assert stream.status == 200
        assert stream.sent.startswith(b"retry: 2000\n\nevent: ready\nid: 1\n")
        assert stream.of_kind("ready") == [{"after_seq": "1", "last_seq": "3"}]
        await stream.wait_for(lambda s: s.seqs == [2, 3])
        await add(300)
        await stream.wait_for(lambda s: s.seqs == [*range(2, 304)])
        assert stream.last_id == "303"


async def test_without_a_cursor_only_what_comes(live, autojump_clock):
    shown, add = live
    await add(3)
    async with streaming(app_of(shown), PATH) as stream:
        await add(1)
        await stream.wait_for(lambda s: s.seqs == [4])


async def test_an_idle_stream_is_kept_open_and_its_cursor_moves(live, autojump_clock):
    shown, add = live
    async with streaming(app_of(shown), PATH, {"member_id": "nobody"}) as stream:
        await add(7)
        sent = len(stream.sent)
        await trio.sleep(15.5)
        assert stream.sent[sent:] == b": keep-alive\nid: 7\n\n"
        await trio.sleep(30)
        assert stream.sent.count(b": keep-alive") == 3
        assert stream.seqs == []


async def test_a_browser_resumes_where_it_was(live, autojump_clock):
    shown, add = live
    await add(5)
    headers = {"last-event-id": "3"}
    async with streaming(app_of(shown), PATH, {"after_seq": 1}, headers=headers) as stream:
        await stream.wait_for(lambda s: s.seqs == [4, 5])


@pytest.mark.parametrize("last_id", ["x", "-1", "mob-evt-1", "9" * 30])
async def test_a_cursor_of_another_stream(app, last_id):
    answer = await ask(app, PATH, headers={"last-event-id": last_id})
    assert (answer.status, answer.error["field"]) == (400, "Last-Event-ID")


async def test_a_stale_cursor(app):
    answer = await ask(app, PATH, {"after_seq": 10})
    assert (answer.status, answer.error["code"]) == (410, "stale_cursor")


async def test_head_asks_for_no_stream(app):
    answer = await ask(app, PATH, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_a_slow_client_is_told_and_resumes(live, autojump_clock):
    shown, add = live
    app = app_of(shown)
    async with streaming(app, PATH, {"after_seq": 0}) as stream:
        stream.read_time = 6.0
        await add(3)
        await trio.sleep(30)
        assert stream.is_over
        assert stream.seqs == [1, 2, 3]
        assert stream.of_kind("cut_off") == [{"reason": "slow_client", "after_seq": "3"}]
    await add(2)
    async with streaming(app, PATH, headers={"last-event-id": stream.last_id}) as again:
        await again.wait_for(lambda s: s.seqs == [4, 5])


async def test_a_client_that_reads_in_time_is_not_cut_off(live, autojump_clock):
    shown, add = live
    async with streaming(app_of(shown), PATH, {"after_seq": 0}) as stream:
        stream.read_time = 4.0
        await add(3)
        await trio.sleep(30)
        assert not stream.is_over


async def test_a_client_that_never_reads_keeps_nothing_but_a_page(live, autojump_clock):
    shown, add = live
    async with streaming(app_of(shown), PATH, {"after_seq": 0}) as stream:
        stream.read_time = math.inf
        for _ in range(20):
            await add(1000)
        assert stream.seqs == []
        assert not stream.is_over


async def test_a_client_that_lags_skips_if_it_may(live, autojump_clock):
    shown, add = live
    await add(5000)
    async with streaming(app_of(shown), PATH, {"after_seq": 0, "on_lag": "skip"}) as stream:
        await stream.wait_for(lambda s: s.seqs and s.seqs[-1] == 5000)
        (skipped,) = stream.of_kind("skipped")
        first, last = int(skipped["first_seq"]), int(skipped["last_seq"])
        assert last == 4940
        # Nothing is missing but what was said.
        assert stream.seqs == [*range(1, first), *range(last + 1, 5001)]
        await add(1)
        await stream.wait_for(lambda s: s.seqs[-1] == 5001)
    async with streaming(app_of(shown), PATH, {"after_seq": 0}) as stream:
        await stream.wait_for(lambda s: s.seqs == [*range(1, 5002)])


async def test_streams_are_counted(live, autojump_clock):
    shown, _ = live
    app = app_of(shown, streams=2)
    async with streaming(app, PATH) as one, streaming(app, PATH) as two:
        assert (one.status, two.status) == (200, 200)
        with trio.fail_after(60):
            answer = await ask(app, PATH)
        assert (answer.status, answer.error["code"]) == (503, "busy")
        assert answer.headers["retry-after"] == "2"
    async with streaming(app, PATH) as again:
        assert again.status == 200


async def test_a_log_that_is_closed_ends_its_streams(autojump_clock):
    to_close = trio.Event()

    async def hold(task_status):
        async with open_event_log(MemoryStore()) as log:
            log.ingest(AgentEvent("w", "t"))
            task_status.started(app_of(log))
            await to_close.wait()

    async with trio.open_nursery() as nursery:
        app = await nursery.start(hold)
        async with streaming(app, PATH, {"after_seq": 0}) as stream:
            to_close.set()
            await stream.wait_for(lambda s: s.of_kind("cut_off"))
            assert stream.of_kind("cut_off") == [{"reason": "closed", "after_seq": "1"}]
            assert stream.seqs == [1]
    # Its store can still be read, and followed no more.
    assert (await ask(app, "/api/events")).json()["last_seq"] == "1"
    answer = await ask(app, PATH)
    assert (answer.status, answer.error["code"]) == (503, "store_unusable")


class FailingStore(MemoryStore):
    fails = False

    async def last_seq(self):
        if self.fails:
            raise StoreError("down; password=secret")
        return await super().last_seq()


async def test_a_store_that_fails_ends_the_stream_with_its_error(autojump_clock):
    store = FailingStore()
    await store.append_batch([agent(1)])
    async with streaming(create_app(store), PATH, {"after_seq": 0}) as stream:
        await stream.wait_for(lambda s: s.seqs == [1])
        store.fails = True
        await trio.sleep(2)
        assert stream.is_over
        (failed,) = stream.of_kind("failed")
        assert (failed["error"]["code"], failed["after_seq"]) == ("store_failed", "1")
        answer = await ask(create_app(store), PATH)
        assert (answer.status, answer.error["code"]) == (503, "store_failed")


async def test_pruned_events_are_a_gap(autojump_clock):
    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in range(1, 11)])
    await store.prune(keep=3)
    async with streaming(create_app(store), PATH, {"after_seq": 2}) as stream:
        await stream.wait_for(lambda s: s.seqs == [8, 9, 10])
        assert stream.of_kind("gap") == [{"first_seq": "3", "last_seq": "7", "reason": "pruned"}]


async def test_the_client_going_away_ends_the_stream(live, autojump_clock):
    shown, _ = live
    app = app_of(shown, streams=1)
    for _ in range(3):
        gone = trio.Event()
        received = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive(parts=received, gone=gone):
            if parts:
                return parts.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_message):
            await trio.lowlevel.checkpoint()

        from tests._helpers.console import request_scope

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(app, request_scope(PATH), receive, send))
            await wait_all_tasks_blocked()
            gone.set()


async def test_large_payloads_are_left_out(live, autojump_clock):
    shown, add = live
    async with streaming(app_of(shown), PATH, {"max_payload": 100}) as stream:
        await add(1, text="x" * 1000)
        await stream.wait_for(lambda s: s.seqs == [1])
        message = json.loads(stream.messages[-1].data)
        assert message["payload_bytes"] > 1000
        assert "payload" not in message["event"]


# --- for clients of MobKit ------------------------------------------------------------------------

MOB_PATH = "/mobkit/mob_events/stream"


async def test_the_stream_of_mob_events(live, autojump_clock):
    shown, add = live
    await add(2, mob_id="home", run_id="r-1")
    async with streaming(app_of(shown), MOB_PATH, {"after_seq": 1}) as stream:
        await stream.wait_for(lambda s: b"mob-evt-2" in s.sent)
        (message,) = stream.messages
        assert (message.event, message.last_event_id) == ("t", "mob-evt-2")
        event = json.loads(message.data)
        assert list(event)[:7] == [
            "event_id",
            "cursor",
            "mob_id",
            "timestamp_ms",
            "kind",
            "run_id",
            "agent_identity",
        ]
        assert (event["cursor"], event["mob_id"], event["run_id"]) == (2, "home", "r-1")
        sent = len(stream.sent)
        await trio.sleep(15.5)
        assert stream.sent[sent:] == b": keep-alive\n\n"


async def test_filters_of_mob_events(live, autojump_clock):
    shown, add = live
    await add(1, mob_id="a", agent_id="w-1")
    await add(1, mob_id="b", agent_id="w-2")
    await add(1, mob_id="b", agent_id="w-3", identity="w-2")
    for parameters, expected in (
        ({"mob_id": "b"}, [2, 3]),
        ({"identity": "w-2"}, [2, 3]),
        ({"member_id": "w-2"}, [2, 3]),
        ({"member_id": "w-3"}, []),
        ({"event_types": "x,t"}, [1, 2, 3]),
        ({"event_types": "x"}, []),
        ({"event_types": ""}, [1, 2, 3]),
        ({"until_ms": 1}, []),
    ):
        async with streaming(app_of(shown), MOB_PATH, {"after_seq": 0} | parameters) as stream:
            await trio.sleep(1)
            assert [json.loads(message.data)["cursor"] for message in stream.messages] == expected, parameters


async def test_a_client_of_mobkit_resumes_by_id(live, autojump_clock):
    shown, add = live
    await add(3)
    headers = {"last-event-id": "mob-evt-2"}
    async with streaming(app_of(shown), MOB_PATH, headers=headers) as stream:
        await stream.wait_for(lambda s: b"mob-evt-3" in s.sent)
        assert len(stream.messages) == 1


async def test_a_stale_cursor_of_mobkit(app):
    answer = await ask(app, MOB_PATH, {"after_seq": 99})
    assert answer.status == 410
    assert answer.json() == {"error": "event_query_stale", "after_cursor": 99, "latest_cursor": 9}


async def test_a_type_with_a_line_break_breaks_no_stream(autojump_clock):
    store = MemoryStore()
    await store.append_batch([agent(1, event_type="a\nid: 99\r\n\r\ndata: x"), agent(2, event_type="")])
    async with streaming(create_app(store), MOB_PATH, {"after_seq": 0}) as stream:
        await stream.wait_for(lambda s: b"mob-evt-2" in s.sent)
        assert [message.last_event_id for message in stream.messages] == ["mob-evt-1", "mob-evt-2"]
        assert [message.event for message in stream.messages] == ["message", "message"]
        assert json.loads(stream.messages[0].data)["kind"] == "a\nid: 99\r\n\r\ndata: x"


async def test_what_never_matches_keeps_a_stream_of_mob_events_open_all_the_same(live, autojump_clock):
    """A store cannot tell the identity of an agent: every page of the log comes, and none is sent."""
    shown, add = live
    async with streaming(app_of(shown), "/mobkit/mob_events/stream", {"identity": "nobody"}) as stream:
        for _ in range(100):
            await add(1)
            await trio.sleep(1)
        assert stream.sent.count(b": keep-alive\n\n") == 6


class HangingStore(MemoryStore):
    """Does not say where it ends."""

    async def last_seq(self):
        return await trio.sleep_forever()


@pytest.mark.parametrize("path", [PATH, "/mobkit/mob_events/stream"])
async def test_a_store_that_hangs_begins_no_stream(path, autojump_clock):
    answer = await ask(app_of(HangingStore(), request_timeout=30), path)
    assert trio.current_time() == 30
    assert (answer.status, answer.error["code"]) == (504, "timeout")


async def test_comments_leave_time_for_events_however_often_they_come(live, autojump_clock):
    shown, add = live
    async with streaming(app_of(shown, keep_alive=0.01), PATH) as stream:
        for expected in (1, 2, 3):
            await trio.sleep(1)
            await add(1)
            with trio.move_on_after(60):
                await stream.wait_for(lambda s, n=expected: s.seqs == [*range(1, n + 1)])
        assert stream.seqs == [1, 2, 3]
