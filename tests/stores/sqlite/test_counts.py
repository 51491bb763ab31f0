"""The counts that a log keeps: exact whatever happens to its events, and there whenever they can be."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import apsw
import attrs
import pytest
import trio

from tests._helpers.summaries import Questions
from trio_eventlog import AgentEvent, EventQuery, PersistedEvent, StoreUnusable
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite._counts import Chunk, load
from trio_eventlog.stores.sqlite._schema import Log

pytestmark = pytest.mark.usefixtures("no_threads_left")


@pytest.fixture(autouse=True)
def _larger_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are told apart at a glance."""
    monkeypatch.setattr("trio_eventlog.stores.sqlite._counts.CHUNK_EVENTS", 512)


def event(seq: int, event_type: str = "t", timestamp_ms: int | None = None) -> PersistedEvent:
    moment = seq if timestamp_ms is None else timestamp_ms
    return PersistedEvent(f"id-{seq}", seq, moment, f"a{seq % 2}", AgentEvent(f"a{seq % 2}", event_type))


def events(first: int, last: int) -> list[PersistedEvent]:
    return [event(seq) for seq in range(first, last + 1)]


async def chunks(store: SqliteStore) -> list[tuple[int, int, int]]:
    """First and last seq of each, and how many events it has."""

    def read(db: apsw.Connection, log: Log) -> list[Chunk]:
        return load(db, log)

    return [(chunk.first_seq, chunk.last_seq, chunk.events) for chunk in await store._read(read)]


async def total(store: SqliteStore) -> int:
    """By the histogram, of one bucket; and the facets say the same."""
    buckets = await store.histogram(EventQuery(), bucket_ms=2**40)
    facets = await store.facets(EventQuery(), "event_type")
    assert sum(bucket.events for bucket in buckets) == sum(events for _, events in facets.top)
    assert (await store.verify()).problems == 0
    return sum(bucket.events for bucket in buckets)


@pytest.mark.parametrize("seed", range(2))
async def test_answers_are_those_of_the_events(path: Path, seed: int) -> None:
    """While a log is filled, pruned and opened again, by appenders and readers."""
    questions = Questions(seed)
    for opening in range(3):
        async with SqliteStore.open(path, synchronous="off", index=["k"] if opening == 1 else ()) as store:
            for _ in range(3):
                await questions.append(store)
                if questions.chance.random() < 0.3:
                    await questions.prune(store)
                await questions.compare(store, 3)
        async with SqliteStore.open(path, read_only=True) as store:
            assert (await store.verify()).problems == 0
            await questions.compare(store, 5)


async def test_what_is_counted_with_the_appends(path: Path) -> None:
    """In ranges of 512 events, whatever the batches; with gaps, since nothing is there."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 100))
        assert await chunks(store) == []
        await store.append_batch(events(101, 2_000))
        assert await chunks(store) == [(1, 512, 512), (513, 1_024, 512), (1_025, 1_536, 512)]
        await store.append_batch(events(2_101, 2_200))
        assert (await chunks(store))[-1] == (1_537, 2_148, 512)
        assert await total(store) == 2_100


async def test_a_repeat_changes_nothing_that_is_counted(path: Path) -> None:
    """Also one beside new events, and one with other content."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 600))
        for batch in (
            events(550, 600),
            [*events(590, 600), *events(601, 700)],
            [*events(701, 710), attrs.evolve(event(3, "other"), seq=3), *events(711, 720)],
            [event(721), attrs.evolve(event(721, "other"), seq=722), event(723)],
        ):
            await store.append_batch(batch)
        await store.append_batch(events(724, 1_100))
        assert await chunks(store) == [(1, 512, 512), (513, 1_025, 512)]
        assert await total(store) == 1_099
        assert (await store.facets(EventQuery(), "event_type")).top == (("t", 1_099),)


async def test_an_event_in_the_midst_is_counted(path: Path) -> None:
    """What had counted around it is counted again, by the next appender for good."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch([*events(1, 699), *events(701, 2_000)])
        await store.append_batch([event(700)])
        assert await chunks(store) == [(1, 512, 512), (1_026, 1_537, 512)]
        assert await total(store) == 2_000
        await store.append_batch(events(2_001, 2_600))
        assert await total(store) == 2_600
    async with SqliteStore.open(path, synchronous="off") as store:
        assert await chunks(store) == [
            *((1, 512, 512), (513, 1_024, 512), (1_025, 1_025, 1), (1_026, 1_537, 512)),
            *((1_538, 2_000, 463), (2_001, 2_512, 512)),
        ]
        assert await total(store) == 2_600


async def test_what_is_pruned_is_counted_no_more(path: Path) -> None:
    """Also by another store, while the appender has counted it and not written that down yet."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 1_300))
        async with SqliteStore.open(path, read_only=True) as other:
            await other.prune(keep=200)
        assert await total(store) == 200
        await store.append_batch(events(1_301, 2_000))
        assert await total(store) == 900
        # Some from the midst, since their clock was wrong.
        await store.append_batch([event(seq, timestamp_ms=seq % 10) for seq in range(2_001, 2_801)])
        await store.prune(before_ms=5)
        assert await total(store) == 900 + 400
        await store.append_batch(events(2_801, 3_500))
        assert await total(store) == 900 + 400 + 700
    async with SqliteStore.open(path, synchronous="off") as store:
        assert await total(store) == 900 + 400 + 700


async def test_what_lies_between_what_is_changed_stays_counted(path: Path) -> None:
    """By pruning events of long ago that came late, and by an old event among new ones."""
    late, changed = {1, 400, 1_400, 3_100}, {2_000, 3_000, 4_000}
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(
            [event(seq, timestamp_ms=0 if seq in late else seq) for seq in range(1, 4_097) if seq != 3_000]
        )
        counted = await chunks(store)
        assert await store.prune(before_ms=1) == len(late)
        left = [(first, last, n) for first, last, n in counted if not late & {*range(first, last + 1)}]
        assert len(left) == len(counted) - 3
        assert await chunks(store) == left
        assert await total(store) == 4_091

        await store.append_batch([event(4_000), event(3_000), event(2_000)])
        assert await chunks(store) == [
            (first, last, n) for first, last, n in left if not changed & {*range(first, last + 1)}
        ]
        assert await total(store) == 4_092


async def test_counts_of_long_strings_are_not_kept(path: Path) -> None:
    """All strings of a chunk can be longer than SQLite's longest one, though each event is short enough."""

    def limit(db: apsw.Connection) -> None:
        db.limit(apsw.SQLITE_LIMIT_LENGTH, 2**20)

    long = [event(seq, f"{seq}-{'t' * 4_000}") for seq in range(1, 513)]
    async with SqliteStore.open(path, synchronous="off") as store:
        assert store._writer is not None
        await store._writer.run(limit)
        await store.append_batch(long)
        await store.append_batch(events(513, 1_024))
        assert await chunks(store) == [(513, 1_024, 512)]
        buckets = await store.histogram(EventQuery(), bucket_ms=2**40)
        assert sum(bucket.events for bucket in buckets) == 1_024
        assert (await store.verify()).problems == 0
    async with SqliteStore.open(path, synchronous="off") as store:
        assert await chunks(store) == [(513, 1_024, 512)]
        assert (await store.facets(EventQuery(), "event_type")).distinct == 513


async def test_a_log_that_has_no_counts_gets_them(path: Path) -> None:
    """As a file of an earlier version; a reader counts all events meanwhile."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 2_000))
    db = apsw.Connection(str(path))
    db.execute("DROP TABLE counts_1")
    db.close()
    async with SqliteStore.open(path, read_only=True) as store:
        assert await chunks(store) == []
        assert await total(store) == 2_000
        assert [event.seq for event in await store.latest(EventQuery(since_ms=1_999), limit=9)] == [
            2_000,
            1_999,
        ]
    async with SqliteStore.open(path, synchronous="off") as store:
        assert len(await chunks(store)) == 3
        await store.append_batch(events(2_001, 2_048))
        assert len(await chunks(store)) == 4
        assert await total(store) == 2_048


async def test_a_large_log_catches_up_a_part_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it does not take as long as reading all of it."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 3_000))
    db = apsw.Connection(str(path))
    db.execute("DELETE FROM counts_1")
    db.close()
    monkeypatch.setattr("trio_eventlog.stores.sqlite._counts._MOST_CAUGHT_UP", 1_100)
    expected = 0
    for _ in range(3):
        expected = min(expected + 2, 3_000 // 512)
        async with SqliteStore.open(path, synchronous="off") as store:
            assert len(await chunks(store)) == expected
            assert await total(store) == 3_000


async def test_another_writer_does_not_keep_a_log_from_opening(path: Path) -> None:
    """Catching up can wait."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 2_000))
    db = apsw.Connection(str(path))
    db.execute("DELETE FROM counts_1; BEGIN IMMEDIATE")
    async with SqliteStore.open(path, synchronous="off") as store:
        assert await chunks(store) == []
        db.execute("ROLLBACK")
        db.close()
        await store.append_batch(events(2_001, 2_600))
        assert await chunks(store) == [(2_001, 2_512, 512)]
        assert await total(store) == 2_600


_KILLED = """
import os, signal, sys, trio
from tests.stores.sqlite.test_counts import events
from trio_eventlog.stores import SqliteStore

async def main():
    async with SqliteStore.open(sys.argv[1], synchronous="off") as store:
        await store.append_batch(events(1, 700))
        await store.append_batch(events(701, 1000))
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_a_kill_leaves_counts_that_are_right(path: Path) -> None:
    """What the process had counted in memory is counted again. It counted by 256."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = await trio.run_process([sys.executable, "-c", _KILLED, path], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    async with SqliteStore.open(path, synchronous="off") as store:
        assert await chunks(store) == [(1, 256, 256), (257, 512, 256), (513, 768, 256)]
        assert await total(store) == 1_000
        await store.append_batch(events(1_001, 1_280))
        assert (await chunks(store))[3:] == [(769, 1_280, 512)]
        assert await total(store) == 1_280


async def test_a_failed_append_is_not_counted(path: Path) -> None:
    """Nor is one whose outcome was not waited for counted twice."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 500))
        with pytest.raises(Exception, match="500"):
            await store.append_batch([*events(501, 600), attrs.evolve(event(500), id="other")])
        with trio.move_on_after(0.0):
            await store.append_batch(events(501, 600))
        await store.append_batch(events(501, 600))
        assert await chunks(store) == [(1, 512, 512)]
        assert await total(store) == 600


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE counts_1 SET events = 511 WHERE first_seq = 513",
        "UPDATE counts_1 SET counts = replace(counts, '512', '511') WHERE first_seq = 513",
        "UPDATE counts_1 SET last_seq = 1023 WHERE first_seq = 513",
        "UPDATE counts_1 SET checksum = checksum + 1 WHERE first_seq = 513",
    ],
)
async def test_counts_that_are_not_what_was_written_are_damage(path: Path, change: str) -> None:
    """They are told rather than answered; events are read all the same."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 2_000))
    db = apsw.Connection(str(path))
    db.execute(change)
    db.close()
    async with SqliteStore.open(path, read_only=True) as store:
        with pytest.raises(StoreUnusable, match="the counts of log 'default' after seq 512"):
            await store.histogram(EventQuery(), bucket_ms=100)
        assert (await store.verify()).problems == 1
        assert len(await store.query(EventQuery())) == 2_000
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(2_001, 2_100))


async def test_verify_compares_the_counts_with_the_events(path: Path) -> None:
    """As after a change of an event that left its chunk there."""
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events(1, 2_000))
        await store.append_batch([event(2_001, "other")])
    db = apsw.Connection(str(path))
    db.execute("DELETE FROM events_1 WHERE seq = 600")
    db.close()
    async with SqliteStore.open(path, read_only=True) as store:
        found = await store.verify()
    assert [finding.problem for finding in found.findings] == [
        "the counts of seqs 513 to 1024 are not those of the events"
    ]


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE counts_1", "CREATE VIEW counts_1 AS SELECT 1"),
        ("CREATE TRIGGER more AFTER INSERT ON counts_1 BEGIN DELETE FROM events_1; END",),
        ("CREATE INDEX another ON counts_1 (events)",),
    ],
)
async def test_a_table_of_counts_that_is_another_is_refused(path: Path, statements: tuple[str, ...]) -> None:
    async with SqliteStore.open(path):
        pass
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()
    with pytest.raises(StoreUnusable, match="is not what trio_eventlog makes"):
        async with SqliteStore.open(path, read_only=True):
            pass
