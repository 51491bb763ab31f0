"""SqliteStore reads and writes only what is laid out as it lays it out itself."""

import sqlite3

import apsw
import pytest
import trio

from tests._helpers.fakes import numbered
from trio_eventlog import EventQuery, PersistedEvent, StoreUnusable
from trio_eventlog.stores import SqliteStore

COLUMNS = (
    "seq, id, timestamp_ms, kind, actor, event_type, member_id,"
    " identity, mob_id, run_id, step_id, checksum, payload"
)
EVENT = "i, 'e', 1, 0, 'a', 't', 'a', NULL, NULL, NULL, NULL, 0, NULL"
LOG = "i AS log_id, 'default' AS name, 1 AS last_seq, 'x' AS unique_id, 0 AS pruned_seq, 0 AS checksum"


def endless_view(name, values):
    return (
        f"CREATE VIEW {name} AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n)"  # noqa: S608 - ours
        f" SELECT {values} FROM n"
    )


def event(seq):
    return PersistedEvent(f"id{seq}", seq, seq, "w", numbered(seq))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


async def fill(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([event(1), event(2)])


def change(path, *statements):
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


def rewrite(name, old, new):
    """Statements that change the SQL of an entry, as no statement of SQL itself can."""
    return (
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_schema SET sql = replace(sql, '{old}', '{new}') WHERE name = '{name}'",  # noqa: S608 - ours
    )


async def refusals(path):
    """What each way to open the file says against it, once."""
    found = set()
    for opening in (
        SqliteStore.open(path),
        SqliteStore.open(path, log="new"),
        SqliteStore.open(path, read_only=True),
        SqliteStore.open_readers(path),
    ):
        with trio.fail_after(10), pytest.raises(StoreUnusable) as caught:
            async with opening:
                pytest.fail("opened")  # pragma: no cover
        found.add(str(caught.value))
    return found


CHANGES = {
    "a view for a table": (
        "view 'events_1'",
        "DROP TABLE events_1",
        endless_view(f"events_1({COLUMNS})", EVENT),
    ),
    "in capital letters": (
        "view 'EVENTS_1'",
        "DROP TABLE events_1",
        endless_view(f"EVENTS_1({COLUMNS})", EVENT),
    ),
    "for a log that does not say so yet": (
        "view 'events_2'",
        endless_view(f"events_2({COLUMNS})", EVENT),
    ),
    "for a log with the number 0": (
        "view 'events_0'",
        endless_view(f"events_0({COLUMNS})", EVENT),
    ),
    "a view for the logs": (
        "view 'logs'",
        "DROP TABLE logs",
        endless_view("logs", LOG),
    ),
    "a virtual table": (
        "table 'events_1'",
        "DROP TABLE events_1",
        f"CREATE VIRTUAL TABLE events_1 USING fts5({COLUMNS})",
    ),
    "a generated column": (
        "table 'events_1'",
        "ALTER TABLE events_1 ADD COLUMN more TEXT AS (hex(zeroblob(450000000)))",
    ),
    "one for a column of ours": (
        "table 'events_1'",
        *rewrite("events_1", "payload TEXT", "payload TEXT AS (hex(zeroblob(450000000)))"),
    ),
    "another column of the logs": ("table 'logs'", "ALTER TABLE logs ADD COLUMN more TEXT"),
    "a check": (
        "table 'events_1'",
        *rewrite("events_1", "kind INTEGER NOT NULL", "kind INTEGER NOT NULL CHECK (length(hex(actor)))"),
    ),
    "a default": ("table 'events_1'", *rewrite("events_1", "payload TEXT", "payload TEXT DEFAULT (1)")),
    "another collation": (
        "table 'events_1'",
        *rewrite("events_1", "actor TEXT", "actor TEXT COLLATE NOCASE"),
    ),
    "any type": ("table 'logs'", *rewrite("logs", "STRICT", "")),
    "no row id": ("table 'logs'", *rewrite("logs", "STRICT", "STRICT, WITHOUT ROWID")),
    "a trigger": (
        "trigger 'theirs' on 'events_1'",
        "CREATE TRIGGER theirs AFTER INSERT ON events_1 BEGIN DELETE FROM events_1; END",
    ),
    "a trigger on the logs": (
        "trigger 'theirs' on 'logs'",
        "CREATE TRIGGER theirs AFTER UPDATE ON logs BEGIN DELETE FROM events_1; END",
    ),
    "an index with an expression": (
        "index 'theirs' on 'events_1'",
        "CREATE INDEX theirs ON events_1 (length(hex(actor)))",
    ),
    "an index of some rows": (
        "index 'theirs' on 'events_1'",
        "CREATE INDEX theirs ON events_1 (actor) WHERE length(hex(actor)) > 1",
    ),
    "another index for one of ours": (
        "index 'events_1_run_id' on 'events_1'",
        "DROP INDEX events_1_run_id",
        "CREATE INDEX events_1_run_id ON events_1 (step_id)",
    ),
    "one that lets ids stand twice": (
        "index 'events_1_id' on 'events_1'",
        "DROP INDEX events_1_id",
        "CREATE INDEX events_1_id ON events_1 (id)",
    ),
    "a name of ours for an index of another table": (
        "index 'events_1_run_id' on 'theirs'",
        "DROP INDEX events_1_run_id",
        "CREATE TABLE theirs (x)",
        "CREATE INDEX events_1_run_id ON theirs (x)",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_what_is_not_laid_out_by_us_is_refused(path, what):
    """Whatever opens the file, at once, and the entry is named."""
    entry, *statements = CHANGES[what]
    await fill(path)
    change(path, *statements)
    before = path.read_bytes()

    (message,) = await refusals(path)
    assert message.startswith(f"{path}: the {entry} is not what trio_eventlog makes")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["pragma_application_id", "pragma_user_version"])
async def test_names_of_sqlite_are_not_looked_up_in_the_file(path, name):
    """A view that is read before anything is known of the file."""
    await fill(path)
    change(path, endless_view(name, f"i AS {name.removeprefix('pragma_')}"))

    (message,) = await refusals(path)
    assert name in message


async def test_a_view_that_comes_while_the_file_is_open_is_not_read(path):
    await fill(path)
    async with SqliteStore.open(path, read_only=True) as store:
        assert len(await store.query(EventQuery())) == 2
        change(path, *CHANGES["a view for a table"][1:])
        with trio.fail_after(10), pytest.raises(StoreUnusable):
            await store.query(EventQuery())


async def test_what_else_is_in_the_file_is_left_alone(path):
    """Tables and views of others, also of names that begin like ours."""
    await fill(path)
    change(
        path,
        "CREATE TABLE theirs (x UNIQUE)",
        "CREATE INDEX theirs_x ON theirs (length(x))",
        "CREATE TRIGGER theirs_too AFTER INSERT ON theirs BEGIN DELETE FROM theirs; END",
        "CREATE VIEW report AS SELECT event_type, count(*) FROM events_1 GROUP BY 1",
        "CREATE TABLE logs_of_others (x)",
        "CREATE TABLE events_2024_05 (x)",
        "CREATE TABLE events_01 (x)",
        "ANALYZE",
    )
    async with SqliteStore.open(path) as store:
        await store.append_batch([event(3)])
        assert [held.seq for held in await store.query(EventQuery())] == [1, 2, 3]


async def test_copies_are_laid_out_like_the_original(path, tmp_path):
    """By SQLite's own means; also one whose SQL was made pretty."""
    await fill(path)
    copy, dump, pretty = (tmp_path / f"{name}.db" for name in ("copy", "dump", "pretty"))
    change(path, f"VACUUM INTO '{copy}'", f"VACUUM INTO '{pretty}'")
    change(pretty, *rewrite("events_1", "(", " (  "), *rewrite("events_1_id", " ON ", "  ON\n  "))
    original, restored = sqlite3.connect(path), sqlite3.connect(dump)
    restored.executescript("\n".join(original.iterdump()))
    restored.executescript(f"PRAGMA application_id = {0x54454C47}; PRAGMA user_version = 2")
    restored.close()
    original.close()
    for file in (copy, dump, pretty):
        async with SqliteStore.open(file) as store:
            await store.append_batch([event(3)])
            assert len(await store.query(EventQuery())) == 3
