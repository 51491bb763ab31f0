"""PostgresStore against a real server: the public harness, and what only PostgreSQL can do to a store."""

import contextlib
import itertools
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests._helpers.checkpoints import CALLS, checked, entered_cancelled, watch
from tests._helpers.longest_step import measured_steps
from tests._helpers.pages import fences, run_program
from tests._helpers.postgres_logs import event, seqs, sql, url
from tests._helpers.postgres_server import ESCAPED_PASSWORD
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    LogBusy,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
    StoreError,
    StoreUnusable,
)
from trio_eventlog._util import Forks
from trio_eventlog.reading import iter_events, merge_events, tail
from trio_eventlog.stores import PostgresStore, open_store
from trio_eventlog.stores.postgres import _rows as rows
from trio_eventlog.stores.postgres._names import Names
from trio_eventlog.stores.postgres._target import Target
from trio_eventlog.testing import StoreConformance, StoreStateMachine, assert_same_events

# --- the harness ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("server")
class TestPostgresStore(StoreConformance):
    """All locations are logs of one schema, which grows from example to example."""

    budget = 300
    # The server shares two cores with the tests.
    op_timeout = 20.0
    max_examples = 25

    def open_store(self, location):
        return PostgresStore.open(url(), log=location.name)

    def open_reader(self, location):
        return PostgresStore.open(url(), log=location.name, read_only=True)


class PostgresMachine(StoreStateMachine):
    def open_store(self, location):
        return PostgresStore.open(url(), log=location.name)


@pytest.mark.usefixtures("server")
def test_postgres_store_as_a_machine():
    run_state_machine_as_test(
        PostgresMachine,
        settings=settings(
            max_examples=6, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


# --- what is kept ---------------------------------------------------------------------------------

_LENGTHS = (0, 1, 512, 1023, 1024, 1025, 3_000, 100_000)


async def test_s7_texts_of_every_length_stand_in_every_index(log):
    """An entry of an index has at most 2,704 bytes, and no text is too long for one."""
    texts = [str(length) + "é" * (length // 2) if length else "" for length in _LENGTHS]
    # Longer than a key, alike up to the end.
    texts += ["x" * 5_000 + "1", "x" * 5_000 + "2"]
    batch = [
        PersistedEvent(
            text,
            seq,
            0,
            text,
            AgentEvent(text, text, dict.fromkeys(("identity", "mob_id", "run_id", "step_id"), text)),
        )
        for seq, text in enumerate(texts, start=1)
    ]
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch(batch)
        assert await store.append_batch(batch) == ()
        assert_same_events(await store.query(EventQuery()), batch)
        for kept in batch:
            for name in ("member_id", "identity", "mob_id", "run_id", "step_id"):
                assert_same_events(await store.query(EventQuery(**{name: kept.id})), [kept])
            assert_same_events(await store.query(EventQuery(event_types=(kept.id,))), [kept])
        assert_same_events(await store.query(EventQuery(event_types=tuple(texts))), batch)
        described = await store.describe(top=100)
        assert sorted(described.event_types) == sorted((text, 1) for text in texts)
        assert sorted(described.members) == sorted((text, 1) for text in texts)
        assert (await store.verify()).problems == 0


async def test_s7_nul_everywhere(server):
    nul = "a\0b"
    batch = [
        PersistedEvent(
            nul,
            1,
            1,
            nul,
            AgentEvent(
                nul, nul, {nul: nul} | dict.fromkeys(("identity", "mob_id", "run_id", "step_id"), nul)
            ),
        ),
        PersistedEvent("\0", 2, 2, None, ModuleEvent("\0", "\0", "\0")),
    ]
    async with PostgresStore.open(url(), log=nul) as store:
        await store.append_batch(batch)
        assert_same_events(await store.query(EventQuery()), batch)
        for name in ("member_id", "identity", "mob_id", "run_id", "step_id"):
            assert await seqs(store, **{name: nul}) == [1]
            assert await seqs(store, **{name: "a"}) == []
        assert await seqs(store, event_types=("\0", "\0\0")) == [2]
        assert nul in await PostgresStore.logs(url())
        assert (await store.verify()).problems == 0


async def test_5000_events_at_once(log):
    batch = [event(seq) for seq in range(1, 5_001)]
    async with PostgresStore.open(url(), log=log) as store:
        assert await store.append_batch(batch) == ()
        assert_same_events(await store.query(EventQuery()), batch)
        assert await store.append_batch(batch) == ()
        moved = [event(seq, id=f"id{seq - 5_000}") for seq in range(5_001, 10_001)]
        assert sorted(await store.append_batch(moved)) == list(range(5_001, 10_001))
        with pytest.raises(SequenceConflict) as refused:
            await store.append_batch([event(seq, id=f"new{seq}") for seq in range(4_001, 9_001)])
        assert refused.value.seqs == tuple(range(4_001, 5_001))
        assert await store.last_seq() == 5_000
        assert await seqs(store) == list(range(1, 5_001))


async def test_a_batch_for_which_one_statement_is_too_small(log, monkeypatch):
    """It goes in several, in one transaction: all of it or nothing."""
    monkeypatch.setattr(rows, "MAX_CHUNK_BYTES", 10_000)
    async with PostgresStore.open(url(), log=log) as store:
        batch = [event(seq, "x" * 1_500) for seq in range(1, 31)]
        assert await store.append_batch(batch) == ()
        assert await store.append_batch([*batch, event(31, "x" * 9_000), event(32, "y" * 9_000)]) == ()
        assert await seqs(store) == list(range(1, 33))
        clash = [event(seq, "x" * 5_000) for seq in range(33, 40)]
        with pytest.raises(SequenceConflict) as refused:
            await store.append_batch([*clash, event(5, id="other")])
        assert refused.value.seqs == (5,)
        assert await seqs(store) == list(range(1, 33))
        # The session is as before, lock included.
        assert await store.append_batch(clash) == ()
        with pytest.raises(LogBusy):
            async with PostgresStore.open(url(), log=log):
                pytest.fail("opened")  # pragma: no cover


async def test_an_event_that_is_too_large(log, monkeypatch):
    monkeypatch.setattr(rows, "MAX_EVENT_BYTES", 10_000_000)
    async with PostgresStore.open(url(), log=log) as store:
        large, fine = event(1, "x" * 10_000_001), event(2, "x" * 9_000_000)
        with pytest.raises(EventRejected, match="larger than 9 MiB") as refused:
            await store.append_batch([large, fine])
        assert refused.value.events == (large,)
        await store.append_batch([fine])
        assert_same_events(await store.query(EventQuery()), [fine])


async def test_a_repeat_in_a_batch_is_measured_by_what_is_held(log):
    async with PostgresStore.open(url(), log=log) as store:
        assert await store.append_batch([event(5, id="a")]) == ()
        assert await store.append_batch(
            [event(6, id="a"), event(5, id="a"), event(7), event(8, id="id7")]
        ) == (6, 8)
        assert await seqs(store) == [5, 7]
        assert await store.last_seq() == 7


@pytest.mark.parametrize("types", [1, 2, 32, 33, 5_000])
async def test_any_number_of_event_types(log, types):
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch([event(seq, event=ModuleEvent("m", f"t{seq % 4}")) for seq in range(1, 41)])
        wanted = tuple(f"t{number}" for number in range(types))
        expected = [seq for seq in range(1, 41) if seq % 4 < types]
        assert await seqs(store, event_types=wanted) == expected
        assert (
            await seqs(store, event_types=wanted, limit=3, after_seq=5)
            == [seq for seq in expected if seq > 5][:3]
        )
        assert await seqs(store, event_types=wanted, since_ms=10, until_ms=20) == [
            s for s in expected if 10 <= s < 20
        ]


async def test_a_time_window(log):
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch([event(seq, timestamp_ms=100 - seq) for seq in range(1, 51)])
        assert await seqs(store, since_ms=90) == list(range(1, 11))
        assert await seqs(store, since_ms=90, limit=3) == [1, 2, 3]
        assert await seqs(store, until_ms=52) == [49, 50]
        assert await seqs(store, since_ms=90, after_seq=5) == [6, 7, 8, 9, 10]
        assert await seqs(store, since_ms=2**64 - 1) == []
        assert await seqs(store, until_ms=2**64 - 1, limit=2**64 - 1) == list(range(1, 51))


async def test_s11_no_step_blocks_the_loop_with_a_large_batch(log):
    """Of 60 MB, which go in several statements, and come back in one answer."""
    batch = [event(seq, {"run_id": "r", "text": "x" * 65_000}) for seq in range(1, 1_000)]
    async with PostgresStore.open(url(), log=log) as store:
        with measured_steps() as longest:
            await store.append_batch(batch)
            assert len(await store.query(EventQuery())) == 999
            assert len(await store.query(EventQuery(run_id="r"))) == 999
            assert await store.append_batch(batch) == ()

        assert longest.seconds < 0.1


# --- reading and watching -------------------------------------------------------------------------


async def test_a_query_that_outlives_the_store(log):
    async with PostgresStore.open(url(), log=log, readers=1) as store:
        await store.append_batch([event(1)])
    for call in (
        store.query(EventQuery()),
        store.last_seq(),
        store.append_batch([event(2)]),
        store.describe(),
    ):
        with pytest.raises(StoreUnusable, match="the store is closed"):
            await call
    with pytest.raises(StoreUnusable, match="the store is closed"):
        async with store.watch_changes():
            pytest.fail("opened")  # pragma: no cover


async def test_readers_are_few(server, log):
    name = "application_name=few"
    async with PostgresStore.open(f"{url()}?{name}", log=log, readers=2) as store:
        await store.append_batch([event(seq) for seq in range(1, 100)])
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(seqs, store)
        assert await sql("select count(*) from pg_stat_activity where application_name = 'few'") == [(3,)]


async def test_a_reader_cannot_append(log):
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch([event(1)])
        async with PostgresStore.open(url(), log=log, read_only=True) as reader:
            assert "read-only" in repr(reader)
            with pytest.raises(StoreUnusable, match="opened read-only"):
                await reader.append_batch([event(2)])


async def test_all_logs_with_few_connections(place):
    for name in ("a", "b"):
        async with PostgresStore.open(url(), schema=place, log=name) as store:
            await store.append_batch([event(seq, timestamp_ms=seq * 10 + ord(name)) for seq in range(1, 4)])
    async with PostgresStore.open_readers(url(), schema=place) as stores:
        merged = [(item.log, item.event.seq) async for item in merge_events(stores)]
        assert merged == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
        assert [found.seq async for found in iter_events(stores["a"], EventQuery(), page_size=2)] == [1, 2, 3]
    async with PostgresStore.open_readers(url(), schema=place, logs=["b"]) as stores:
        assert await seqs(stores["b"]) == [1, 2, 3]


async def test_changes_are_told(log):
    async with (
        PostgresStore.open(url(), log=log) as store,
        PostgresStore.open(url(), log=log, read_only=True) as reader,
        reader.watch_changes() as watch,
    ):
        for seq in range(1, 4):
            await store.append_batch([event(seq)])
            with trio.fail_after(5):
                await watch.wait()
        # What changes nothing is not told.
        await store.append_batch([event(3)])
        with trio.move_on_after(0.05) as scope:
            await watch.wait()
        assert scope.cancelled_caught
        # Cancelled, it has missed nothing.
        await store.append_batch([event(4)])
        with trio.fail_after(5):
            await watch.wait()


async def test_changes_that_are_not_to_be_told(log):
    async with PostgresStore.open(url(), log=log, notify=False) as store, store.watch_changes() as watch:
        await store.append_batch([event(1)])
        with trio.move_on_after(0.05) as scope:
            await watch.wait()
        assert scope.cancelled_caught


async def test_a_log_that_is_followed(log):
    """By hints alone: the poll comes too late for this test."""
    async with (
        PostgresStore.open(url(), log=log) as store,
        PostgresStore.open(url(), log=log, read_only=True) as reader,
        tail(reader, poll_interval=60) as events,
    ):
        found = []
        with trio.fail_after(10):
            for seq in range(1, 6):
                await store.append_batch([event(seq)])
                found.append((await anext(events)).seq)
        assert found == [1, 2, 3, 4, 5]


# --- by URL, and what the documentation says ------------------------------------------------------


async def test_by_url(log, place):
    ours = f"log={log}%3F&schema={place}&notify=false"
    async with open_store(f"{url()}?connect_timeout=9&{ours}&application_name=by%20url") as store:
        await store.append_batch([event(1)])
        assert await sql("select count(*) from pg_stat_activity where application_name = 'by url'") == [(1,)]
        async with store.watch_changes() as watch:
            await store.append_batch([event(2)])
            with trio.move_on_after(0.05) as scope:
                await watch.wait()
            assert scope.cancelled_caught
    assert await PostgresStore.logs(url(), schema=place) == [f"{log}?"]
    short = url().replace("postgresql:", "postgres:")
    async with open_store(f"{short}?{ours}", read_only=True) as reader:
        assert await seqs(reader) == [1, 2]
        assert "read-only" in repr(reader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("log", "option 'log' in .* has no value; write postgresql://USER"),
        ("log=", "a log name has 1 to 512 bytes"),
        ("log=a&log=b", "option 'log' appears twice in"),
        ("notify=maybe", "option 'notify' in .* is true or false, not 'maybe'"),
        ("log=%zz", "'%zz' in .* has a % that starts no escape"),
        ("schema=pg_x", "no name begins with pg_"),
        ("synchronous=full", "libpq cannot read it"),
    ],
)
async def test_a_url_that_is_malformed(server, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        async with open_store(f"{server.url()}?{options}"):
            pytest.fail("opened")  # pragma: no cover
    assert ESCAPED_PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "typo", ["postgre://u:secret@h/d", "postgresql//u:secret@h/d", "pg:x?password=secret&a=b"]
)
async def test_a_url_of_no_store_does_not_give_the_password_away(typo):
    with pytest.raises(ValueError, match=r"\*\*\*") as refused:
        async with open_store(typo):
            pytest.fail("opened")  # pragma: no cover
    assert "secret" not in str(refused.value)


async def test_every_method_is_a_checkpoint(log):
    calls = [call for calls in CALLS[PostgresStore].values() for call in calls]
    async with PostgresStore.open(url(), log=log) as store:
        for call in calls:
            await entered_cancelled(call(store))
        assert await store.last_seq() == 0
        for call in calls:
            await checked(call(store))
    for call in calls:
        await checked(call(store))
    await entered_cancelled(PostgresStore.logs(url()))
    await checked(PostgresStore.logs(url()))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("state", ["open", "closed", "inherited by a child"])
async def test_methods_in_every_state(log, state, read_only, monkeypatch):
    """They are checkpoints, and raise Cancelled if entered cancelled, whatever else they would raise."""
    async with PostgresStore.open(url(), log=log):
        pass
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(PostgresStore.open(url(), log=log, read_only=read_only))
        if state == "closed":
            await stack.aclose()
        with monkeypatch.context() as patch:
            if state == "inherited by a child":
                patch.setattr(Forks, "count", Forks.count + 1)
            for call in [*itertools.chain(*CALLS[PostgresStore].values()), watch]:
                await entered_cancelled(call(store))
                await checked(call(store))


async def test_methods_are_checkpoints_where_the_server_refuses_at_once(log, tmp_path):
    """As the socket of a server on the same machine does while that is down: there is nothing to wait for."""
    async with PostgresStore.open(url(), log=log) as store:
        gone = Target(f"host={tmp_path} user=u dbname=d", Names("s"), writes=False)
        await entered_cancelled(gone.connect())
        await checked(gone.connect())
        store._pool._target = gone
        for call in (watch, lambda store: store.prune(keep=1), lambda store: store.describe()):
            await entered_cancelled(call(store))
            await checked(call(store))
            with pytest.raises(StoreError):
                await call(store)


@pytest.mark.parametrize("opened", [PostgresStore.open, PostgresStore.open_readers])
async def test_opening_is_a_checkpoint_and_can_be_cancelled(log, opened):
    async def enter():
        async with opened(url()):
            pass

    await entered_cancelled(enter())
    await checked(enter())


def test_the_guide_does_what_it_says(server, monkeypatch):
    page = Path(__file__).parents[3] / "docs" / "how-to" / "postgresql.md"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database guide")
    monkeypatch.setenv("DATABASE_URL", server.url("guide"))
    program, *others = [
        fence for fence in fences(page) if fence.language in ("{code-block} python", "text", "sql")
    ][1:]
    output = run_program(program.text, page, program.line)
    assert others.pop(0).text == output
    with psycopg.connect(server.url("guide"), autocommit=True) as connection:
        for fence in others:
            # What is not in this server, and what is there by now.
            if "distributed" not in fence.text:
                for statement in fence.text.replace("SCHEMA trio_eventlog", "SCHEMA other").split(";"):
                    connection.execute(statement)
