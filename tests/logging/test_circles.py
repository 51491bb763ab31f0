"""What the log itself does makes no records for it."""

from __future__ import annotations

import contextvars
import logging
import threading
from functools import partial

import apsw
import pytest
import trio
import trio.testing

from tests._helpers.fakes import FakeStore, Reports, fail
from trio_eventlog import AgentEvent, EventQuery, RetryPolicy, open_event_log
from trio_eventlog.logging import capture_logging
from trio_eventlog.stores import MemoryStore, SqliteStore

# --- not in a circle ------------------------------------------------------------------------------


async def test_the_library_s_own_records_are_not_taken(autojump_clock):
    """A store that is down fills the logger, and not the log."""
    store = FakeStore(otherwise=fail)
    async with open_event_log(store, retry=RetryPolicy(jitter=0)) as log:
        with capture_logging(log) as handler:
            log.ingest(AgentEvent("a", "t"))
            await trio.sleep(1000)
            logging.getLogger("trio_eventlog.below").error("none of it")
            assert log.statistics().ingested == 1
            assert log.statistics().failures > 10
            store.otherwise = FakeStore().otherwise
    assert handler.dropped == 0


async def test_what_on_failure_logs_is_not_taken(logger, autojump_clock):
    """While the store is down, each report would make an event, its loss a report, and so on."""
    store, reports = FakeStore(otherwise=fail), Reports()

    def tell(report):
        reports(report)
        logger.error("%s", type(report).__name__)

    async with open_event_log(
        store, on_failure=tell, retry_buffer_cap=10, batch_size=5, retry=RetryPolicy(jitter=0)
    ) as log:
        with capture_logging(log, logger):
            for _ in range(11):
                log.ingest(AgentEvent("a", "t"))
            await trio.sleep(600)
            assert len(reports.failures) > 10
            assert reports.lost == [1]
            assert log.statistics().ingested == 11
            logger.error("this one is")
            await trio.sleep(1)
            assert log.statistics().ingested == 12
            store.otherwise = FakeStore().otherwise


async def test_a_filter_that_logs_does_not_go_on_for_ever(logger):
    store = MemoryStore()

    def keep(event):
        logger.info("looked at %s", event.event_type)
        return True

    async with open_event_log(store, filter=keep) as log:
        with capture_logging(log, logger):
            log.ingest(AgentEvent("a", "t"))
    assert [event.event.event_type for event in await store.query(EventQuery())] == ["t", "log.info"]


async def test_a_filter_that_raises_costs_the_record_and_not_the_program(logger, capsys):
    def refuse(event):
        if event.event_type.startswith("log."):
            raise ValueError("no records")
        return True

    store = MemoryStore()
    async with open_event_log(store, filter=refuse) as log:
        with capture_logging(log, logger) as handler:
            logger.info("x")
            await trio.testing.wait_all_tasks_blocked()
            log.ingest(AgentEvent("a", "t"))
    assert handler.dropped == 1
    assert "ValueError: no records" in capsys.readouterr().err
    found = [event.event.event_type for event in await store.query(EventQuery())]
    assert found == ["records_dropped", "t"]


def says(logger):
    logger.debug("appending")


class Chatty(FakeStore):
    """Logs with each append, somewhere."""

    def __init__(self, logger, place):
        super().__init__()
        self.logger, self.place = logger, place
        self.nursery = None

    async def append_batch(self, events):
        if self.place == "task":
            says(self.logger)
        elif self.place == "thread":
            await trio.to_thread.run_sync(says, self.logger)
        elif self.place == "thread of its own":
            thread = threading.Thread(target=contextvars.copy_context().run, args=(says, self.logger))
            thread.start()
            thread.join()
        elif self.place == "from a thread":
            token = trio.lowlevel.current_trio_token()
            work = partial(trio.from_thread.run_sync, says, self.logger, trio_token=token)
            await trio.to_thread.run_sync(work)
        elif self.place == "child":
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - a task of its own is the point
                nursery.start_soon(self.say)
        elif self.place == "nursery of its own":
            self.nursery.start_soon(self.say)
        return await super().append_batch(events)

    async def say(self):
        says(self.logger)


@pytest.mark.parametrize(
    "place", ["task", "thread", "thread of its own", "from a thread", "child", "nursery of its own"]
)
async def test_what_a_store_says_while_the_log_appends_is_not_taken(place, logger):
    """Or each append would make an event, which would make an append, and so on."""
    store = Chatty(logger, place)
    async with trio.open_nursery() as store.nursery, open_event_log(store) as log:
        with capture_logging(log, logger) as handler:
            for number in range(3):
                log.ingest(AgentEvent("a", "t"))
                await log.flush()
                await trio.testing.wait_all_tasks_blocked()
                assert log.statistics().ingested == number + 1
            says(logger)
            await trio.to_thread.run_sync(says, logger)
            await trio.testing.wait_all_tasks_blocked()
            assert log.statistics().ingested == 5
        assert handler.dropped == 0


async def test_what_on_failure_starts_is_the_program_s(logger, autojump_clock):
    """It lives on, and what it logs is taken."""
    store = FakeStore([fail])

    async def notify():
        await trio.sleep(60)
        says(logger)

    async with trio.open_nursery() as nursery:
        async with open_event_log(store, on_failure=lambda _: nursery.start_soon(notify)) as log:
            with capture_logging(log, logger):
                log.ingest(AgentEvent("a", "t"))
                await trio.sleep(120)
                assert log.statistics().ingested == 2


async def test_two_logs_do_not_feed_each_other(logger, autojump_clock):
    """What one's store says goes into the other, and no further."""
    first, second = Chatty(logger, "task"), Chatty(logger, "child")
    async with open_event_log(first) as one, open_event_log(second) as other:
        with capture_logging(one, logger), capture_logging(other, logger):
            one.ingest(AgentEvent("a", "t"))
            for _ in range(3):
                await trio.sleep(60)
                assert (one.statistics().ingested, other.statistics().ingested) == (1, 1)
            other.ingest(AgentEvent("a", "t"))
            await trio.sleep(600)
            # In one direction only, once they have met.
            assert (one.statistics().ingested, other.statistics().ingested) == (1, 2)


async def test_what_the_driver_of_sqlite_says_while_the_log_appends_is_not_taken(
    logger, tmp_path, monkeypatch
):
    """Its thread was there before the log; what it says of a query of the program is taken."""

    def trace(db):
        db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: logger.debug("%s", event["sql"]))

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, trace])
    async with SqliteStore.open(tmp_path / "events.db") as store, open_event_log(store) as log:
        with capture_logging(log, logger):
            log.ingest(AgentEvent("a", "t"))
            await log.flush()
            await trio.testing.wait_all_tasks_blocked()
            assert log.statistics().ingested == 1
            await log.query()
            await trio.testing.wait_all_tasks_blocked()
            assert log.statistics().ingested > 1
