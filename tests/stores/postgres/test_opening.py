"""Opening a PostgresStore: arguments, tables, roles, hosts, and what the server refuses."""

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

from tests._helpers.postgres_logs import event, run, seqs, sql, url
from tests._helpers.postgres_server import ESCAPED_PASSWORD, PASSWORD, USER
from trio_eventlog import (
    LogNotFound,
    StoreError,
    StoreUnusable,
)
from trio_eventlog.stores import PostgresStore, open_store
from trio_eventlog.stores.postgres import _connection as connection
from trio_eventlog.stores.postgres import _schema as schema


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
        async with PostgresStore.open(url(), schema=place, log="a") as store:
            assert reader.log_id == store.log_id
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
    await sql(schema.migration(names, 1, 0).decode())
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
        ({"conninfo": 5}, TypeError, "conninfo must be a string, got int"),
        ({"log": ""}, ValueError, "a log name has 1 to 512 bytes, got 0"),
        ({"log": "x" * 513}, ValueError, "a log name has 1 to 512 bytes, got 513"),
        ({"log": "\ud800"}, ValueError, "log name .* has a lone surrogate"),
        ({"log": None}, TypeError, "log must be a string, got NoneType"),
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
    with pytest.raises(TypeError, match="logs: expected names, got a single string"):
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
        server.url().replace("127.0.0.1", "no..name"): (StoreUnusable, "is not found"),
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
        error = psycopg.errors.lookup(state)("")
        on_opening, later = (
            type(connection.store_error(error, "x", opening=opening)) for opening in (True, False)
        )
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
