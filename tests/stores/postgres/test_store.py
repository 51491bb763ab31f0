"""PostgresStore against a real server: the public harness, and what only PostgreSQL can do to a store."""

import os
import re
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests._helpers.fakes import numbered
from tests._helpers.longest_step import measured_steps
from tests._helpers.postgres_server import ESCAPED_PASSWORD, PASSWORD, USER, postgres_server
from tests.log.test_checkpoints import CALLS, checked, entered_cancelled
from tests.project.test_docs import fences, run_program
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    LogBusy,
    LogNotFound,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
    StoreError,
    StoreUnusable,
)
from trio_eventlog.reading import iter_events, merge_events, tail
from trio_eventlog.stores import PostgresStore, open_store
from trio_eventlog.stores.postgres import _connection as connection
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.testing import StoreConformance, StoreStateMachine, assert_same_events

_URL = "TRIO_EVENTLOG_TEST_POSTGRES_URL"
"""Where child processes of the harness find the server, too."""


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        os.environ[_URL] = running.url()
        yield running
        del os.environ[_URL]


def url():
    return os.environ[_URL]


# --- the harness ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("server")
class TestPostgresStore(StoreConformance):
    """All locations are logs of one schema, which grows from example to example."""

    budget = 25
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


# --- helpers --------------------------------------------------------------------------------------


@pytest.fixture
def log(request, server):
    """A log of the test's own."""
    return request.node.name


@pytest.fixture
def place(request, server):
    """A schema of the test's own."""
    return f"s{abs(hash(request.node.name))}"


def event(seq, payload=None, **fields):
    content = numbered(seq) if payload is None else AgentEvent("w", "t", payload)
    return PersistedEvent(
        **{"id": f"id{seq}", "seq": seq, "timestamp_ms": seq, "member_id": "w", "event": content} | fields
    )


async def sql(statement, *parameters, place="", conninfo=None):
    """What an operator does; ``:s`` stands for the schema."""

    def run():
        with psycopg.connect(conninfo or url(), autocommit=True) as connection:
            cursor = connection.execute(statement.replace(":s", place), parameters or None)
            return cursor.fetchall() if cursor.description else None

    return await trio.to_thread.run_sync(run)


async def seqs(store, **query):
    return [found.seq for found in await store.query(EventQuery(**query))]


def run(program, *arguments):
    """A program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
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
    monkeypatch.setattr(schema, "CHUNK_BYTES", 10_000)
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
    monkeypatch.setattr(schema, "MOST_EVENT_BYTES", 10_000_000)
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


# --- opening --------------------------------------------------------------------------------------


async def test_a_log_that_is_not_there(server, place):
    """Nothing is made for a reader, and it hears what there is instead: a name may be mistyped."""
    with pytest.raises(LogNotFound) as refused:
        async with PostgresStore.open(url(), schema=place, read_only=True):
            pytest.fail("opened")  # pragma: no cover
    assert (refused.value.log, refused.value.names) == ("default", ())
    assert refused.value.place == f"schema '{place}' of PostgreSQL 127.0.0.1:{server.port}/postgres"
    with pytest.raises(StoreUnusable, match=f"there are no logs in schema '{place}' of"):
        await PostgresStore.logs(url(), schema=place)
    with pytest.raises(StoreUnusable, match=f"there are no logs in schema '{place}' of"):
        async with PostgresStore.open_readers(url(), schema=place):
            pytest.fail("opened")  # pragma: no cover
    assert await sql("select 1 from pg_namespace where nspname = %s", place) == []
    for name in ("b", "a"):
        async with PostgresStore.open(url(), schema=place, log=name) as store:
            await store.append_batch([event(1)])
    with pytest.raises(LogNotFound, match=r"there is no log 'c' in schema .*; it has 'a', 'b'"):
        async with open_store(f"{url()}?schema={place}&log=c", read_only=True):
            pytest.fail("opened")  # pragma: no cover
    with pytest.raises(LogNotFound) as refused:
        async with PostgresStore.open_readers(url(), schema=place, logs=["a", "A"]):
            pytest.fail("opened")  # pragma: no cover
    assert (refused.value.log, refused.value.names) == ("A", ("a", "b"))
    async with PostgresStore.open(url(), schema=place, log="a", read_only=True) as reader:
        assert await seqs(reader) == [1]
        assert reader.log_id is None
        assert await reader.log_names() == ["a", "b"]
    async with PostgresStore.open_readers(url(), schema=place, logs=[]) as stores:
        assert stores == {}


async def test_a_new_log_beside_those_that_were_replicated(place):
    """Their numbers came without the sequence that an older layout had for them."""
    async with PostgresStore.open(url(), schema=place):
        pass
    await sql(
        "insert into :s.logs (log, name, unique_id) select n, n::text::bytea, n from generate_series(1, 9) n",
        place=place,
    )
    async with PostgresStore.open(url(), schema=place, log="new") as store:
        await store.append_batch([event(1)])
        assert await seqs(store) == [1]


async def test_a_log_keeps_its_identity(log):
    async with PostgresStore.open(url(), log=log) as store:
        first = store.log_id
    async with PostgresStore.open(url(), log=log) as store:
        assert store.log_id == first


RACER = """
    import sys, trio
    from trio_eventlog.stores import PostgresStore

    async def main():
        sys.stdin.readline()
        async with PostgresStore.open(sys.argv[1], schema=sys.argv[2], log=sys.argv[3]) as store:
            print(await store.last_seq())

    trio.run(main)
"""


async def test_many_processes_make_the_tables_at_once(place):
    arguments = [[sys.executable, "-c", textwrap.dedent(RACER), url(), place, f"log{i}"] for i in range(6)]
    children = [
        await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for command in arguments
    ]
    for child in children:
        await child.stdin.send_all(b"\n")
    for child in children:
        said = b"".join([data async for data in child.stdout])
        complained = b"".join([data async for data in child.stderr])
        assert await child.wait() == 0
        assert (said, complained) == (b"0\n", b"")
        for stream in (child.stdin, child.stdout, child.stderr):
            await stream.aclose()
    assert await PostgresStore.logs(url(), schema=place) == [f"log{i}" for i in range(6)]
    async with trio.open_nursery() as nursery:
        # Tasks of one process, too, in yet another schema.
        for number in range(4):
            nursery.start_soon(_open_once, place + "b", f"log{number}")
    assert await PostgresStore.logs(url(), schema=place + "b") == [f"log{number}" for number in range(4)]


async def _open_once(place, log):
    async with PostgresStore.open(url(), schema=place, log=log):
        pass


async def test_schemas_do_not_see_each_other(place):
    odd = f'{place} "ü'
    async with (
        PostgresStore.open(url(), schema=place) as one,
        PostgresStore.open(url(), schema=odd) as other,
    ):
        await one.append_batch([event(1)])
        await other.append_batch([event(1, id="other"), event(2)])
        assert await seqs(one) == [1]
        assert await seqs(other) == [1, 2]
        assert (await other.verify()).problems == 0
        assert (await other.describe()).size_bytes > 0


async def test_a_layout_of_another_version(place):
    async with PostgresStore.open(url(), schema=place):
        pass
    await sql("update :s.layout set version = 99", place=place)
    for read_only in (False, True):
        with pytest.raises(
            StoreUnusable, match=r"newer trio_eventlog \(layout 99, this one knows 2\): upgrade"
        ):
            async with PostgresStore.open(url(), schema=place, read_only=read_only):
                pytest.fail("opened")  # pragma: no cover
    await sql("update :s.layout set version = 0", place=place)
    with pytest.raises(StoreUnusable, match=r"has layout 0, .* open a log in it for writing once"):
        async with PostgresStore.open(url(), schema=place, read_only=True):
            pytest.fail("opened")  # pragma: no cover
    await sql("delete from :s.layout", place=place)
    with pytest.raises(StoreUnusable, match="damaged: table layout"):
        async with PostgresStore.open(url(), schema=place):
            pytest.fail("opened")  # pragma: no cover


async def test_an_older_layout_is_brought_up_to_date(place):
    names = schema.Names(place)
    for statement in (names.create_schema(), names.sql("create table :s.layout (version integer)")):
        await sql(statement.decode())
    await sql("insert into :s.layout values (1)", place=place)
    await sql(names.migration(1, 0).decode())
    for log, seq, held in (("empty", 0, []), ("whole", 3, [1, 3]), ("pruned", 9, [7, 9]), ("no end", 9, [2])):
        await sql(
            "insert into :s.logs (name, last_seq, epoch, unique_id) values (%s, %s, 5, 'u')",
            log.encode(),
            seq,
            place=place,
        )
        for number in held:
            await sql(
                "insert into :s.events (log, seq, timestamp_ms, kind, id, actor, event_type)"
                " select log, %s, 1, 0, %s, 'w', 't' from :s.logs where name = %s",
                number,
                b"id%d" % number,
                log.encode(),
                place=place,
            )
    with pytest.raises(StoreUnusable, match=r"has layout 1, .* open a log in it for writing once"):
        async with PostgresStore.open(url(), schema=place, log="whole", read_only=True):
            pytest.fail("opened")  # pragma: no cover
    async with PostgresStore.open(url(), schema=place, log="whole") as store:
        assert await seqs(store) == [1, 3]
        assert (await store.describe()).schema_version == 2
        assert (await store.verify()).problems == 0
        await store.append_batch([event(4)])
        assert await store.last_seq() == 4
    assert await sql("select version from :s.layout", place=place) == [(2,)]
    async with PostgresStore.open_readers(url(), schema=place) as stores:
        found = {name: (await store.last_seq(), await store.pruned_seq()) for name, store in stores.items()}
    # How far it was pruned is not known, and so it is what comes before the first event.
    assert found == {"empty": (0, 0), "whole": (4, 0), "pruned": (9, 6), "no end": (9, 9)}


async def test_tables_of_another_program(place):
    await sql("create schema :s", place=place)
    await sql("create table :s.events (mine text)", place=place)
    for read_only in (False, True):
        with pytest.raises(
            StoreUnusable, match=r"tables of another program .* choose another one with schema"
        ):
            async with PostgresStore.open(url(), schema=place, read_only=read_only):
                pytest.fail("opened")  # pragma: no cover
    assert await sql("select * from :s.events", place=place) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"conninfo": 5}, TypeError, "conninfo must be text, got int"),
        ({"log": ""}, ValueError, "a log name has 1 to 512 bytes, got 0"),
        ({"log": "x" * 513}, ValueError, "a log name has 1 to 512 bytes, got 513"),
        ({"log": "\ud800"}, ValueError, "log name .* has a lone surrogate"),
        ({"log": None}, TypeError, "log must be text, got NoneType"),
        ({"schema": "x" * 64}, ValueError, "a schema name has 1 to 63 bytes, got 64"),
        ({"schema": "pg_mine"}, ValueError, "no name begins with pg_"),
        ({"schema": "a\0"}, ValueError, "NUL"),
        ({"readers": 0}, ValueError, "readers: expected 1 to 100, got 0"),
        ({"readers": True}, TypeError, "readers: expected an integer, got bool"),
        ({"partitions": 1025}, ValueError, "partitions: expected 0 to 1024, got 1025"),
        (
            {"conninfo": "postgresql://h/d?connect_timeout=soon"},
            ValueError,
            "connect_timeout: expected a whole",
        ),
        ({"conninfo": "postgresql://me:pw@h/d?sslmode=x&replicas=3"}, ValueError, "has no option 'replicas'"),
        ({"conninfo": "host=h port=0"}, ValueError, "a port is a number of 1 to 65535"),
        ({"conninfo": "host=h port=99999"}, ValueError, "a port is a number of 1 to 65535"),
        ({"conninfo": "host=h port=http"}, ValueError, "a port is a number of 1 to 65535"),
        ({"conninfo": "service=mine"}, ValueError, "name it in the variable PGSERVICE, or write host"),
        ({"conninfo": "host=a,b,c port=1,2"}, ValueError, "3 hosts, 1 addresses and 2 ports do not match"),
    ],
)
async def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        async with PostgresStore.open(**{"conninfo": "host=127.0.0.1"} | arguments):
            pytest.fail("opened")  # pragma: no cover


async def test_a_slash_in_a_password_gives_nothing_of_it_away():
    with pytest.raises(ValueError, match="write %2F for a slash in a password") as refused:
        async with PostgresStore.open("postgresql://me:pass/word@h/d"):
            pytest.fail("opened")  # pragma: no cover
    assert "pass/" not in str(refused.value)
    assert "word@" not in str(refused.value)


@pytest.mark.parametrize("option", ["password=a&b", "PassWord=a&b"])
async def test_what_may_be_a_part_of_a_password_is_not_named(option):
    with pytest.raises(ValueError, match=r"in its own form$"):
        async with PostgresStore.open(f"postgresql://h/d?{option}"):
            pytest.fail("opened")  # pragma: no cover


async def test_the_scheme_may_be_in_capitals(server, log):
    async with open_store(f"{url().replace('postgresql', 'PostgreSQL')}?log={log}") as store:
        assert await store.last_seq() == 0


async def test_bad_arguments_of_readers(server):
    with pytest.raises(TypeError, match="logs: expected names, got a single text"):
        async with PostgresStore.open_readers(url(), logs="a"):
            pytest.fail("opened")  # pragma: no cover
    with pytest.raises(ValueError, match="a log name has 1 to 512 bytes, got 0"):
        async with PostgresStore.open_readers(url(), logs=[""]):
            pytest.fail("opened")  # pragma: no cover


@pytest.mark.parametrize(
    "conninfo",
    [
        f"postgresql://tester:{PASSWORD}@127.0.0.1/postgres",
        f"{PASSWORD}",
        f"host=127.0.0.1 password={PASSWORD} {PASSWORD}",
        f"postgresql://tester:{ESCAPED_PASSWORD}@[::1/x",
        f"postgresql://tester:{ESCAPED_PASSWORD}@127.0.0.1/x?nonsense={ESCAPED_PASSWORD}",
    ],
)
async def test_a_conninfo_that_cannot_be_read_does_not_give_the_password_away(conninfo):
    with pytest.raises(ValueError, match="conninfo: libpq cannot read it; write postgresql://") as refused:
        async with PostgresStore.open(conninfo):
            pytest.fail("opened")  # pragma: no cover
    assert PASSWORD not in str(refused.value)
    assert ESCAPED_PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


async def test_s12_what_will_not_pass_is_unusable_and_what_may_is_not(server, log):
    wrong = "wrong"
    refused = {
        server.url(secret=wrong): (StoreUnusable, "password authentication failed"),
        server.url("nowhere"): (StoreUnusable, 'database "nowhere" does not exist'),
        server.url() + "?sslmode=require": (StoreUnusable, "SSL"),
        server.url() + "?sslmode=maybe": (StoreUnusable, "invalid sslmode"),
        server.url(port=1): (StoreError, "refused"),
        server.url().replace("127.0.0.1", "no.such.host.invalid"): (StoreError, "is not found"),
        server.url() + "?target_session_attrs=standby": (StoreError, "hot standby"),
    }
    for conninfo, (error, message) in refused.items():
        with pytest.raises(StoreError, match=message) as failed:
            async with PostgresStore.open(conninfo, log=log):
                pytest.fail("opened")  # pragma: no cover
        assert type(failed.value) is error
        assert PASSWORD not in str(failed.value)


# What is not named here fails again and again whatever an operator does: StoreUnusable.
_PASSES = {
    "08",
    "25P02",
    "25P03",
    "25P04",
    "26000",
    "40",
    "42P05",
    "53",
    "54000",
    "55",
    "57",
    "58",
    "72000",
    "XX000",
}
_WITH_AN_OPERATOR = {
    *(
        "09000",
        "0B000",
        "0L000",
        "0LP01",
        "0P000",
        "23",
        "25006",
        "28",
        "2B",
        "2F",
        "38",
        "39",
        "3D000",
        "3F000",
    ),
    *("42501", "42704", "42883", "42P01", "42P10", "44000", "57P04", "F0", "HV", "P0"),
}


def test_every_sqlstate_is_sorted():
    """By the question: can somebody put it right while the program runs?"""
    page = (Path(__file__).parents[3] / "docs" / "reference" / "stores.md").read_text(encoding="utf-8")
    documented = {
        code: outcome
        for row in re.findall(r"^\| (`.*)\|$", page, re.MULTILINE)
        for outcome in [row.rpartition(" | ")[2].strip()]
        for code in re.findall(r"`([0-9A-Z]{2}[0-9A-Z]{0,3})`", row.partition(" | ")[0])
    }

    def outcome(codes, state):
        return next((codes[state[:length]] for length in (5, 3, 2) if state[:length] in codes), None)

    states = {
        error.sqlstate
        for error in vars(psycopg.errors).values()
        if isinstance(error, type) and issubclass(error, psycopg.Error) and error.sqlstate
    }
    assert len(states) > 200
    for state in sorted(states):
        failure = connection.ServerError(state, "")
        on_opening, later = (type(failure.as_store_error("x", opening=opening)) for opening in (True, False))
        repairable = state in _WITH_AN_OPERATOR or state[:2] in _WITH_AN_OPERATOR
        passes = not repairable and (state in _PASSES or state[:2] in _PASSES)
        assert later is (StoreError if repairable or passes else StoreUnusable), state
        assert on_opening is (StoreError if passes else StoreUnusable), state
        said = {
            "`StoreError`": (StoreError, StoreError),
            "`StoreError`; on opening `StoreUnusable`": (StoreUnusable, StoreError),
            None: (StoreUnusable, StoreUnusable),
        }
        assert said[outcome(documented, state)] == (on_opening, later), state


async def test_several_hosts(server, log):
    address = f"@127.0.0.1:{server.port}"
    both = server.url().replace(address, f"@127.0.0.1:1,127.0.0.1:{server.port}")
    async with PostgresStore.open(both, log=log) as store:
        await store.append_batch([event(1)])
        assert await seqs(store) == [1]
    for options in ("load_balance_hosts=random", "target_session_attrs=prefer-standby"):
        async with PostgresStore.open(f"{both}?{options}", log=log, read_only=True) as reader:
            assert await seqs(reader) == [1]
    with pytest.raises(StoreError, match=r"port 1 failed: .* refused.*; .*port 2 failed: .* refused"):
        async with PostgresStore.open(server.url().replace(address, "@127.0.0.1:1,127.0.0.1:2"), log=log):
            pytest.fail("opened")  # pragma: no cover
    by_name = server.url().replace("127.0.0.1", "localhost") + "?connect_timeout=5"
    async with PostgresStore.open(by_name, log=log) as store:
        assert await seqs(store) == [1]
        where = f"PostgreSQL localhost:{server.port}/postgres"
        assert repr(store) == f"<PostgresStore {where} schema='trio_eventlog' log={log!r} writing>"


async def test_a_service_is_named_by_the_environment(server, log, monkeypatch, tmp_path):
    """Its host is known before libpq is asked to connect, which would wait for the name to be looked up."""
    services = tmp_path / "services"
    services.write_text(f"[mine]\nhost=localhost\nport={server.port}\nuser={USER}\npassword={PASSWORD}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGSERVICE", "mine")
    async with PostgresStore.open("dbname=postgres", log=log) as store:
        await store.append_batch([event(1)])
        assert repr(store).startswith(f"<PostgresStore PostgreSQL localhost:{server.port}/postgres ")
    monkeypatch.setenv("PGSERVICE", "another")
    with pytest.raises(StoreError, match="another"):
        async with PostgresStore.open("dbname=postgres", log=log):
            pytest.fail("opened")  # pragma: no cover


async def test_a_role_with_what_it_needs_and_no_more(server, place):
    roles = [f"{place}_w", f"{place}_r"]
    for role in roles:
        await sql(f"create role {role} login password '{role}'")
    writes, reads = (server.url(user=role, secret=role) for role in roles)
    with pytest.raises(StoreUnusable, match=f'CREATE SCHEMA "{place}" AUTHORIZATION'):
        async with PostgresStore.open(writes, schema=place):
            pytest.fail("opened")  # pragma: no cover
    await sql(f"create schema {place} authorization {place}_w")
    async with PostgresStore.open(writes, schema=place) as store:
        await store.append_batch([event(1)])
        with pytest.raises(StoreUnusable, match="permission denied"):
            async with PostgresStore.open(reads, schema=place, read_only=True) as reader:
                await seqs(reader)
        await sql(f"grant usage on schema {place} to {place}_r")
        await sql(f"grant select on all tables in schema {place} to {place}_r")
        await sql(f"grant delete on {place}.events to {place}_r")
        async with PostgresStore.open(reads, schema=place, read_only=True) as reader:
            assert await seqs(reader) == [1]
            with pytest.raises(StoreUnusable, match="permission denied"):
                await reader.prune(keep=0)
            await sql(f"grant update (last_seq, pruned_seq) on {place}.logs to {place}_r")
            assert await reader.prune(keep=0) == 1
            assert await reader.pruned_seq() == 1


async def test_row_level_security(server, place):
    """A policy would have a log look empty; that is an error."""
    for role in ("p_reader", "p_writer"):
        await sql(f"create role {role} login password '{role}'")
    async with PostgresStore.open(url(), schema=place) as store:
        await store.append_batch([event(1)])
    await sql(f"grant usage on schema {place} to p_reader, p_writer")
    await sql(f"grant select, insert, update, delete on all tables in schema {place} to p_reader, p_writer")
    reads, writes = (server.url(user=role, secret=role) for role in ("p_reader", "p_writer"))
    async with (
        PostgresStore.open(reads, schema=place, read_only=True) as reader,
        PostgresStore.open(writes, schema=place) as writer,
    ):
        for table in ("events", "logs", "layout"):
            await sql(f"alter table :s.{table} enable row level security", place=place)
            for conninfo, read_only in ((reads, True), (writes, False)):
                with pytest.raises(StoreUnusable, match="row-level security"):
                    log = "default" if read_only else "another"
                    async with PostgresStore.open(conninfo, schema=place, log=log, read_only=read_only):
                        pytest.fail("opened")  # pragma: no cover
            if table == "layout":
                continue
            calls = [reader.last_seq, reader.describe, partial(writer.append_batch, [event(1)])]
            if table == "events":
                calls += [partial(seqs, reader), reader.verify]
            for call in calls:
                with pytest.raises(StoreError, match="row-level security") as failed:
                    await call()
                # A policy can be taken away again while the program runs.
                assert type(failed.value) is StoreError
            await sql(f"alter table :s.{table} disable row level security", place=place)
        await writer.append_batch([event(1), event(2)])
        assert await seqs(reader) == [1, 2]


@contextmanager
def write_protected():
    """While this lasts, the server takes no writes."""

    def alter(statement):
        # A session that may write all the same.
        options = "options=-cdefault_transaction_read_only%3Doff"
        with psycopg.connect(f"{url()}?{options}", autocommit=True) as connection:
            connection.execute(statement)
            connection.execute("select pg_reload_conf()")

    alter("alter system set default_transaction_read_only = on")
    try:
        yield
    finally:
        alter("alter system reset default_transaction_read_only")


async def test_a_server_that_takes_no_writes_for_a_while(log):
    """As hosted ones do while a disk is nearly full. Who opens a log then hears of it, too."""
    async with PostgresStore.open(url(), log=log) as store:
        with write_protected(), trio.fail_after(10):
            with pytest.raises(StoreError, match=r"read-only transaction \(SQLSTATE 25006\)") as failed:
                while True:
                    # The server's processes hear of it when they get to it.
                    await store.append_batch([event(await store.last_seq() + 1)])
            assert type(failed.value) is StoreError
            with pytest.raises(StoreError, match="read-only"):
                async with PostgresStore.open(url(), log=log + "2"):
                    pytest.fail("opened")  # pragma: no cover
            with pytest.raises(StoreError, match="read-only"):
                await store.prune(keep=0)
        assert await seqs(store) == list(range(1, await store.last_seq() + 1))


async def test_without_the_driver():
    done = run(
        """
        import sys
        sys.modules["psycopg"] = None
        import trio
        from trio_eventlog import StoreUnusable
        from trio_eventlog.stores import PostgresStore

        async def main():
            try:
                async with PostgresStore.open("postgresql://localhost"):
                    pass
            except StoreUnusable as exc:
                print(exc)

        trio.run(main)
        """
    )
    assert done.stdout.startswith("PostgresStore needs psycopg: pip install 'psycopg[binary]"), done.stderr


FORKED = """
    import os, sys, trio
    from contextlib import AsyncExitStack
    from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent, StoreUnusable
    from trio_eventlog.stores import PostgresStore

    async def main():
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(PostgresStore.open(sys.argv[1], log=sys.argv[2]))
            await store.query(EventQuery())
            child = os.fork()
            if child == 0:
                try:
                    await store.last_seq()
                except StoreUnusable as exc:
                    print("child:", exc, flush=True)
                    await stack.aclose()
                    # To leave trio.run would take the parent's epoll registrations away.
                    os._exit(0)
            os.waitpid(child, 0)
            await store.append_batch([PersistedEvent("a", 1, 0, None, ModuleEvent("m", "t"))])
            print("parent:", len(await store.query(EventQuery())), flush=True)

    trio.run(main)
    """


async def test_a_child_by_fork_leaves_the_parents_sessions_alone(log):
    done = await trio.to_thread.run_sync(run, FORKED, url(), log)
    assert done.stderr == ""
    child, parent = done.stdout.splitlines()
    assert child.startswith("child: ")
    assert "the process that forked this one; open it anew" in child
    assert parent == "parent: 1"


# --- reading and upkeep ---------------------------------------------------------------------------


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


@pytest.mark.parametrize("read_only", [False, True])
async def test_prune(log, read_only):
    events = [event(seq, timestamp_ms=1_000 + seq) for seq in range(1, 3_501)]
    async with PostgresStore.open(url(), log=log) as writer:
        await writer.append_batch(events)
        async with PostgresStore.open(url(), log=log, read_only=True) as reader:
            store = reader if read_only else writer
            assert await store.prune(keep=1_000, dry_run=True) == 2_500
            told = []
            assert await store.prune(before_ms=1_501, on_progress=lambda *args: told.append(args)) == 500
            assert told == [(500, 500)]
            assert await store.pruned_seq() == 500
            told.clear()
            assert await store.prune(keep=1_000, on_progress=lambda *args: told.append(args)) == 2_000
            assert told == [(1_000, 2_000), (2_000, 2_000)]
            assert await store.prune(before_ms=1_000) == 0
            assert await store.prune(keep=10**9) == 0
            assert await seqs(store) == list(range(2_501, 3_501))
            assert await store.prune(before_ms=2**63 - 1) == 1_000
            assert await store.last_seq() == 3_500
            assert await writer.pruned_seq() == await reader.pruned_seq() == 3_500
            assert (await store.describe()).highest_seq == 3_500
            await writer.append_batch([event(3_501)])
            assert await writer.last_seq() == await reader.last_seq() == 3_501
            assert await store.pruned_seq() == 3_500
            with pytest.raises(ValueError, match="before_ms, keep: expected one of them"):
                await store.prune()
            with pytest.raises(ValueError, match="keep: expected an integer of 0 to"):
                await store.prune(keep=-1)


@pytest.mark.parametrize("criterion", [{"keep": 500}, {"before_ms": 2_001}])
async def test_prune_goes_on_behind_what_another_one_took(log, criterion):
    take = (
        "DELETE FROM trio_eventlog.events e USING trio_eventlog.logs l"
        " WHERE l.name = %s AND e.log = l.log AND e.seq <= 1000"
    )
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch([event(seq, timestamp_ms=seq) for seq in range(1, 2_501)])
        with psycopg.connect(url()) as other:
            await trio.to_thread.run_sync(other.execute, take, (log,))
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _():
                    assert await store.prune(**criterion) == 1_000

                with trio.fail_after(30):
                    while not await sql("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - only the server knows
                        await trio.sleep(0.01)
                await trio.to_thread.run_sync(other.commit)
        assert await seqs(store) == list(range(2_001, 2_501))


async def test_describe(log):
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch(
            [event(seq, event=ModuleEvent("m", f"t{seq % 3}")) for seq in (1, 2, 3, 7, 8, 12)]
        )
        described = await store.describe(top=2)
        assert (described.events, described.first_seq, described.last_seq, described.highest_seq) == (
            6,
            1,
            12,
            12,
        )
        assert (described.first_timestamp_ms, described.last_timestamp_ms) == (1, 12)
        assert described.event_types == (("t0", 2), ("t1", 2))
        assert (described.distinct_event_types, described.distinct_members) == (3, 1)
        assert (described.gaps, described.missing, described.first_gaps) == (2, 6, ((4, 6), (9, 11)))
        assert (await store.describe(top=0)).event_types == ()
        with pytest.raises(ValueError, match="top: expected 0 or more"):
            await store.describe(top=-1)


DAMAGE = {
    "delete from :s.logs where name = 'x'": (None, "its events are there, and its name is gone"),
    "drop index :s.events_run_id": (None, "events_run_id: the index is missing"),
    "update pg_index set indisvalid = false where indexrelid = ':s.events_run_id'::regclass": (
        None,
        "is not valid",
    ),
    "update :s.events set kind = 7 where seq = 3": (3, "kind is 7"),
    "update :s.events set timestamp_ms = -1 where seq = 3": (3, "timestamp_ms: expected 0"),
    "update :s.events set seq = 0 where seq = 3": (0, "seq: expected 1"),
    "update :s.events set run_id = 'x' where seq = 3": (3, "in its column"),
    "update :s.events set actor = '\\xff' where seq = 3": (3, "a text is not UTF-8"),
    "update :s.events set payload = '{' where seq = 3": (3, "not JSON"),
    "alter table :s.events drop constraint events_id; update :s.events set id = 'id2' where seq = 3": (
        3,
        "stands 2 times",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_each_thing_that_can_be_wrong_is_named(server, place, damage):
    seq, problem = DAMAGE[damage]
    async with PostgresStore.open(url(), schema=place, log="x") as store:
        await store.append_batch([event(seq, {"run_id": "r"}) for seq in range(1, 11)])
        assert (await store.verify()).problems == 0
        for statement in damage.split("; "):
            await sql(statement, place=place)
        told = []
        found = await store.verify(on_progress=told.append)
        assert (seq, True) in [(finding.seq, problem in finding.problem) for finding in found.findings]
        assert (await store.verify(most_findings=0)).problems == found.problems > 0
        assert told[-1:] == [10]


async def test_a_long_text_that_is_damaged(server, place):
    async with PostgresStore.open(url(), schema=place) as store:
        await store.append_batch([event(1, id="x" * 2_000)])
        await sql("update :s.events set long = null", place=place)
        assert "id: the whole text is missing" in (await store.verify()).findings[0].problem
        with pytest.raises(
            StoreUnusable, match="damaged: seq 1 of log 'default': id: the whole text is missing"
        ):
            await store.query(EventQuery())


@pytest.mark.parametrize(
    "renamed", ["schema :s rename to :s_", "table :s.logs rename to old", "table :s.layout rename to old"]
)
async def test_tables_that_are_away_for_a_while(place, renamed):
    """As while they are renamed, or restored: what was there may come back."""
    back = {
        "schema": "alter schema :s_ rename to :s",
        "table": f"alter table :s.old rename to {renamed.split()[1].rpartition('.')[2]}",
    }
    async with PostgresStore.open(url(), schema=place) as store:
        await store.append_batch([event(1)])
        await sql(f"alter {renamed}", place=place)
        if "layout" not in renamed:
            for call in (store.last_seq(), store.append_batch([event(2)])):
                with pytest.raises(StoreError, match=r"does not exist \(SQLSTATE 42P01\)") as failed:
                    await call
                assert type(failed.value) is StoreError
        with pytest.raises(StoreError):
            async with PostgresStore.open(url(), schema=place, read_only=True):
                pytest.fail("opened")  # pragma: no cover
        await sql(back[renamed.split()[0]], place=place)
        await store.append_batch([event(2)])
        assert await seqs(store) == [1, 2]


async def test_a_log_that_is_removed_while_it_is_open(place):
    """Nobody takes it for an empty one."""
    async with (
        PostgresStore.open(url(), schema=place) as store,
        PostgresStore.open(url(), schema=place, read_only=True) as reader,
    ):
        await store.append_batch([event(1)])

        def calls():
            for opened in (store, reader):
                yield opened.last_seq
                yield partial(opened.query, EventQuery(after_seq=1))
                yield opened.pruned_seq
                yield opened.describe
                yield partial(opened.prune, keep=0)
            yield partial(store.append_batch, [event(2)])

        await sql("delete from :s.events", place=place)
        await sql("delete from :s.logs", place=place)
        for call in calls():
            with pytest.raises(StoreUnusable, match="is gone from the table logs"):
                await call()
        for opened in (store, reader):
            assert (await opened.verify()).findings[-1].problem == "logs: the row of the log is gone"
        await sql("insert into :s.logs (log, name, unique_id) values (5, 'default', 'another')", place=place)
        for call in calls():
            with pytest.raises(StoreUnusable, match="another one now, of the same name"):
                await call()
        # While a backup comes back, table by table, it may come yet.
        await sql("delete from :s.logs", place=place)
        await sql("delete from :s.layout", place=place)
        for call in calls():
            with pytest.raises(StoreError, match="as while tables are restored") as failed:
                await call()
            assert type(failed.value) is StoreError


async def test_partitions(server, place):
    """By log, since a time is in no unique index: all of a log is in one of them."""
    names = [f"log{number}" for number in range(5)]
    for name in names:
        async with PostgresStore.open(url(), schema=place, log=name, partitions=4) as store:
            batch = [event(seq, {"run_id": name}) for seq in range(1, 6)]
            assert await store.append_batch(batch) == ()
            assert await store.append_batch([*batch, event(6, id="id1")]) == (6,)
            with pytest.raises(SequenceConflict) as refused:
                await store.append_batch([event(3, id="new")])
            assert refused.value.seqs == (3,)
            assert await seqs(store, since_ms=2, limit=2) == [2, 3]
            assert (await store.describe()).events == 5
            assert (await store.verify()).problems == 0
            assert await store.prune(keep=2) == 3
    assert await PostgresStore.logs(url(), schema=place) == names
    parts = await sql("select count(*) from pg_inherits where inhparent = %s::regclass", f"{place}.events")
    assert parts == [(4,)]
    async with PostgresStore.open_readers(url(), schema=place) as stores:
        assert [await seqs(store) for store in stores.values()] == [[4, 5]] * 5


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
