"""Readers, and several logs of one file (S10, S14); cancellation (S11)."""

import pytest
import trio
import trio.testing

from tests._helpers.events import agent, everything
from tests._helpers.sqlite import Gate, raw
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    LogNotFound,
    SequenceConflict,
    SpillError,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _appender as rows

pytestmark = pytest.mark.usefixtures("no_threads_left")


async def test_s10_a_reader_sees_what_was_appended(path):
    async with SqliteStore.open(path) as store, SqliteStore.open(path, read_only=True) as reader:
        for seq in range(1, 5):
            await store.append_batch([agent(seq)])
            assert await reader.last_seq() == seq
            assert await everything(reader) == await everything(store)
        with pytest.raises(StoreUnusable, match="read-only"):
            await reader.append_batch([agent(9)])
        with trio.testing.assert_checkpoints(), pytest.raises(StoreUnusable, match="read-only"):
            await reader.append_batch([])


async def test_a_log_that_is_not_there_to_be_read(path):
    """A mistyped name is an error that names those that are; appending creates the log, reading does not."""
    path.touch()
    with pytest.raises(LogNotFound, match="nor any other") as caught:
        async with SqliteStore.open(path, read_only=True):
            pytest.fail("opened")  # pragma: no cover
    assert (caught.value.log, caught.value.names, caught.value.place) == ("default", (), str(path))
    assert await SqliteStore.logs(path) == []
    async with SqliteStore.open(path, log="first"), SqliteStore.open(path, log="a"):
        for opening in (
            SqliteStore.open(path, log="second", read_only=True),
            SqliteStore.open_readers(path, logs=["a", "second"]),
        ):
            with pytest.raises(LogNotFound, match=r"no log 'second' in .*; it has 'a', 'first'") as caught:
                async with opening:
                    pytest.fail("opened")  # pragma: no cover
            assert (caught.value.log, caught.value.names) == ("second", ("a", "first"))
        # As soon as an appender is open, though it has stored nothing.
        async with SqliteStore.open(path, log="a", read_only=True) as reader:
            assert await reader.last_seq() == 0
            assert await reader.query(EventQuery()) == []
            assert (await reader.describe()).events == 0
            async with SqliteStore.open(path, log="second") as store:
                assert await reader.log_names() == ["a", "first", "second"]
                await store.append_batch([agent(1)])
                async with SqliteStore.open(path, log="second", read_only=True) as other:
                    assert await other.last_seq() == 1
    assert await SqliteStore.logs(path) == ["a", "first", "second"]


async def test_s14_two_logs_know_nothing_of_each_other(path):
    async with SqliteStore.open(path, log="x") as x, SqliteStore.open(path, log="X\0") as y:
        await x.append_batch([agent(1, payload="x")])
        await y.append_batch([agent(1, payload="y"), agent(2)])
        assert (await x.last_seq(), await y.last_seq()) == (1, 2)
        assert [event.event.payload for event in await x.query(EventQuery())] == ["x"]
        assert "log='x' writing" in repr(x)
    assert await SqliteStore.logs(path) == ["X\0", "x"]


async def test_s14_a_log_says_which_one_it_is(path, tmp_path):
    """Always the same, and never what another log says."""
    async with SqliteStore.open(path) as store, SqliteStore.open(path, log="x") as other:
        log_id = store.log_id
        assert log_id
        assert other.log_id not in (log_id, None)
    async with SqliteStore.open(path) as store, SqliteStore.open(path, read_only=True) as reader:
        assert store.log_id == log_id
        assert reader.log_id == log_id
    async with SqliteStore.open(tmp_path / "elsewhere.db") as store:
        assert store.log_id not in (log_id, None)


async def test_a_spill_file_knows_its_log(path, tmp_path):
    """Events of one log never come into another."""
    spill = tmp_path / "log.spill"
    async with (
        SqliteStore.open(path) as store,
        open_event_log(store, spill=spill, grace_period=0, on_failure=lambda _report: None) as log,
    ):
        log.ingest(AgentEvent("worker", "step"))
    async with SqliteStore.open(path, log="x") as other:
        with pytest.raises(SpillError, match="events of another log"):
            async with open_event_log(other, spill=spill):
                pytest.fail("opened")
    async with SqliteStore.open(path) as store, open_event_log(store, spill=spill) as log:
        assert log.statistics().recovered == 1
        await log.flush()
        assert len(await log.query()) == 1
    assert not spill.exists()


async def test_s9_pruning_does_not_lower_the_last_seq(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1), agent(2)])
        raw(path, "DELETE FROM events_1 WHERE seq = 2")
        assert await store.last_seq() == 2
        described = await store.describe()
    assert (described.last_seq, described.highest_seq) == (1, 2)
    async with SqliteStore.open(path) as store:
        assert await store.last_seq() == 2


async def test_s1_after_a_reopen(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(seq) for seq in range(1, 2_000)])
    async with SqliteStore.open(path) as store:
        assert list(await store.append_batch([agent(seq) for seq in range(1_000, 3_000)])) == []
        assert list(await store.append_batch([agent(9_000, event_id="id-7")])) == [9_000]
        assert (await store.describe()).events == 2_999
        with pytest.raises(SequenceConflict):
            await store.append_batch([agent(1_500, event_id="other")])


# --- S11: cancellation ----------------------------------------------------------------------------


async def test_s11_a_cancelled_append_may_finish_and_everything_comes_after_it(path, monkeypatch):
    gate = Gate()
    insert = rows.insert

    def stuck(*arguments):
        gate()
        return insert(*arguments)

    async with SqliteStore.open(path) as store:
        monkeypatch.setattr(rows, "insert", stuck)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.append_batch, [agent(1)])
            await gate.reached.wait()
            nursery.cancel_scope.cancel()
        # Reading goes on meanwhile.
        assert await store.query(EventQuery()) == []
        results = []

        async def ask():
            results.append(await store.last_seq())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            gate.open()
        assert results == [1]
        assert list(await store.append_batch([agent(1), agent(2)])) == []


async def test_s11_an_append_cancelled_before_its_turn_is_dropped(path):
    gate = Gate()
    async with SqliteStore.open(path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store._writer.run, gate)
        await gate.reached.wait()
        async with trio.open_nursery() as inner:
            inner.start_soon(store.append_batch, [agent(1)])
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        gate.open()
        assert await store.last_seq() == 0


async def test_s11_a_cancelled_query_is_stopped(path):
    """The next one does not wait for it."""
    endless = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    async with SqliteStore.open(path) as store:
        started = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def run(db):
            token.run_sync_soon(started.set)
            db.execute(endless).fetchall()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store._reader.run, run)
            await started.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            assert await store.query(EventQuery()) == []


async def test_a_deadline_around_a_call_is_a_cancellation(path):
    """And not a timeout of the driver."""
    gate = Gate()
    async with SqliteStore.open(path) as store:
        with trio.move_on_after(0.01) as scope:
            await store._writer.run(gate)
        assert scope.cancelled_caught
        gate.open()
