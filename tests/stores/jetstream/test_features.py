"""What JetStreamStore does beyond the contract: options, readers, watching, upkeep, users."""

import itertools
import json
import logging
import re
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests._helpers.checkpoints import (
    DESCRIBE,
    IN_A_FILE,
    STORE_CALLS,
    UPKEEP,
    async_methods,
    checked,
    entered_cancelled,
)
from tests._helpers.nats_server import running_server
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    LogBusy,
    ModuleEvent,
    PersistedEvent,
    StoreError,
    StoreUnusable,
    from_json,
    open_event_log,
)
from trio_eventlog._util import Forks
from trio_eventlog.reading import iter_events, merge_events, tail
from trio_eventlog.stores import JetStreamStore, open_store
from trio_eventlog.stores.jetstream._api import Pull, drop_consumer
from trio_eventlog.stores.jetstream._connection import Connection, decode
from trio_eventlog.stores.jetstream._inbox import Inbox

PATIENCE = 30.0

names = itertools.count(1)


@pytest.fixture(scope="module")
def server():
    with running_server() as node:
        yield node


@pytest.fixture
def log_name():
    return f"log-{next(names)}"


def event(seq, *, event_id=None, event_type="t", member=None, payload=None, timestamp_ms=None):
    inner = AgentEvent(member, event_type, payload) if member else ModuleEvent("m", event_type, payload)
    return PersistedEvent(event_id or f"id-{seq}", seq, timestamp_ms or 1_000 + seq, member, inner)


def events(first, count):
    return [event(seq) for seq in range(first, first + count)]


def seqs(found):
    return [one.seq for one in found]


# --- opening --------------------------------------------------------------------------------------


async def test_by_url(server):
    """All that there is to say fits into a URL."""
    url = f"{server.url}/BY_URL?log=of%20mine&replicas=1&max_age=3600&lock_timeout=4.5"
    async with open_store(url) as store, open_event_log(store) as log:
        log.ingest(AgentEvent("w", "t", {"run_id": "r"}))
        await log.flush()
        assert store.lock_timeout == 4.5
        info = await store._stream.info()
        assert info["config"]["max_age"] == 3_600_000_000_000
        async with open_store(url, read_only=True) as reader:
            assert len(await reader.query(EventQuery(run_id="r"))) == 1
            assert repr(reader) == (
                f"<JetStreamStore 'stream BY_URL at 127.0.0.1:{server.port}' log='of mine' read-only>"
            )
    assert await JetStreamStore.logs(server.url, stream="BY_URL") == ["of mine"]


async def test_a_reader_of_a_log_without_events(server):
    async with JetStreamStore.open(server.url, stream="HERE", log="one"):
        pass
    async with JetStreamStore.open(server.url, stream="HERE", log="one", read_only=True) as reader:
        assert await reader.query(EventQuery()) == []
        assert await reader.last_seq() == 0
        assert reader.log_id is None
        assert (await reader.describe()).events == 0
        assert (await reader.verify()).problems == 0
        assert await reader.prune(keep=0) == 0
        with pytest.raises(StoreUnusable, match="read-only"):
            await reader.append_batch(events(1, 1))


async def test_who_has_the_log_is_named(server, log_name):
    async with JetStreamStore.open(server.url, log=log_name) as store:
        assert store.log_id
        with pytest.raises(LogBusy, match=r"by process \d+ on "):
            async with JetStreamStore.open(server.url, log=log_name):
                pass
        first = store.log_id
    async with JetStreamStore.open(server.url, log=log_name) as store:
        assert store.log_id == first


async def test_a_stream_that_is_none_of_ours(server):
    async with JetStreamStore.open(server.url, stream="OURS") as store:
        stream = store._stream
        await stream._call("STREAM.CREATE", {})
        for name, config, words in (
            ("OTHER", {"subjects": ["other.>"]}, "none of ours"),
            ("LACKS", {"subjects": ["eventlog.LACKS.>"]}, "allow_atomic is False, not True"),
            (
                "NEWER",
                {"subjects": ["eventlog.NEWER.>"], "metadata": {"trio_eventlog": "2"}},
                "update trio-eventlog",
            ),
        ):
            message = await stream.connection.request(
                f"$JS.API.STREAM.CREATE.{name}", json.dumps({"name": name, **config}).encode()
            )
            assert b'"error"' not in message.data
            with pytest.raises(StoreUnusable, match=words):
                async with JetStreamStore.open(server.url, stream=name):
                    pass


async def test_more_replicas_than_servers(server):
    with pytest.raises(StoreUnusable, match="replicas"):
        async with JetStreamStore.open(server.url, stream="REPLICAS", replicas=3):
            pass


async def test_a_stream_that_is_removed(server):
    async with JetStreamStore.open(server.url, stream="GONE") as store:
        await store.append_batch(events(1, 2))
        await store._stream.ask("STREAM.DELETE", {})
        for call in (store.append_batch(events(3, 1)), store.last_seq(), store.query(EventQuery())):
            with pytest.raises(StoreError) as caught:
                await call
            # It may be restored.
            assert not isinstance(caught.value, StoreUnusable)


async def test_a_log_without_its_head_is_damaged(server, log_name):
    async with JetStreamStore.open(server.url, log=log_name) as store:
        await store.append_batch(events(1, 2))
        head = await store._reader.head()
        await store._stream.delete([head.position])
    with pytest.raises(StoreUnusable, match="its head is gone"):
        async with JetStreamStore.open(server.url, log=log_name):
            pass
    async with JetStreamStore.open(server.url, log=log_name, read_only=True) as reader:
        verification = await reader.verify()
        assert verification.events == 2
        assert "head is gone" in verification.findings[0].problem


async def test_events_beyond_the_payload_of_the_server(server, log_name):
    """All that are too large are named; those that are held already are none of them."""
    async with JetStreamStore.open(server.url, log=log_name) as store:
        large = "x" * 1_048_576
        await store.append_batch([event(1)])
        batch = [event(2, payload=large), event(3), event(4, payload=large), event(1, payload=large)]
        with pytest.raises(EventRejected, match="max_payload of 1048576 bytes") as caught:
            await store.append_batch(batch)
        assert seqs(caught.value.events) == [2, 4]
        nearly = event(5, payload="x" * (1_048_576 - 1_000))
        assert await store.append_batch([nearly]) == ()
        assert seqs(await store.query(EventQuery())) == [1, 5]


async def test_more_events_than_a_batch_has(server, log_name):
    async with JetStreamStore.open(server.url, log=log_name) as store:
        assert store.max_batch == 999
        await store.append_batch(events(1, 999))
        with pytest.raises(StoreError, match="at most 999"):
            await store.append_batch(events(1_000, 1_000))
        assert await store.last_seq() == 999


async def test_an_id_is_found_whatever_comes_with_it(server, log_name):
    """Servers up to 2.14.3 took some for new, one in a hundred."""
    async with JetStreamStore.open(server.url, log=log_name) as store:
        await store.append_batch(events(1, 40))
        seq = 40
        for number in range(400):
            seq += 2
            batch = [event(seq - 1), event(seq, event_id=f"id-{1 + number % 40}")]
            assert await store.append_batch(batch) == (seq,)


# --- reading --------------------------------------------------------------------------------------


async def test_cursors_in_a_long_log_of_several(server):
    """Found wherever they stand, in streams of one log and of many, in order and not."""
    async with (
        JetStreamStore.open(server.url, stream="CURSORS", log="a") as store,
        JetStreamStore.open(server.url, stream="CURSORS", log="b") as other,
    ):
        held = []
        for number in range(12):
            # With gaps, and much of another log between.
            first = 1 + number * 5_000
            batch = [
                event(seq, payload={"run_id": f"r-{seq % 7}"}) for seq in range(first, first + 3 * 400, 3)
            ]
            await store.append_batch(batch)
            await other.append_batch(events(1 + number * 700, 700))
            held += batch
        for after in (0, 1, 2, 4, 1_198, 1_199, 4_999, 5_000, 5_001, 30_004, 56_190, 56_198, 60_000):
            for limit in (1, 3, 700):
                query = EventQuery(after_seq=after, limit=limit)
                expected = [one.seq for one in held if one.seq > after][:limit]
                assert seqs(await store.query(query)) == expected
            narrow = EventQuery(after_seq=after, run_id="r-3")
            assert seqs(await store.query(narrow)) == [one.seq for one in held if narrow.matches(one)]
        # Then events come that belong far ahead.
        late = [event(seq) for seq in (2, 5_003, 40_002)]
        await store.append_batch(late)
        held = sorted(held + late, key=lambda one: one.seq)
        for after in (0, 1, 5_001, 40_001, 56_190):
            query = EventQuery(after_seq=after, limit=5)
            assert seqs(await store.query(query)) == [one.seq for one in held if one.seq > after][:5]
        # And from then on it is in order again.
        await store.append_batch([event(70_000), event(70_003)])
        assert seqs(await store.query(EventQuery(after_seq=56_200))) == [70_000, 70_003]
        assert (await store.verify()).problems == 0
        async with JetStreamStore.open(server.url, stream="CURSORS", log="a", read_only=True) as reader:
            assert [one.seq async for one in iter_events(reader, page_size=1_000)] == [
                *seqs(held),
                70_000,
                70_003,
            ]


def long_events(first, count):
    """More than two pages of them, if they are 3,000 or more."""
    return [
        event(seq, event_type=f"t{seq % 5}", payload={"text": "x" * 8_000})
        for seq in range(first, first + count)
    ]


async def append_all(store, held):
    for start in range(0, len(held), 500):
        await store.append_batch(held[start : start + 500])


async def consumers(store):
    """How many the stream has now."""
    return (await store._stream.info())["state"]["consumer_count"]


async def until_no_consumer(store):
    with trio.fail_after(PATIENCE):
        while await consumers(store):  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()


@pytest.fixture
def pulls(monkeypatch):
    """How many messages each page had that came through a consumer."""
    sizes = []
    original = Pull.page

    async def page(self, most):
        found = await original(self, most)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Pull, "page", page)
    return sizes


async def test_long_scans(server, pulls):
    """A consumer is had for them. It gives what there is, in one log of several, and is gone afterwards."""
    async with (
        JetStreamStore.open(server.url, stream="LONG", log="a") as store,
        JetStreamStore.open(server.url, stream="LONG", log="b") as other,
    ):
        held = []
        for first in range(1, 5_000, 500):
            held += long_events(first, 500)
            await store.append_batch(held[-500:])
            await other.append_batch(long_events(first, 100))
        for query in (
            EventQuery(),
            EventQuery(until_ms=5_900),
            EventQuery(since_ms=3_000, until_ms=3_010),
            EventQuery(event_types=("t1", "t2", "t4")),
            EventQuery(after_seq=100, limit=4_800),
        ):
            pulls.clear()
            assert await store.query(query) == [one for one in held if query.matches(one)][: query.limit]
            assert sum(pulls) > 100
        pulls.clear()
        assert (await store.describe()).events == 5_000
        assert (await store.verify()).problems == 0
        assert await store.prune(keep=4_999) == 1
        assert sum(pulls) > 5_000
        assert len(await store.query(EventQuery())) == 4_999
        await until_no_consumer(store)


async def test_a_long_scan_that_is_cancelled(server, monkeypatch):
    """No consumer is left."""
    async with JetStreamStore.open(server.url, stream="CANCELLED") as store:
        await append_all(store, long_events(1, 4_000))
        seen = []
        original = Pull.page
        with trio.CancelScope() as scope:

            async def page(self, most):
                found = await original(self, most)
                seen.append(await consumers(store))
                scope.cancel()
                return found

            monkeypatch.setattr(Pull, "page", page)
            await store.query(EventQuery())
        assert scope.cancelled_caught
        assert seen == [1]
        await until_no_consumer(store)


async def test_a_long_scan_whose_consumer_is_lost(server, monkeypatch):
    """It goes on from where it was."""
    async with JetStreamStore.open(server.url, stream="LOST") as store:
        held = long_events(1, 5_000)
        await append_all(store, held)
        used = []
        original = Pull.page

        async def page(self, most):
            used.append(self)
            found = await original(self, most)
            if len(used) == 1:
                drop_consumer(self._stream, self._name)
            return found

        monkeypatch.setattr(Pull, "page", page)
        assert await store.query(EventQuery()) == held
        assert len(set(used)) == 2


async def test_a_long_scan_that_misses_a_message(server, monkeypatch, pulls):
    """Between servers, one may be lost, and those behind it come all the same."""
    async with JetStreamStore.open(server.url, stream="MISSED") as store:
        held = long_events(1, 4_000)
        await append_all(store, held)
        original = Inbox.on_message
        count = itertools.count()

        def put(self, message):
            if not message.reply.startswith("$JS.ACK.") or next(count) != 5:
                original(self, message)

        monkeypatch.setattr(Inbox, "on_message", put)
        assert await store.query(EventQuery()) == held
        assert next(count) > 100


async def test_a_long_scan_with_events_beyond_a_page(pulls):
    """They are had, too, and one by one."""
    with running_server(config="max_payload: 8MB") as node:
        async with JetStreamStore.open(node.url) as store:
            held = long_events(1, 3_000)
            for seq in (2_000, 2_001, 2_400):
                held[seq - 1] = event(seq, payload="y" * 3_000_000)
            await append_all(store, held)
            assert await store.query(EventQuery()) == held
            assert pulls.count(0) > 0


async def test_several_logs_through_one_connection(server):
    for number, name in enumerate(("one", "two", "drei und vier")):
        async with JetStreamStore.open(server.url, stream="SEVERAL", log=name) as store:
            await store.append_batch([event(1, timestamp_ms=100 + number)])
    async with JetStreamStore.open_readers(server.url, stream="SEVERAL") as readers:
        assert list(readers) == ["drei und vier", "one", "two"]
        assert len({id(reader._stream.connection) for reader in readers.values()}) == 1
        merged = [(one.log, one.event.timestamp_ms) async for one in merge_events(readers)]
        assert merged == [("one", 100), ("two", 101), ("drei und vier", 102)]
    async with JetStreamStore.open_readers(server.url, stream="SEVERAL", logs=["two"]) as readers:
        assert seqs(await readers["two"].query(EventQuery())) == [1]
    with pytest.raises(TypeError, match="single string"):
        async with JetStreamStore.open_readers(server.url, logs="two"):
            pass


async def test_a_tail_hears_of_each_batch(server, log_name):
    """It does not wait for its poll interval."""
    async with (
        JetStreamStore.open(server.url, log=log_name) as store,
        JetStreamStore.open(server.url, log=log_name, read_only=True) as reader,
        tail(reader, poll_interval=3_600) as subscription,
    ):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def append_once_it_waits():
                for seq in range(1, 6):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    await store.append_batch([event(seq)])

            nursery.start_soon(append_once_it_waits)
            with trio.fail_after(PATIENCE):
                for seq in range(1, 6):
                    assert (await anext(subscription)).seq == seq
        # Nor for the heartbeats of its consumer.
        assert trio.current_time() - began < 2


async def test_a_watch_outlives_its_server(log_name):
    """Its consumer went with the server; another one is made, and the log may have changed."""
    with running_server() as node:
        async with (
            JetStreamStore.open(node.url, log=log_name) as store,
            store.watch_changes() as watch,
        ):
            await store.append_batch(events(1, 1))
            with trio.fail_after(PATIENCE):
                await watch.wait()
            node.kill()
            node.start()

            async def wait():
                while True:
                    try:
                        await watch.wait()
                    except StoreError:
                        await trio.sleep(0.02)
                    else:
                        return

            with trio.fail_after(PATIENCE):
                await wait()
                await store.append_batch(events(2, 1))
                await wait()


async def test_a_watch_that_is_cancelled_while_it_begins_leaves_no_consumer(server, log_name, monkeypatch):
    send = Connection.send
    asked_for = 0
    async with JetStreamStore.open(server.url, log=log_name) as store:
        with monkeypatch.context() as patch, trio.CancelScope() as scope:

            def send_and_cancel(link, items):
                nonlocal asked_for
                send(link, items)
                if ".CONSUMER.CREATE." in getattr(items[0], "subject", ""):
                    asked_for += 1
                    scope.cancel()

            patch.setattr(Connection, "send", send_and_cancel)
            async with store.watch_changes():
                pytest.fail("not cancelled")  # pragma: no cover
        assert scope.cancelled_caught
        assert asked_for == 1

        stream = store._stream
        question = f"$JS.API.CONSUMER.NAMES.{stream.name}"
        # By itself the server would forget it after 30 seconds.
        with trio.fail_after(10):
            while decode(await stream.connection.request(question))["total"]:  # noqa: ASYNC110 - the server changes it
                await trio.sleep(0.02)


async def test_other_programs_can_read_the_messages(server, log_name):
    """A message is the wire form of its event."""
    async with JetStreamStore.open(server.url, log=log_name) as store:
        await store.append_batch([event(1, member="worker-7", payload={"run_id": "r"})])
        found = await store._stream.next(1, f"eventlog.EVENTLOG.{log_name}.e.*.*.worker-7.t.*.*.r.*")
        assert from_json(found.data, PersistedEvent).event == AgentEvent("worker-7", "t", {"run_id": "r"})


# --- upkeep ---------------------------------------------------------------------------------------


async def test_describe(server, log_name):
    async with JetStreamStore.open(server.url, log=log_name) as store:
        await store.append_batch(
            [
                event(1, event_type="a", member="w"),
                event(2, event_type="b"),
                event(5, event_type="a", member="v"),
                event(6, event_type="a", member="w"),
            ]
        )
        found = await store.describe(top=1)
        assert (found.events, found.first_seq, found.last_seq, found.highest_seq) == (4, 1, 6, 6)
        assert (found.first_timestamp_ms, found.last_timestamp_ms) == (1_001, 1_006)
        assert (found.distinct_event_types, found.event_types) == (2, (("a", 3),))
        assert (found.distinct_members, found.members) == (2, (("w", 2),))
        assert (found.gaps, found.missing, found.first_gaps) == (1, 2, ((3, 4),))
        assert found.size_bytes > 0
        assert found.schema_version == 1
        with pytest.raises(ValueError, match="top"):
            await store.describe(top=-1)


async def test_verify_finds_what_does_not_belong(server, log_name):
    async with JetStreamStore.open(server.url, log=log_name) as store:
        await store.append_batch(events(1, 3))
        assert (await store.verify()).problems == 0
        base = store._reader.subjects.events
        for subject, data in (
            (f"{base}foreign.4.~.t.~.~.~.~", b"no event"),
            (f"{base}foreign2", b"no place"),
        ):
            await store._stream.publish(subject, data, {})
        await store.append_batch(events(5, 1))
        told = []
        found = await store.verify(most_findings=2, on_progress=told.append)
        assert found.problems == 2
        assert [one.seq for one in found.findings] == [4, None]
        assert told
        with pytest.raises(StoreUnusable, match="damaged"):
            await store.query(EventQuery())


async def test_two_that_prune_at_once_count_what_they_removed(server, log_name):
    """One by one, since what stays lies between; and many together."""
    async with JetStreamStore.open(server.url, log=log_name) as store:
        for first in range(1, 2_000, 500):
            await store.append_batch(
                [event(seq, timestamp_ms=1_000 + seq % 2) for seq in range(first, first + 500)]
            )
        counts = []

        async def prune(**criteria):
            counts.append(await store.prune(**criteria))

        for criteria in ({"before_ms": 1_001}, {"keep": 0}):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(prune, **criteria))
                nursery.start_soon(partial(prune, **criteria))
            assert sum(counts) == 1_000
            counts.clear()
        assert await store.query(EventQuery()) == []


@pytest.mark.parametrize("is_mixed", [False, True])
async def test_prune(server, log_name, is_mixed):
    async with JetStreamStore.open(server.url, log=log_name) as store:
        batches = [events(1, 900), events(901, 900), events(1_801, 400)]
        for batch in reversed(batches) if is_mixed else batches:
            await store.append_batch(batch)
        assert await store.prune(before_ms=1_101, dry_run=True) == 100
        assert await store.prune(before_ms=1_101) == 100
        told = []
        assert await store.prune(keep=500, on_progress=lambda *args: told.append(args)) == 1_600
        assert told[-1] == (1_600, 1_600)
        assert told == sorted(told)
        assert await store.prune(keep=500) == 0
        assert await store.prune(through_seq=1_700) == 0
        assert await store.prune(through_seq=1_750, before_ms=2_741) == 40
        assert await store.prune(through_seq=1_750) == 10
        assert seqs(await store.query(EventQuery())) == list(range(1_751, 2_201))
        assert await store.last_seq() == 2_200
        # What is gone may come again: an id is known for as long as its event is held.
        assert await store.append_batch([event(2_201, event_id="id-1")]) == ()
        assert (await store.verify()).problems == 0
        for criteria in ({}, {"keep": 1, "before_ms": 1}, {"keep": -1}):
            with pytest.raises(ValueError, match="keep"):
                await store.prune(**criteria)


# --- rules of the house ---------------------------------------------------------------------------

CALLS = STORE_CALLS | DESCRIBE | UPKEEP | IN_A_FILE


async def test_every_method_is_a_checkpoint(server, log_name):
    """With work and without, and when they raise; entered cancelled, they do nothing."""
    assert async_methods(JetStreamStore) - {"logs"} == set(CALLS)
    async with JetStreamStore.open(server.url, log=log_name, sync_interval=0.1) as store:
        for call in itertools.chain(*CALLS.values()):
            await entered_cancelled(call(store))
        assert await store.last_seq() == 0
        for call in itertools.chain(*CALLS.values()):
            await checked(call(store))
    for call in itertools.chain(*CALLS.values()):
        with trio.testing.assert_checkpoints(), pytest.raises(StoreError):
            await call(store)
    with trio.testing.assert_checkpoints():
        await JetStreamStore.logs(server.url)


async def test_a_child_by_fork_has_no_store(server, log_name, monkeypatch):
    """It shares the socket with its parent, and must not use it."""
    async with JetStreamStore.open(server.url, log=log_name) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Forks, "count", Forks.count + 1)
            for call in itertools.chain(*CALLS.values()):
                with pytest.raises(StoreError):
                    await call(store)
            with pytest.raises(StoreUnusable, match="forked this one"):
                await store.last_seq()
        assert await store.append_batch(events(1, 1)) == ()


async def test_what_the_body_raises_comes_out_as_it_is(server, log_name):
    """In no group of a nursery that the store has inside."""
    error = RuntimeError("of the body")
    with pytest.raises(RuntimeError) as caught:
        async with JetStreamStore.open(server.url, log=log_name):
            raise error
    assert caught.value is error


@pytest.mark.parametrize("number", [0, 1])
def test_the_programs_of_the_guide_run(server, number, capsys):
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "jetstream.md").read_text()
    programs = re.findall(r"^```\{code-block\} python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(programs) == 2
    source = programs[number].replace("nats://127.0.0.1:4222", server.url)
    exec(compile(source, "jetstream.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - see the name
    assert ("['run_started']\n", "events a second\n")[number] in capsys.readouterr().out


# --- who asks -------------------------------------------------------------------------------------


async def test_the_permissions_that_are_documented_suffice(pulls, caplog):
    caplog.set_level(logging.DEBUG, "trio_eventlog")
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "jetstream.md").read_text()
    paragraph = page[page.index("A user needs these permissions") :].partition("\n\n")[0]
    subjects = re.findall(r"`([$_a-z][\w$.>]+\.[\w>]+)`", paragraph)
    publish = [subject for subject in subjects if not subject.startswith("_INBOX")]
    assert len(publish) == 10
    assert "_INBOX.>" in subjects
    permissions = f'{{ publish: {json.dumps(publish)}, subscribe: ["_INBOX.>"] }}'
    user = f"{{ user: u, password: p, permissions: {permissions} }}"
    with running_server(config=f"authorization {{ users: [{user}] }}") as node:
        options = {"stream": "EVENTS", "user": "u", "password": "p"}
        async with (
            JetStreamStore.open(node.url, **options) as store,
            tail(store, poll_interval=3_600) as subscription,
        ):
            await store.append_batch(events(1, 20))
            assert (await anext(subscription)).seq == 1
            assert len(await store.query(EventQuery(event_types=("t",)))) == 20
            assert await store.prune(keep=5) == 15
            assert (await store.verify()).problems == 0
            await append_all(store, long_events(21, 3_000))
            assert len(await store.query(EventQuery())) == 3_005
            assert sum(pulls) > 100
        assert await JetStreamStore.logs(node.url, **options) == ["default"]
    assert "the server says" not in caplog.text
