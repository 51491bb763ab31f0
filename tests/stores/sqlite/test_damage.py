"""A file that was damaged (S16): what is read is what was stored, or an error says that it is not."""

import apsw
import pytest

from tests._helpers.events import agent
from tests._helpers.sqlite import raw, refused
from trio_eventlog import EventQuery, StoreUnusable
from trio_eventlog.abc import DamageAwareStore
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite._schema import PAGE_SIZE

ALL = EventQuery()
NOT_STORED = "is not what was stored"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


async def fill(path, log="default"):
    async with SqliteStore.open(path, log=log) as store:
        await store.append_batch(
            [agent(seq, payload={"run_id": f"r-{seq}", "number": seq, "log": log}) for seq in range(1, 6)]
        )


async def test_it_is_declared(path):
    async with SqliteStore.open(path) as store:
        assert isinstance(store, DamageAwareStore)
        assert store.detects_damage


@pytest.mark.parametrize(
    "change",
    [
        "id = 'id-X'",
        "timestamp_ms = timestamp_ms + 1",
        "kind = 1 - kind",
        "actor = 'b'",
        "event_type = 'u'",
        "member_id = NULL",
        "payload = replace(payload, '3', '4')",
        "payload = CAST(payload AS BLOB)",
        "payload = NULL",
        "checksum = checksum + 1",
        "seq = 30",
    ],
)
async def test_an_event_that_was_changed_is_not_returned(path, change):
    """Whatever of it, and however it is found; what stands before it can be read."""
    await fill(path)
    # A strict table has no room for what a flipped bit makes of a type.
    raw(path, "PRAGMA writable_schema = ON", "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '')")
    raw(path, f"UPDATE events_1 SET {change} WHERE seq = 3")  # noqa: S608 - ours
    raw(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = sql || ' STRICT' WHERE type = 'table'",
    )

    async with SqliteStore.open(path, read_only=True) as store:
        for query in (ALL, EventQuery(run_id="r-3"), EventQuery(since_ms=1), EventQuery(after_seq=2)):
            with pytest.raises(StoreUnusable, match=NOT_STORED):
                await store.query(query)
            with pytest.raises(StoreUnusable, match=NOT_STORED):
                await store.query_page(query, max_bytes=10_000)
        assert [event.seq for event in await store.query(EventQuery(limit=2))] == [1, 2]
        assert (await store.verify()).problems


async def test_an_event_of_another_log_is_not_returned(path):
    await fill(path)
    await fill(path, "other")
    raw(
        path,
        "DELETE FROM events_1 WHERE seq = 3",
        "INSERT INTO events_1 SELECT * FROM events_2 WHERE seq = 3",
    )

    async with SqliteStore.open(path, read_only=True) as store:
        with pytest.raises(StoreUnusable, match=NOT_STORED):
            await store.query(ALL)
    async with SqliteStore.open(path, log="other", read_only=True) as store:
        assert len(await store.query(ALL)) == 5


@pytest.mark.parametrize(
    "change",
    ["log_id = 7", "name = 'X'", "last_seq = 4", "unique_id = 'X'", "pruned_seq = 1", "checksum = 0"],
)
async def test_the_row_of_a_log_that_was_changed(path, change):
    await fill(path)
    raw(path, f"UPDATE logs SET {change}")  # noqa: S608 - ours
    for read_only in (False, True):
        await refused(StoreUnusable, "the row of log .* is not what was written", path, read_only=read_only)


async def test_a_log_that_lost_its_row_does_not_begin_anew(path):
    await fill(path)
    raw(path, "DELETE FROM logs")
    for read_only in (False, True):
        await refused(StoreUnusable, "events_1 belongs to no log", path, read_only=read_only)


async def test_a_log_whose_name_is_not_in_its_index(path):
    """It is not taken for one that was never there."""
    await fill(path)
    (index,) = raw(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_logs_1'")[0]
    content = path.read_bytes()
    page = content[(index - 1) * PAGE_SIZE : index * PAGE_SIZE]
    path.write_bytes(content.replace(page, page.replace(b"default", b"defaulu")))
    await refused(StoreUnusable, "log 'default' is not in the index of names", path)


# --- what is missing ------------------------------------------------------------------------------


def read_both(store, query):
    return (lambda: store.query(query), lambda: store.query_page(query, max_bytes=10_000))


async def test_events_that_are_missing_at_the_end_are_missed_at_once(path):
    await fill(path)
    raw(path, "DELETE FROM events_1 WHERE seq > 3")
    async with SqliteStore.open(path, read_only=True) as store:
        for query in (ALL, EventQuery(after_seq=2), EventQuery(after_seq=4), EventQuery(limit=4)):
            for call in read_both(store, query):
                with pytest.raises(
                    StoreUnusable, match=r"events of log 'default' after seq \d are missing, up to 5"
                ):
                    await call()
        # What was asked for is there.
        for query in (EventQuery(limit=3), EventQuery(after_seq=5), EventQuery(after_seq=9)):
            for call in read_both(store, query):
                await call()


async def test_events_that_were_pruned_at_the_end_are_not_missed(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1, time_ms=100), agent(2, time_ms=1)])
        assert await store.prune(before_ms=50) == 1
        assert [event.seq for event in await store.query(ALL)] == [1]
        assert len((await store.query_page(ALL, max_bytes=10_000)).events) == 1


def behind_the_indexes(path, statement):
    """Change the table of events, and no index of it."""
    index = "FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'events_1'"
    saved = raw(path, f"SELECT * {index}")
    raw(path, "PRAGMA writable_schema = ON", f"DELETE {index}")
    raw(path, statement)
    db = apsw.Connection(str(path))
    try:
        db.execute("PRAGMA writable_schema = ON")
        for row in saved:
            db.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)
    finally:
        db.close()


@pytest.mark.parametrize(
    "query", [EventQuery(run_id="r-3"), EventQuery(event_types=("t", "u")), EventQuery(since_ms=1), ALL]
)
async def test_an_event_that_only_the_indexes_have(path, query):
    """Whichever of them leads to it."""
    await fill(path)
    behind_the_indexes(path, "DELETE FROM events_1 WHERE seq = 3")
    async with SqliteStore.open(path) as store:
        if query == ALL:
            # No index is used. It may never have been there, for all that is known.
            assert [event.seq for event in await store.query(query)] == [1, 2, 4, 5]
        else:
            for call in read_both(store, query):
                with pytest.raises(StoreUnusable):
                    await call()
        assert (await store.verify()).problems


async def test_a_repeat_of_an_event_that_only_the_indexes_have(path):
    """It is not held, and so must not be taken for acknowledged."""
    await fill(path)
    behind_the_indexes(path, "DELETE FROM events_1 WHERE seq = 3")
    async with SqliteStore.open(path) as store:
        with pytest.raises(StoreUnusable, match="not what the index of ids says"):
            await store.append_batch([agent(3)])
        assert await store.append_batch([agent(4), agent(5)]) == ()


async def test_a_repeat_whose_seq_the_index_has_wrong(path):
    """Otherwise the log would take it for a duplicate of its caller's."""
    await fill(path)
    behind_the_indexes(path, "UPDATE events_1 SET seq = 30 WHERE seq = 3")
    async with SqliteStore.open(path) as store:
        with pytest.raises(StoreUnusable, match="not what the index of ids says"):
            await store.append_batch([agent(3)])


@pytest.mark.parametrize(
    ("column", "query"),
    [
        ("run_id", EventQuery(run_id="X")),
        ("step_id", EventQuery(step_id="X")),
        ("run_id", EventQuery(run_id="X", member_id="a")),
    ],
)
async def test_an_index_that_leads_to_an_event_that_does_not_match(path, column, query):
    """The columns that are copied out of the payload have no checksum."""
    await fill(path)
    raw(path, f"UPDATE events_1 SET {column} = 'X' WHERE seq = 3")  # noqa: S608 - ours
    async with SqliteStore.open(path, read_only=True) as store:
        for call in read_both(store, query):
            with pytest.raises(StoreUnusable, match="leads to events that do not match"):
                await call()
        assert await store.query(EventQuery(run_id="r-4"))
        assert (await store.verify()).problems == 1


# --- a file that is empty -------------------------------------------------------------------------


async def test_a_file_that_was_cut_off_to_nothing(path):
    """It had a log; that must not begin anew, unless somebody wants it to."""
    await fill(path)
    path.write_bytes(b"")
    for _ in range(2):
        await refused(
            StoreUnusable, "it is empty, and had log 'default' before; to begin anew, remove it", path
        )
    assert path.read_bytes() == b""
    path.unlink()
    async with SqliteStore.open(path) as store:
        assert await store.last_seq() == 0


async def test_an_empty_file_that_never_had_a_log(path):
    """As ``tempfile`` makes it, or a writer that was killed at the beginning; and a log that is new to it."""
    path.touch()
    await fill(path)
    path.write_bytes(b"")
    await fill(path, "other")
