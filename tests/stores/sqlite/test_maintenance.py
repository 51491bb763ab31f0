"""Looking a SQLite log over, and taking old events out of it."""

from __future__ import annotations

import functools
import tempfile
from functools import partial
from pathlib import Path

import apsw
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.events import agent
from tests._helpers.fakes import Reports, numbered
from tests._helpers.sqlite import write_log
from trio_eventlog import (
    CodecError,
    EventQuery,
    LogNotFound,
    ModuleEvent,
    PersistedEvent,
    StoreError,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog.abc import Finding
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _reader as _sqlite_upkeep


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


def raw(path, *statements):
    """What somebody else does to the file."""
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


def several():
    """Events of both kinds, with and without payloads and scopes."""
    return [
        agent(1, event_type="MARKED", payload={"run_id": "r-1", "step_id": "s", "x": [1.5, "é", None]}),
        PersistedEvent("id-2", 2, 5, None, ModuleEvent("m", "t", {"identity": "i", "mob_id": 3})),
        agent(3, payload=None),
        agent(7, payload="text"),
    ]


async def fill(path, events=None):
    async with SqliteStore.open(path) as store:
        await store.append_batch(several() if events is None else events)


async def verified(path, **options):
    async with SqliteStore.open(path, read_only=True) as store:
        return await store.verify(**options)


# --- verify ---------------------------------------------------------------------------------------


async def test_a_sound_log(path):
    await fill(path)

    found = await verified(path)
    assert (found.events, found.first_seq, found.last_seq) == (4, 1, 7)
    assert (found.problems, found.findings) == (0, ())
    assert (found.gaps, found.missing, found.first_gaps) == (1, 3, ((4, 6),))


async def test_a_log_that_is_empty_or_not_there(path):
    async with SqliteStore.open(path) as store:
        assert (await store.verify()).problems == 0
    with pytest.raises(LogNotFound, match="no log 'other'"):
        async with SqliteStore.open(path, log="other", read_only=True):
            pytest.fail("opened")  # pragma: no cover


async def test_a_log_that_has_lost_its_name(path):
    """It does not pass for one that was never there."""
    await fill(path)
    async with SqliteStore.open(path, log="other"):
        pass
    raw(path, "DELETE FROM logs WHERE name = 'default'")

    with pytest.raises(StoreUnusable, match="log 'default' is not there, and events_1 belongs to no log"):
        await verified(path)
    async with SqliteStore.open(path, log="other", read_only=True) as store:
        (finding,) = (await store.verify()).findings
    assert finding.problem == "events_1: the log that it belongs to is gone"


async def test_a_log_of_many_pages_while_others_write(path, monkeypatch):
    monkeypatch.setattr(_sqlite_upkeep, "_PAGE_SIZE", 10)
    seen = []
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(seq) for seq in range(1, 101)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.append_batch, [agent(seq) for seq in range(101, 151)])
            found = await store.verify(on_progress=seen.append)
    assert found.problems == 0
    assert found.events in (100, 150)
    assert seen[:3] == [10, 20, 30]


@pytest.mark.parametrize(
    ("damage", "seq", "problem"),
    [
        ("UPDATE events_1 SET payload = '{\"run_id\"' WHERE seq = 1", 1, "not JSON: "),
        (
            "UPDATE events_1 SET payload = '[NaN]' WHERE seq = 7",
            7,
            "event.payload[0]: nan is not a JSON number",
        ),
        (
            "UPDATE events_1 SET run_id = 'r-2' WHERE seq = 1",
            1,
            "run_id is 'r-1' in the payload and 'r-2'",
        ),
        ("UPDATE events_1 SET step_id = NULL WHERE seq = 1", 1, "step_id is 's' in the payload and None in"),
        ("UPDATE events_1 SET kind = 7 WHERE seq = 2", 2, "kind is 7, neither 0 nor 1"),
        ("UPDATE events_1 SET actor = CAST(x'ff' AS TEXT) WHERE seq = 2", 2, "a text is not UTF-8: "),
        ("UPDATE events_1 SET timestamp_ms = -1 WHERE seq = 2", 2, "timestamp_ms: expected 0 to 2**64 - 1"),
        ("UPDATE events_1 SET seq = -5 WHERE seq = 2", -5, "seq: expected 1 to 2**63 - 1"),
        ("UPDATE events_1 SET seq = 0 WHERE seq = 2", 0, "seq: expected 1 to 2**63 - 1"),
        ("DROP INDEX events_1_run_id", None, "events_1_run_id: the index is missing"),
        ("DROP INDEX events_1_id", None, "events_1_id: the index is missing"),
        (partial(write_log, last_seq=6), 7, "the log says that its highest seq is 6"),
        ("DROP TABLE events_1", None, "events_1: the table is missing"),
        (partial(write_log, pruned_seq=8), None, "the log says that seq 8 was pruned, and its highest is 7"),
        ("UPDATE events_1 SET event_type = 'u' WHERE seq = 2", 2, "is not what was stored: its checksum is"),
        ("UPDATE events_1 SET seq = 6 WHERE seq = 7", 6, "is not what was stored: its checksum is another"),
    ],
)
async def test_each_thing_that_can_be_wrong_is_named(path, damage, seq, problem):
    await fill(path)
    if callable(damage):
        damage(path)
    else:
        raw(path, damage)

    found = await verified(path)
    (finding,) = found.findings
    assert finding.seq == seq
    assert finding.problem.startswith(problem)
    assert found.problems == 1


async def test_an_index_that_lets_an_id_stand_twice(path):
    """On opening, the file would be refused."""
    await fill(path)
    async with SqliteStore.open(path, read_only=True) as store:
        raw(path, "DROP INDEX events_1_id", "CREATE INDEX events_1_id ON events_1 (id)")
        (finding,) = (await store.verify()).findings
    assert finding == Finding(seq=None, problem="events_1_id: the index lets an id stand twice")


async def test_an_id_that_stands_twice(path):
    await fill(path)
    raw(path, "DROP INDEX events_1_id", "UPDATE events_1 SET id = 'id-1' WHERE seq = 7")

    found = await verified(path)
    assert Finding(seq=7, problem="id 'id-1' stands 2 times") in found.findings


async def test_an_index_that_does_not_agree_with_its_table(path):
    """The text stands in the table and in an index; a change of either is found."""
    await fill(path)
    content = path.read_bytes()
    places = [place for place in range(len(content)) if content.startswith(b"MARKED", place)]
    assert len(places) == 2
    for place in places:
        path.write_bytes(content[:place] + b"MARKER" + content[place + 6 :])
        found = await verified(path)
        assert found.problems >= 1
        assert any("events_1_event_type" in finding.problem for finding in found.findings)


async def test_findings_are_bounded_and_counted(path):
    await fill(path, [agent(seq) for seq in range(1, 51)])
    raw(path, "UPDATE events_1 SET payload = '{'")

    found = await verified(path, most_findings=3)
    assert [finding.seq for finding in found.findings] == [1, 2, 3]
    assert found.problems == 50


@functools.cache
def sound():
    """A file that is in order."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "events.db")
        trio.run(fill, path, [agent(seq, payload={"run_id": f"r-{seq % 3}"}) for seq in range(1, 60)])
        return path.read_bytes()


@given(
    edits=st.lists(
        st.tuples(st.integers(0, 10**6), st.one_of(st.binary(min_size=1, max_size=20), st.none())),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_is_overwritten_what_cannot_be_read_is_found(edits):
    """And nothing but an error of a store is ever raised."""
    look_at_overwritten(edits)


def test_a_page_that_was_never_written():
    """Wherever it is; so that also columns which are not what their strict tables allow are met."""
    for place in range(0, len(sound()), 2048):
        look_at_overwritten([(place + 9, None)])


def look_at_overwritten(edits):
    """Overwrite a file in some places, and read what is left."""
    content = bytearray(sound())
    for place, some in edits:
        start = place % len(content)
        # None: a page that was never written.
        junk = bytes(4096) if some is None else some
        content[start : start + len(junk)] = junk
    del content[len(sound()) :]

    async def look(path):
        try:
            async with SqliteStore.open(path, read_only=True) as store:
                found = await store.verify()
                try:
                    read = [event.event.payload for event in await store.query(EventQuery())]
                except (StoreError, CodecError):
                    read = None
        except StoreError:
            return
        if read is None:
            assert found.problems
        elif not found.problems:
            assert len(read) == found.events

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "events.db")
        path.write_bytes(content)
        trio.run(look, path)


# --- prune ----------------------------------------------------------------------------------------


async def seqs(store):
    return [event.seq for event in await store.query(EventQuery())]


@pytest.mark.parametrize("read_only", [False, True])
async def test_keep_the_newest(path, read_only):
    await fill(path, [agent(seq) for seq in range(1, 2501)])
    told = []
    async with SqliteStore.open(path, read_only=read_only) as store:
        assert await store.prune(keep=100, dry_run=True) == 2400
        assert len(await seqs(store)) == 2500
        assert await store.prune(keep=100, on_progress=lambda *numbers: told.append(numbers)) == 2400
        assert await seqs(store) == list(range(2401, 2501))
        assert await store.last_seq() == 2500
        assert await store.prune(keep=100) == 0
        assert await store.prune(keep=0) == 100
        assert await store.last_seq() == 2500
        assert (await store.verify()).problems == 0
    assert told == [(1000, 2400), (2000, 2400), (2400, 2400)]


async def test_before_a_time(path):
    """By the time, whatever the order: clocks can be set back."""
    times = {1: 50, 2: 10, 3: 99, 4: 100, 5: 20}
    await fill(
        path, [PersistedEvent(f"id-{seq}", seq, time, "a", agent(seq).event) for seq, time in times.items()]
    )
    async with SqliteStore.open(path) as store:
        assert await store.prune(before_ms=100) == 4
        assert await seqs(store) == [4]
        await store.append_batch([agent(6)])
        assert await store.last_seq() == 6


async def test_beside_a_log_that_writes(path):
    """Nothing that comes meanwhile goes, the numbers go on, and the writer sees no failure."""
    reports = Reports()
    await fill(path, [agent(seq) for seq in range(1, 5001)])

    async def ingest(log):
        for number in range(300):
            log.ingest(numbered(number))
            await trio.sleep(0)  # noqa: ASYNC115 - as a program does

    async with (
        SqliteStore.open(path) as store,
        SqliteStore.open(path, read_only=True) as other,
        open_event_log(store, batch_size=8, on_failure=reports) as log,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ingest, log)
            assert await other.prune(keep=0) >= 5000
        await log.flush()
        left = await seqs(store)
        assert left == list(range(5301 - len(left), 5301))
        assert log.statistics().persisted == 300
    assert not reports.failures


async def test_what_was_pruned_is_known(path):
    """The highest seq that ever went: what is missing above it was lost."""
    await fill(path)
    async with SqliteStore.open(path) as store, SqliteStore.open(path, read_only=True) as reader:
        assert await reader.pruned_seq() == 0
        assert await reader.prune(keep=9) == 0
        assert await reader.prune(keep=1, dry_run=True) == 3
        assert await reader.pruned_seq() == await store.pruned_seq() == 0
        assert await reader.prune(before_ms=6) == 1
        assert await reader.pruned_seq() == 2
        # A lower seq was left, and goes later.
        assert await store.prune(keep=2) == 1
        assert await store.pruned_seq() == 2
        await store.append_batch([agent(9)])
        assert await store.prune(keep=0) == 3
        assert await reader.pruned_seq() == await store.last_seq() == 9
        assert (await store.verify()).problems == 0


async def test_what_was_pruned_is_noted_with_the_prune_or_not_at_all(path):
    """A prune that is undone has pruned nothing."""
    await fill(path)
    async with SqliteStore.open(path) as store:
        raw(path, "CREATE TRIGGER t BEFORE UPDATE OF pruned_seq ON logs BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(StoreError):
            await store.prune(keep=0)
        assert len(await seqs(store)) == 4
        assert await store.pruned_seq() == 0


async def test_cancelled_between_two_transactions(path):
    """What is gone is gone; the next call goes on."""
    await fill(path, [agent(seq) for seq in range(1, 3001)])
    async with SqliteStore.open(path) as store:
        with trio.CancelScope() as scope:
            await store.prune(keep=0, on_progress=lambda *_: scope.cancel())
        assert scope.cancelled_caught
        left = await seqs(store)
        assert left in (list(range(1001, 3001)), list(range(2001, 3001)))
        assert await store.prune(keep=0) == len(left)


async def test_what_can_be_asked(path):
    await fill(path)
    async with SqliteStore.open(path) as store:
        for criteria in ({}, {"keep": 1, "before_ms": 1}, {"keep": -1}, {"before_ms": 2**63}):
            with pytest.raises(ValueError, match=r"before_ms|keep"):
                await store.prune(**criteria)
        for criteria in ({"keep": True}, {"before_ms": "1"}):
            with pytest.raises(TypeError, match=r"before_ms|keep"):
                await store.prune(**criteria)
        assert len(await seqs(store)) == 4
    for call in (store.prune(keep=1), store.verify()):
        with pytest.raises(StoreUnusable, match="closed"):
            await call


async def test_a_prune_that_fails_changes_nothing(path, monkeypatch):
    await fill(path)
    async with SqliteStore.open(path) as store:
        blocker = apsw.Connection(str(path))
        blocker.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("trio_eventlog.stores.sqlite._schema.BUSY_TIMEOUT", 0.05)
        with pytest.raises(StoreError, match="locked") as caught:
            await store.prune(keep=0)
        assert type(caught.value) is StoreError
        blocker.close()
        assert len(await seqs(store)) == 4
        assert await store.prune(keep=0) == 4
