"""What fails while the store is open (S12)."""

import apsw
import pytest

from tests._helpers.events import agent
from tests._helpers.sqlite import raw
from trio_eventlog import (
    EventQuery,
    EventRejected,
    StoreError,
    StoreUnusable,
)
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _appender as rows
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _select as queries

pytestmark = pytest.mark.usefixtures("no_threads_left")


async def test_s12_disk_full(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 30").fetchall())

        with pytest.raises(StoreError, match="full") as caught:
            await store.append_batch([agent(seq, payload="x" * 2_000) for seq in range(2, 100)])

        assert type(caught.value) is StoreError
        assert isinstance(caught.value.__cause__, apsw.FullError)
        assert [event.seq for event in await store.query(EventQuery())] == [1]
        await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchall())
        assert list(await store.append_batch([agent(2)])) == []


async def test_s12_busy(path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    async with SqliteStore.open(path) as store:
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked") as caught:
            await store.append_batch([agent(1)])
        assert type(caught.value) is StoreError
        with pytest.raises(StoreError, match="locked"):
            async with SqliteStore.open(path, log="other"):
                pytest.fail("opened")  # pragma: no cover
        other.execute("ROLLBACK")
        other.close()
        await store.append_batch([agent(1)])


async def test_s12_busy_when_the_file_is_made(path, monkeypatch):
    """Another program is just about to set up the file: wait, then give up."""
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    other = apsw.Connection(str(path))
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        async with SqliteStore.open(path):
            pytest.fail("opened")  # pragma: no cover
    other.execute("ROLLBACK; BEGIN")
    other.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    with pytest.raises(StoreError, match="locked"):
        async with SqliteStore.open(path):
            pytest.fail("opened")  # pragma: no cover
    other.close()
    async with SqliteStore.open(path):
        pass


async def test_busy_for_a_moment_when_the_file_is_made(path, monkeypatch):
    """SQLite itself does not wait for every lock that it needs then."""
    first_row, calls = schema.first_row, []

    def busy_once(db, sql, bindings=()):
        if "journal_mode" in sql:
            calls.append(sql)
            if len(calls) == 1:
                raise apsw.BusyError("database is locked")
        return first_row(db, sql, bindings)

    monkeypatch.setattr(schema, "first_row", busy_once)
    async with SqliteStore.open(path):
        assert len(calls) == 2


async def test_s4_a_failing_commit(path):
    """It undoes the batch, and the next append works."""
    async with SqliteStore.open(path) as store:

        def refuse():
            raise apsw.FullError("no space for the commit")

        await store._writer.run(lambda db: db.set_commit_hook(refuse))
        with pytest.raises(StoreError, match="no space"):
            await store.append_batch([agent(1)])
        await store._writer.run(lambda db: db.set_commit_hook(None))
        assert await store.last_seq() == 0
        assert await store.query(EventQuery()) == []
        await store.append_batch([agent(1)])


async def test_s4_a_failing_rollback_does_not_stick(path, monkeypatch):
    async with SqliteStore.open(path) as store:
        roll_back, insert = schema.roll_back, rows.insert
        failures = []

        def fail(db):
            if db.in_transaction:
                failures.append(1)
                raise apsw.IOError("no rollback")

        def spoil(*arguments):
            insert(*arguments)
            raise apsw.FullError("no insert")

        monkeypatch.setattr(schema, "roll_back", fail)
        monkeypatch.setattr(rows, "insert", spoil)
        with pytest.raises(StoreError, match="no rollback"):
            await store.append_batch([agent(1)])
        assert failures == [1]
        monkeypatch.setattr(schema, "roll_back", roll_back)
        monkeypatch.setattr(rows, "insert", insert)

        await store.append_batch([agent(2)])

        assert [event.seq for event in await store.query(EventQuery())] == [2]


async def test_s12_larger_than_sqlite_can_hold(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(3)])
        await store._writer.run(lambda db: db.limit(apsw.SQLITE_LIMIT_LENGTH, 20_000))
        big = [agent(2, payload="x" * 30_000), agent(4, event_type="y" * 30_000)]
        # Each text is small enough, the row is not.
        big.append(agent(6, agent_id="z" * 15_000, payload="x" * 15_000))

        with pytest.raises(EventRejected, match="larger than") as caught:
            await store.append_batch([agent(1), big[0], agent(3), big[1], agent(5), big[2]])

        assert list(caught.value.events) == big
        assert [event.seq for event in await store.query(EventQuery())] == [3]
        await store.append_batch([agent(1), agent(5)])


async def test_s12_too_big_together(path, monkeypatch):
    """Should no event alone be to blame, the driver's error is passed on as one of ours."""
    async with SqliteStore.open(path) as store:
        insert = rows.insert

        def spoil(db, log, events, *core):
            if len(events) > 1:
                raise apsw.TooBigError("all of it")
            return insert(db, log, events, *core)

        monkeypatch.setattr(rows, "insert", spoil)
        with pytest.raises(StoreUnusable, match="all of it"):
            await store.append_batch([agent(1), agent(2)])
        monkeypatch.setattr(rows, "insert", insert)
        taken = agent(1, event_id="other")
        await store.append_batch([agent(1)])
        monkeypatch.setattr(rows, "insert", spoil)
        with pytest.raises(StoreUnusable, match="all of it"):
            await store.append_batch([taken, agent(2)])


async def test_s12_a_constraint_that_is_none_of_ours(path):
    async with SqliteStore.open(path) as store:
        raw(
            path,
            "CREATE TRIGGER no BEFORE INSERT ON events_1 BEGIN SELECT RAISE(ABORT, 'by a trigger'); END",
        )
        with pytest.raises(StoreUnusable, match="by a trigger"):
            await store.append_batch([agent(1)])


async def test_s12_memory(path, monkeypatch):
    def exhausted(*_arguments, **_options):
        raise MemoryError

    async with SqliteStore.open(path) as store:
        monkeypatch.setattr(queries, "read", exhausted)
        with pytest.raises(StoreError, match="MemoryError") as caught:
            await store.query(EventQuery())
        assert type(caught.value) is StoreError


async def test_s12_damaged_while_open(path):
    async with SqliteStore.open(path) as store:
        raw(path, "DROP TABLE events_1")
        with pytest.raises(StoreUnusable, match="no such table"):
            await store.append_batch([agent(1)])
        with pytest.raises(StoreUnusable, match="no such table"):
            await store.query(EventQuery())


def damage(path, old, new):
    """Change a text in the file, as a bad disk would."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("text", [b"MARKED-PAYLOAD", b"MARKED-ID", b"MARKED-TYPE"])
async def test_s12_a_damaged_text(path, text):
    async with SqliteStore.open(path) as store:
        await store.append_batch(
            [agent(1, event_id="MARKED-ID", event_type="MARKED-TYPE", payload="MARKED-PAYLOAD")]
        )
    damage(path, text, text[:-1] + b"\xff")
    async with SqliteStore.open(path, read_only=True) as store:
        with pytest.raises(StoreUnusable, match=r"damaged.*utf-8"):
            await store.query(EventQuery())
        assert await store.last_seq() == 1


async def test_s12_a_damaged_name(path):
    async with SqliteStore.open(path, log="MARKED"):
        pass
    damage(path, b"MARKED", b"MARKE\xff")
    with pytest.raises(StoreUnusable, match="damaged"):
        await SqliteStore.logs(path)


async def test_s12_the_log_is_gone(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        raw(path, "DELETE FROM logs")
        for call in (
            lambda: store.append_batch([agent(2)]),
            lambda: store.append_batch([agent(1)]),
            store.last_seq,
            store.describe,
        ):
            with pytest.raises(StoreUnusable, match="damaged: a row is missing"):
                await call()
        with pytest.raises(StoreUnusable, match="damaged: a row is missing"):
            await store.query(EventQuery())


async def test_s12_a_last_seq_that_is_no_number(path):
    async with SqliteStore.open(path):
        pass
    async with SqliteStore.open(path, read_only=True) as store:
        raw(
            path,
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema"
            " SET sql = replace(replace(sql, 'STRICT', ''), 'last_seq INTEGER', 'last_seq')",
            "PRAGMA writable_schema = RESET",
            "UPDATE logs SET last_seq = 'seven'",
        )
        with pytest.raises(StoreUnusable, match="damaged: the row of log 'default' is not what was written"):
            await store.last_seq()


async def test_s12_rows_that_do_not_arrive(path):
    async with SqliteStore.open(path) as store:
        raw(path, "CREATE TRIGGER no BEFORE INSERT ON events_1 BEGIN SELECT RAISE(IGNORE); END")
        with pytest.raises(StoreUnusable, match="damaged: events were neither inserted nor"):
            await store.append_batch([agent(1)])
