"""JetStreamStore when operators edit the stream, restore it, or want limits of their own."""

import itertools
import json
import shutil
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from tests._helpers.eventually import eventually
from tests._helpers.nats_server import Node, free_ports, running_server
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    LogBusy,
    LogNotFound,
    ModuleEvent,
    PersistedEvent,
    StoreError,
    StoreUnusable,
    StoreWentBack,
    open_event_log,
)
from trio_eventlog.reading import tail
from trio_eventlog.stores import JetStreamStore, open_readers, open_store
from trio_eventlog.stores.jetstream import _store as opening
from trio_eventlog.stores.jetstream._connection import Connection

PATIENCE = 30.0

names = itertools.count(1)


@pytest.fixture(scope="module")
def server():
    with running_server() as node:
        yield node


@pytest.fixture
def stream():
    return f"STREAM-{next(names)}"


def event(seq, *, event_id=None, payload=None, timestamp_ms=None):
    return PersistedEvent(
        event_id or f"id-{seq}", seq, timestamp_ms or 1_000 + seq, None, ModuleEvent("m", "t", payload)
    )


def events(first, count):
    return [event(seq) for seq in range(first, first + count)]


async def seqs_of(store):
    return [found.seq for found in await store.query(EventQuery())]


async def edit(store, **changes):
    """What an operator does; returns what undoes it."""
    config = (await store._stream.info())["config"]
    await store._stream.ask("STREAM.UPDATE", {**config, **changes})
    return {name: config.get(name) for name in changes}


async def ask(store, what, request):
    return await store._stream.ask(what, request)


# --- settings -------------------------------------------------------------------------------------

SECOND = 1_000_000_000

HARMLESS = {
    "compression": {"compression": "s2"},
    "republish": {"republish": {"src": "eventlog.*.*.e.>", "dest": "copy.>"}},
    "a window of deduplication": {"duplicate_window": SECOND},
    "limits that are far away": {"max_msgs": 1_000_000, "max_bytes": 100_000_000, "max_msg_size": 1_000_000},
    "limits of consumers": {
        "max_consumers": 1,
        "consumer_limits": {"inactive_threshold": SECOND, "max_ack_pending": 1},
    },
    "no upkeep": {"deny_delete": True, "deny_purge": True},
    "a description": {"description": "mine", "metadata": {"mine": "yes"}},
    "headers of roll-ups": {"allow_rollup_hdrs": True},
    "direct reads from mirrors": {"mirror_direct": True},
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_settings_that_keep_the_promises(server, stream, name):
    async with JetStreamStore.open(server.url, stream=stream, lock_timeout=2) as store:
        await store.append_batch(events(1, 2))
        await edit(store, **HARMLESS[name])
        await store.append_batch(events(3, 2))
        # Once the store has looked at the settings.
        await store._appender._limits.look()
        assert await store.append_batch([event(1), *events(5, 2)]) == ()
        assert await seqs_of(store) == [1, 2, 3, 4, 5, 6]
        assert await store.last_seq() == 6
        assert (await store.verify()).problems == 0
    async with JetStreamStore.open(server.url, stream=stream, read_only=True) as reader:
        assert await seqs_of(reader) == [1, 2, 3, 4, 5, 6]


HARMFUL = {
    "allow_atomic": {"allow_atomic": False},
    "max_msgs_per_subject": {"max_msgs_per_subject": 2},
    "discard": {"discard": "old", "max_msgs": 1_000},
    "discard_new_per_subject": {"discard_new_per_subject": True},
    "subject_delete_marker_ttl": {"subject_delete_marker_ttl": 60 * SECOND},
    "subject_transform": {"subject_transform": {"src": "eventlog.*.other.>", "dest": "eventlog.moved.>"}},
    "sources": {"sources": [{"name": "ELSEWHERE"}]},
    "max_msg_size": {"max_msg_size": 10_000},
    "no_ack": {"no_ack": True},
    "allow_direct": {"allow_direct": False},
    "subjects": {"subjects": ["elsewhere.>"]},
}


@pytest.mark.parametrize("name", HARMFUL)
async def test_settings_that_would_break_the_promises(server, stream, name):
    """Each costs a StoreError until it is taken back, and is refused on opening."""
    change = HARMFUL[name]
    if name == "subjects":
        change = {"subjects": [f"elsewhere.{stream}"]}
    async with JetStreamStore.open(server.url, stream=stream, lock_timeout=2) as store:
        await store.append_batch(events(1, 2))
        undo = await edit(store, **change)
        with trio.fail_after(PATIENCE):
            while store._appender._limits.misfit is None:  # noqa: ASYNC110 - a task of its own looks
                await trio.sleep(0.02)
        with pytest.raises(StoreError, match=f"was changed.*{name} is") as caught:
            await store.append_batch(events(3, 2))
        assert not isinstance(caught.value, StoreUnusable)

        other = JetStreamStore.open(server.url, stream=stream, log="other")
        with pytest.raises(StoreUnusable, match=name):
            async with other:
                pass

        await edit(store, **undo)
        assert await store.append_batch(events(3, 2)) == ()
        assert await seqs_of(store) == [1, 2, 3, 4]


async def test_a_setting_is_named_before_anybody_has_looked(server, stream):
    """What the server says to a batch is not what is wrong."""
    async with JetStreamStore.open(server.url, stream=stream, lock_timeout=60) as store:
        undo = await edit(store, allow_atomic=False)
        with pytest.raises(StoreError, match="allow_atomic is False") as caught:
            await store.append_batch(events(1, 2))
        assert not isinstance(caught.value, StoreUnusable)
        await edit(store, **undo)
        assert await store.append_batch(events(1, 2)) == ()


async def test_events_beyond_the_largest_message_of_the_stream(server, stream):
    """They never fit: the others of their batch are stored without them."""
    async with JetStreamStore.open(server.url, stream=stream, lock_timeout=60) as store:
        await edit(store, max_msg_size=200_000)
        large = event(2, payload="x" * 300_000)
        for batch in ([large], [event(1), large, event(3)]):
            with pytest.raises(EventRejected, match="max_msg_size of 200000 bytes") as caught:
                await store.append_batch(batch)
            assert caught.value.events == (large,)
        assert await store.append_batch([event(1), event(3)]) == ()


async def test_a_stream_that_is_sealed(server, stream):
    """Nobody can unseal it: the log ends, and is read as before."""
    async with JetStreamStore.open(server.url, stream=stream) as store:
        await store.append_batch(events(1, 2))
        await edit(store, sealed=True)
        with pytest.raises(StoreUnusable, match="sealed"):
            await store.append_batch(events(3, 1))
        assert await seqs_of(store) == [1, 2]
    async with JetStreamStore.open(server.url, stream=stream, read_only=True) as reader:
        assert await seqs_of(reader) == [1, 2]
        assert await reader.last_seq() == 2
    with pytest.raises(StoreUnusable, match="it is sealed"):
        async with JetStreamStore.open(server.url, stream=stream):
            pass


async def test_a_stream_in_memory_is_refused(server, stream):
    async with JetStreamStore.open(server.url, stream=stream) as store:
        config = (await store._stream.info())["config"]
        await ask(store, "STREAM.DELETE", {})
        await store._stream.create({**config, "storage": "memory"})
    with pytest.raises(StoreUnusable, match="storage is 'memory', not 'file'"):
        async with JetStreamStore.open(server.url, stream=stream):
            pass


@contextmanager
def configured(text, **options):
    """A server whose JetStream has settings of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        path = Path(directory)
        config = text.replace("STORE", repr(str(path / "store")))
        node = Node("n1", path / "n1", free_ports(1)[0], jetstream=False, config=config, **options)
        try:
            node.start()
            yield node
        finally:
            node.kill()


async def test_a_server_that_takes_smaller_batches():
    with configured("jetstream { store_dir: STORE, limits { batch { max_msgs: 100 } } }") as node:
        async with JetStreamStore.open(node.url) as store:
            assert store.max_batch == 99
            with pytest.raises(StoreError, match="at most 99 events"):
                await store.append_batch(events(1, 100))
            async with open_event_log(store, batch_size=500) as log:
                for number in range(500):
                    log.ingest(AgentEvent("w", "t", {"number": number}))
                await log.flush()
            assert await store.last_seq() == 500
    with configured("jetstream { store_dir: STORE, limits { batch { max_msgs: 1 } } }") as node:
        with pytest.raises(StoreUnusable, match=r"raise max_msgs in jetstream \{ limits"):
            async with JetStreamStore.open(node.url):
                pass


async def test_an_account_that_wants_a_limit():
    """It is told at once which argument to give."""
    limits = "jetstream: { max_bytes_required: true, max_file: 1G }"
    with configured(
        "jetstream { store_dir: STORE }\n"
        f"accounts {{ A {{ {limits}, users: [{{user: u, password: p}}] }} }}"
    ) as node:
        url = f"nats://u:p@127.0.0.1:{node.port}/S"
        with trio.fail_after(5), pytest.raises(StoreUnusable, match="give max_bytes"):
            async with open_store(url):
                pass
        async with open_store(f"{url}?max_bytes=1000000") as store:
            assert (await store._stream.info())["config"]["max_bytes"] == 1_000_000
            assert await store.append_batch(events(1, 2)) == ()


# --- what a user may do ---------------------------------------------------------------------------


def user(*publish):
    return (
        "authorization { users: [{ user: u, password: p, permissions: "
        f'{{ publish: {json.dumps(publish)}, subscribe: ["_INBOX.>"] }} }}] }}'
    )


async def test_a_refusal_is_about_what_was_asked():
    """Who may not have consumers is told so at once; and a server that hangs later is a server that hangs."""
    may = user("eventlog.>", "$JS.API.STREAM.>", "$JS.API.DIRECT.>")
    with running_server(config=may) as node:
        async with JetStreamStore.open(node.url, user="u", password="p") as store:  # noqa: S106 - of this test
            await store.append_batch(events(1, 1))
            with (
                trio.fail_after(1.5),
                pytest.raises(StoreError, match=r"(?i)permissions violation") as caught,
            ):
                async with store.watch_changes():
                    pass
            assert not isinstance(caught.value, StoreUnusable)
            node.pause()
            try:
                with trio.fail_after(PATIENCE), pytest.raises(StoreError) as caught:
                    await store.append_batch(events(2, 1))
            finally:
                node.resume()
            assert not isinstance(caught.value, StoreUnusable)
            await eventually(store.append_batch, events(2, 1))


async def test_a_permission_that_is_taken_away_for_a_while():
    """An operator can give it back, and nothing is lost."""
    everything, nothing = user("eventlog.>", "$JS.API.>"), user("$JS.API.STREAM.INFO.>")
    with running_server(config=everything) as node:
        async with JetStreamStore.open(node.url, user="u", password="p") as store:  # noqa: S106 - of this test
            await store.append_batch(events(1, 1))
            node.reconfigure(everything, nothing)

            async def refused():
                try:
                    await store.append_batch(events(2, 1))
                except StoreUnusable:
                    raise
                except StoreError as exc:
                    if "permissions violation" in str(exc).lower():
                        return
                    raise
                raise StoreError

            await eventually(refused)
            node.reconfigure(nothing, everything)
            await eventually(store.append_batch, events(2, 1))
            assert await seqs_of(store) == [1, 2]


# --- what is not there ----------------------------------------------------------------------------


async def test_a_log_that_is_not_there(server, stream):
    """Whoever reads it is told which ones are."""
    place = f"nats://127.0.0.1:{server.port}/{stream}"
    with pytest.raises(LogNotFound) as caught:
        async with JetStreamStore.open(
            f"nats://u:hush@127.0.0.1:{server.port}", stream=stream, read_only=True
        ):
            pass
    assert (caught.value.log, caught.value.names, caught.value.place) == ("default", (), place)
    with pytest.raises(StoreUnusable, match="there is no such stream"):
        async with open_readers(place):
            pass
    with pytest.raises(StoreUnusable, match="there is no such stream"):
        await JetStreamStore.logs(server.url, stream=stream)
    for name in ("b", "a.b"):
        async with JetStreamStore.open(server.url, stream=stream, log=name):
            pass
    for attempt in (
        JetStreamStore.open(server.url, stream=stream, log="A", read_only=True),
        open_store(f"{place}?log=A", read_only=True),
        open_readers(place, logs=["b", "A"]),
    ):
        with pytest.raises(LogNotFound) as caught:
            async with attempt:
                pass
        assert (caught.value.log, caught.value.names, caught.value.place) == ("A", ("a.b", "b"), place)
    async with open_readers(place, logs=[]) as readers:
        assert readers == {}


async def test_a_leaf_node_without_its_hub(monkeypatch):
    """The line may come up again; and no server here was forgotten to be started with JetStream."""
    monkeypatch.setattr(opening, "_OPEN_TIMEOUT", 0.5)
    (line,) = free_ports(1)
    leaf = f"leafnodes {{ reconnect: 1s, remotes: [{{ url: 'nats://127.0.0.1:{line}' }}] }}"
    with running_server(
        config=f"jetstream {{ enabled: false, domain: hub }}\n{leaf}", jetstream=False
    ) as node:
        for read_only in (False, True):
            with pytest.raises(StoreError, match="cannot be reached") as caught:
                async with JetStreamStore.open(node.url, read_only=read_only):
                    pass
            assert not isinstance(caught.value, StoreUnusable)


# --- events that went -----------------------------------------------------------------------------


async def test_what_was_pruned(server, stream):
    async with JetStreamStore.open(server.url, stream=stream) as store:
        assert await store.pruned_seq() == 0
        # Nothing was pruned before the first.
        await store.append_batch(events(5, 10))
        assert await store.pruned_seq() == 0
        assert await store.prune(keep=8) == 2
        assert await store.pruned_seq() == 6
        async with JetStreamStore.open(server.url, stream=stream, read_only=True) as reader:
            assert await reader.pruned_seq() == 6
        assert await store.prune(keep=0) == 8
        assert await store.pruned_seq() == 14
        await store.append_batch(events(20, 1))
        assert 14 <= await store.pruned_seq() < 20
    async with JetStreamStore.open(server.url, stream=stream) as store:
        assert 14 <= await store.pruned_seq() < 20


async def test_what_was_pruned_from_behind_others(server, stream):
    async with JetStreamStore.open(server.url, stream=stream) as store:
        await store.append_batch(
            [event(seq, timestamp_ms=9_000 if seq in (1, 6) else seq) for seq in range(1, 7)]
        )
        assert await store.prune(before_ms=5, dry_run=True) == 3
        assert await store.pruned_seq() == 0
        assert await store.prune(before_ms=5) == 3
        assert await seqs_of(store) == [1, 5, 6]
        assert await store.pruned_seq() == 4
        assert await store.prune(before_ms=100) == 1
        assert await store.pruned_seq() == 5


async def test_what_was_pruned_where_seqs_do_not_ascend(server, stream):
    """More rather than less: nobody knows what lay before the first that is left."""
    async with JetStreamStore.open(server.url, stream=stream) as store:
        await store.append_batch(events(10, 2))
        await store.append_batch(events(1, 2))
        assert await store.pruned_seq() == 0
        await ask(store, "STREAM.PURGE", {"seq": (await store._reader.last_head()).position - 3})
        assert await store.pruned_seq() >= 10


@pytest.mark.parametrize("how", ["max_age", "a purge"])
async def test_what_the_server_removes_is_pruned(server, stream, how):
    """The numbering goes on, and readers can tell."""
    async with JetStreamStore.open(server.url, stream=stream) as store:
        await store.append_batch(events(1, 5))
        if how == "max_age":
            await edit(store, max_age=SECOND, duplicate_window=SECOND)
        else:
            await ask(store, "STREAM.PURGE", {"filter": store._reader.subjects.all_events})

        async def check():
            if await seqs_of(store):
                raise StoreError

        await eventually(check)
        assert await store.pruned_seq() == 5
        assert await store.last_seq() == 5
        await store.append_batch(events(6, 1))
        assert await store.pruned_seq() == 5


# --- stores that went back ------------------------------------------------------------------------


@asynccontextmanager
async def opened_once_free(url):
    """The store, as soon as a lock of earlier times has expired."""
    deadline = trio.current_time() + PATIENCE
    async with AsyncExitStack() as stack:
        while True:
            try:
                store = await stack.enter_async_context(JetStreamStore.open(url))
            except LogBusy:
                if trio.current_time() >= deadline:
                    raise
                await trio.sleep(0.05)
            else:
                break
        yield store


@contextmanager
def restorable():
    """A server whose files can be put back."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        path = Path(directory)
        node = Node("n1", path / "n1", free_ports(1)[0])
        node.start()

        def save():
            node.kill()
            shutil.copytree(path / "n1" / "store", path / "saved")
            node.start()

        def restore():
            node.kill()
            shutil.rmtree(path / "n1" / "store")
            shutil.copytree(path / "saved", path / "n1" / "store")
            node.start()

        try:
            yield node, save, restore
        finally:
            node.kill()


async def until_told(function, *args):
    """Calls it until it says that the store went back."""
    told = []

    async def call():
        try:
            await function(*args)
        except StoreWentBack as exc:
            told.append(exc)
        else:
            pytest.fail("not told")  # pragma: no cover

    await eventually(call)
    return told[0].last_seq, told[0].expected_seq


@pytest.mark.parametrize("of", ["this opening", "an earlier one"])
async def test_a_stream_that_was_restored_from_a_copy(of):
    """The appender is told once and then goes on, and so are readers."""
    with restorable() as (node, save, restore):
        async with JetStreamStore.open(node.url, lock_timeout=2) as store:
            await store.append_batch(events(1, 5))
            if of == "an earlier one":
                save()
        async with JetStreamStore.open(node.url, lock_timeout=2) as store:
            if of == "this opening":
                save()
            await eventually(store.append_batch, events(6, 5))
            async with JetStreamStore.open(node.url, read_only=True) as reader:
                assert await reader.last_seq() == 10
                restore()
                assert await until_told(reader.query, EventQuery()) == (5, 10)
                assert await seqs_of(reader) == [1, 2, 3, 4, 5]

                assert await until_told(store.append_batch, events(11, 1)) == (5, 10)

                assert await store.last_seq() == 5
                assert await store.append_batch([*events(4, 4), *events(11, 1)]) == ()
                assert await seqs_of(store) == [1, 2, 3, 4, 5, 6, 7, 11]
                assert await seqs_of(reader) == [1, 2, 3, 4, 5, 6, 7, 11]
                assert (await store.verify()).problems == 0
            # It has its lock again.
            with pytest.raises(LogBusy):
                async with JetStreamStore.open(node.url):
                    pass
        async with JetStreamStore.open(node.url) as store:
            assert await store.last_seq() == 11


async def test_a_restored_stream_can_be_read_before_the_next_append():
    """The task that renews the lock finds out."""
    with restorable() as (node, save, restore):
        async with JetStreamStore.open(node.url, lock_timeout=2) as store:
            await store.append_batch(events(1, 5))
            save()
            await eventually(store.append_batch, events(6, 5))
            restore()

            async def check():
                if await seqs_of(store) != [1, 2, 3, 4, 5]:
                    raise StoreError  # pragma: no cover

            await eventually(check)
            assert await store.last_seq() == 5
            assert await until_told(store.append_batch, events(11, 1)) == (5, 10)


async def test_nothing_is_said_if_nothing_is_missing():
    """The copy had all events, and an earlier lock."""
    with restorable() as (node, save, restore):
        async with JetStreamStore.open(node.url, lock_timeout=2) as store:
            await store.append_batch(events(1, 5))
            save()
        async with JetStreamStore.open(node.url, lock_timeout=2) as store:
            restore()
            assert await eventually(store.append_batch, events(6, 1)) == ()
            assert await seqs_of(store) == [1, 2, 3, 4, 5, 6]


async def test_another_appender_opened_the_log_after_it_was_restored():
    with restorable() as (node, save, restore):
        async with JetStreamStore.open(node.url, lock_timeout=2) as store:
            await store.append_batch(events(1, 5))
            save()
        async with JetStreamStore.open(node.url, lock_timeout=60) as old:
            await eventually(old.append_batch, events(6, 5))
            # It renews its lock every 20 seconds, so that the other gets in.
            restore()

            async with opened_once_free(node.url) as new:
                assert await new.last_seq() == 5
                await new.append_batch(events(6, 1))
                with pytest.raises(LogBusy, match="another appender"):
                    await eventually(old.append_batch, events(11, 1))
                assert await seqs_of(new) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("how", ["purged", "made anew"])
async def test_a_stream_that_is_empty_again(server, stream, how):
    """Head, lock and all: the appender makes the log again, and readers can tell what they miss."""
    async with (
        JetStreamStore.open(server.url, stream=stream, lock_timeout=60) as store,
        JetStreamStore.open(server.url, stream=stream, read_only=True) as reader,
    ):
        log_id = store.log_id
        await store.append_batch(events(1, 5))
        assert await reader.last_seq() == 5
        config = (await store._stream.info())["config"]
        if how == "purged":
            await ask(store, "STREAM.PURGE", {})
        else:
            await ask(store, "STREAM.DELETE", {})
            with pytest.raises(StoreError) as caught:
                await store.append_batch(events(6, 1))
            assert not isinstance(caught.value, StoreUnusable)
            with pytest.raises(StoreError):
                await reader.query(EventQuery())
            await store._stream.create(config)

        assert await until_told(store.append_batch, events(6, 1)) == (0, 5)
        with pytest.raises(StoreWentBack) as caught:
            await reader.last_seq()
        assert (caught.value.last_seq, caught.value.expected_seq) == (0, 5)

        assert await store.append_batch(events(6, 2)) == ()
        assert await seqs_of(store) == await seqs_of(reader) == [6, 7]
        assert await store.pruned_seq() == 5
        with pytest.raises(LogBusy):
            async with JetStreamStore.open(server.url, stream=stream):
                pass
    async with JetStreamStore.open(server.url, stream=stream) as store:
        assert store.log_id == log_id
        assert await store.last_seq() == 7


@pytest.mark.parametrize("subject", ["lock", "head"])
async def test_an_append_that_is_cancelled_as_it_finds_out(server, stream, monkeypatch, subject):
    """The next one says what is missing all the same."""
    async with JetStreamStore.open(server.url, stream=stream, lock_timeout=60) as store:
        await store.append_batch(events(1, 5))
        await ask(store, "STREAM.PURGE", {})
        send = Connection.send
        with monkeypatch.context() as patch, trio.CancelScope() as scope:

            def send_and_cancel(link, items):
                send(link, items)
                if len(items) == 1 and items[0].subject.endswith(f".{subject}"):
                    scope.cancel()

            patch.setattr(Connection, "send", send_and_cancel)
            await store.append_batch(events(6, 1))
        assert scope.cancelled_caught

        told = []
        while not told:
            try:
                await store.append_batch(events(6, 1))
            except StoreWentBack as exc:
                told.append(exc)
            except StoreError:
                pass
            else:
                break
        assert [(exc.last_seq, exc.expected_seq) for exc in told] == [(0, 5)]
        assert await store.append_batch(events(4, 3)) == ()
        assert await seqs_of(store) == [4, 5, 6]


async def test_a_stream_that_keeps_nothing_for_a_while(server, stream):
    """Without consumers, that is what retention by interest means."""
    async with JetStreamStore.open(server.url, stream=stream, lock_timeout=60) as store:
        await store.append_batch(events(1, 5))
        undo = await edit(store, retention="interest")
        assert await until_told(store.append_batch, events(6, 1)) == (0, 5)
        for _ in range(2):
            with pytest.raises(StoreError, match="retention is 'interest'") as caught:
                await store.append_batch(events(6, 1))
            assert not isinstance(caught.value, StoreUnusable)
        await edit(store, **undo)
        assert await store.append_batch(events(6, 1)) == ()
        assert await seqs_of(store) == [6]
        assert await store.pruned_seq() == 5


async def test_a_log_whose_head_was_removed_gets_it_back(server, stream):
    """Its appender knows what it said. Nothing is missing, so that nothing is told."""
    async with JetStreamStore.open(server.url, stream=stream) as store:
        await store.append_batch(events(1, 5))
        await ask(store, "STREAM.PURGE", {"filter": store._reader.subjects.head})
        assert await store.append_batch(events(6, 1)) == ()
        assert await seqs_of(store) == [1, 2, 3, 4, 5, 6]
        assert (await store.verify()).problems == 0


async def test_another_log_in_its_place(server, stream):
    """It has the name, and is not the log that was opened: neither written nor read as if it was."""
    async with (
        JetStreamStore.open(server.url, stream=stream, lock_timeout=60) as store,
        JetStreamStore.open(server.url, stream=stream, read_only=True) as reader,
    ):
        await store.append_batch(events(1, 5))
        assert await reader.last_seq() == 5
        await ask(store, "STREAM.PURGE", {})
        async with JetStreamStore.open(server.url, stream=stream) as new:
            await new.append_batch(events(1, 9))
            for call in (lambda: store.append_batch(events(6, 1)), store.last_seq, reader.last_seq):
                with pytest.raises(StoreUnusable, match="another log 'default' in the place"):
                    await call()
            assert await seqs_of(new) == list(range(1, 10))


async def test_an_answer_of_before_the_store_went_back_is_not_believed(server, stream, monkeypatch):
    """It comes to a query after the appender has begun anew; later reads go by the new state all the same."""
    async with JetStreamStore.open(server.url, stream=stream, lock_timeout=60) as store:
        await store.append_batch(events(1, 50))
        reader = store._reader
        config = (await store._stream.info())["config"]
        old, last_head = await reader.last_head(), reader.last_head
        asked, back = trio.Event(), trio.Event()

        async def late():
            asked.set()
            await back.wait()
            return old

        async with trio.open_nursery() as nursery:
            monkeypatch.setattr(reader, "last_head", late)
            nursery.start_soon(seqs_of, store)
            await asked.wait()
            monkeypatch.setattr(reader, "last_head", last_head)
            await ask(store, "STREAM.DELETE", {})
            await store._stream.create(config)
            assert await until_told(store.append_batch, events(51, 1)) == (0, 50)
            back.set()
        # Nor is the place at which an event lay then.
        reader._note(50, old.position, old)
        await store.append_batch(events(40, 20))

        assert await seqs_of(store) == list(range(40, 60))
        assert await store.query(EventQuery(after_seq=50)) == events(51, 9)


async def test_a_follower_hears_that_the_stream_was_emptied(server, stream):
    async with (
        JetStreamStore.open(server.url, stream=stream) as store,
        JetStreamStore.open(server.url, stream=stream, read_only=True) as reader,
        tail(reader, after_seq=0, poll_interval=0.1) as subscription,
    ):
        await store.append_batch(events(1, 3))
        assert (await anext(subscription)).seq == 1
        for _ in range(2):
            await anext(subscription)
        await ask(store, "STREAM.PURGE", {})
        await until_told(store.append_batch, events(4, 1))
        with trio.fail_after(PATIENCE), pytest.raises(StoreWentBack):
            await anext(subscription)


# --- what a loss of power leaves ------------------------------------------------------------------


async def test_sync_waits_until_the_server_has_synced(server, stream):
    interval = 0.4
    async with JetStreamStore.open(server.url, stream=stream, sync_interval=interval) as store:
        assert store.survives == "process"
        with trio.fail_after(1):
            await store.sync()
        for batch in (events(1, 3), events(1, 3)):
            # Repeats, too: nobody knows when they were stored.
            began = trio.current_time()
            await store.append_batch(batch)
            await store.sync()
            assert trio.current_time() - began >= interval
        began = trio.current_time()
        await store.sync()
        assert trio.current_time() - began < interval
        await store.append_batch(events(4, 1))
        with trio.move_on_after(0) as scope:
            await store.sync()
        assert scope.cancelled_caught
        await ask(store, "STREAM.PURGE", {})
        with pytest.raises(StoreError, match="went back before it had synced"):
            await store.sync()
        with pytest.raises(StoreWentBack):
            await store.append_batch(events(5, 1))


async def test_a_server_that_always_syncs(server, stream):
    async with open_store(f"{server.url}/{stream}?sync_interval=0") as store:
        assert store.survives == "power"
        await store.append_batch(events(1, 3))
        with trio.fail_after(1):
            await store.sync()
        async with JetStreamStore.open(server.url, stream=stream, read_only=True) as reader:
            assert reader.survives == "process"
            await reader.sync()
    for call in (store.sync, store.pruned_seq):
        with pytest.raises(StoreUnusable, match="closed"):
            await call()
