"""Pruning, describing and verifying a log in PostgreSQL, and tables that change under it."""

from functools import partial

import psycopg
import pytest
import trio
import trio.testing

from tests._helpers.postgres_logs import event, seqs, sql, url
from trio_eventlog import (
    EventQuery,
    ModuleEvent,
    SequenceConflict,
    StoreError,
    StoreUnusable,
)
from trio_eventlog.stores import PostgresStore


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
            with pytest.raises(ValueError, match="before_ms, keep, through_seq: expected one of them"):
                await store.prune()
            with pytest.raises(ValueError, match="keep: expected 0 to"):
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
