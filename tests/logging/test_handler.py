"""Records come from anywhere, at any time, and the log may have ended."""

from __future__ import annotations

import gc
import logging
import math
import signal
import subprocess
import sys
import threading

import pytest
import trio
import trio.testing

from tests._helpers.log_records import captured
from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, open_event_log
from trio_eventlog.logging import EventLogHandler, capture_logging
from trio_eventlog.masking import mask_keys, mask_text
from trio_eventlog.stores import MemoryStore

# --- where records come from ----------------------------------------------------------------------


async def test_records_keep_their_order_and_those_of_others_come_in_between(logger):
    store = MemoryStore()
    async with open_event_log(store) as log:
        with capture_logging(log, logger):
            for number in range(5):
                logger.info("%d", number)
            log.ingest(AgentEvent("a", "t"))
            await trio.testing.wait_all_tasks_blocked()
            logger.info("5")
    found = [
        event.event.payload["message"] for event in await store.query(EventQuery(event_types=("log.info",)))
    ]
    assert found == ["0", "1", "2", "3", "4", "5"]


async def test_any_thread_may_log(logger):
    """Each thread's records keep their order, and none is lost while there is room."""
    store = MemoryStore()

    def work(name):
        for number in range(200):
            logger.info("%s %d", name, number)

    async with open_event_log(store) as log:
        with capture_logging(log, logger, max_waiting=10_000) as handler:
            threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await trio.to_thread.run_sync(thread.join)
    assert handler.dropped == 0
    messages = [event.event.payload["message"].split() for event in await store.query(EventQuery())]
    assert len(messages) == 800
    for name in ("t0", "t1", "t2", "t3"):
        assert [int(number) for thread, number in messages if thread == name] == list(range(200))


async def test_what_does_not_fit_is_dropped_counted_and_told(logger):
    def work():
        for number in range(10):
            logger.info("%d", number)

    events, handler = await captured(logger, work, max_waiting=4)
    assert [event.event.payload.get("message") for event in events] == ["0", "1", "2", "3", None]
    assert events[-1].event.event_type == "records_dropped"
    assert events[-1].event.payload == {"count": 6}
    assert handler.dropped == 6


async def test_a_finalizer_in_the_middle_of_an_ingest_may_log(logger):
    """Where calling ``ingest`` itself is forbidden."""

    class Loud:
        def __init__(self):
            self.me = self

        def __del__(self):
            logger.info("gone")

    def collect(_event):
        Loud()
        gc.collect()
        return True

    store = MemoryStore()
    async with open_event_log(store, filter=collect) as log:
        with capture_logging(log, logger):
            for _ in range(5):
                log.ingest(AgentEvent("a", "t"))
    events = await store.query(EventQuery())
    assert [event.seq for event in events] == list(range(1, 11))
    assert sum(event.event.event_type == "log.info" for event in events) == 5


async def test_text_is_made_without_a_lock(logger):
    """A thread whose record takes long to be made keeps nobody else waiting."""
    started, go = threading.Event(), threading.Event()
    released = []

    class Slow:
        def __repr__(self):
            started.set()
            released.append(go.wait(10))
            return "slow"

        __str__ = __repr__

    store = MemoryStore()
    async with open_event_log(store) as log:
        with capture_logging(log, logger) as handler:
            slow, quick = (logging.makeLogRecord({"levelname": "INFO", "msg": m}) for m in (Slow(), "quick"))
            thread = threading.Thread(target=handler.handle, args=(slow,))
            thread.start()
            await trio.to_thread.run_sync(started.wait)
            handler.handle(quick)
            handler.put(ModuleEvent("m", "t"))
            go.set()
            await trio.to_thread.run_sync(thread.join)
    assert released == [True]
    found = [event.event.payload for event in await store.query(EventQuery(event_types=("log.info",)))]
    assert [payload["message"] for payload in found] == ["quick", "slow"]


async def test_filters_of_the_handler(logger):
    """From Python 3.12 on, they may put another record in the place of one."""

    def choose(record):
        if record.msg == "no":
            return False
        return logging.makeLogRecord({**vars(record), "msg": "another"}) if record.msg == "yes" else 1

    store = MemoryStore()
    async with open_event_log(store) as log:
        with capture_logging(log, logger) as handler:
            handler.addFilter(choose)
            logger.info("as it is")
            logger.info("no")
            logger.info("yes")
            assert handler.handle(logging.makeLogRecord({"msg": "no"})) is False
    found = [event.event.payload["message"] for event in await store.query(EventQuery())]
    assert found == ["as it is", "another" if sys.version_info >= (3, 12) else "yes"]


def test_what_makes_ids_is_there_before_a_signal_can_come():
    """A signal handler that logs would meet it half imported."""
    code = "import sys, trio_eventlog.logging; print('uuid_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "True\n"


async def test_a_time_that_is_none():
    store = MemoryStore()
    async with open_event_log(store) as log:
        with capture_logging(log, "tests.none") as handler:
            for created in (None, math.nan, math.inf, 1e300, "now", -5.0):
                handler.handle(logging.makeLogRecord({"msg": "m", "created": created}))
        assert (log.statistics().ingested, handler.dropped) == (6, 0)
    first, *_, last = await store.query(EventQuery())
    assert first.timestamp_ms > 10**12
    assert last.timestamp_ms == 0


async def test_a_signal_handler_may_log(logger):
    before = signal.signal(signal.SIGUSR1, lambda *_: logger.info("signal"))
    try:

        def work():
            for _ in range(20):
                signal.raise_signal(signal.SIGUSR1)

        events, _ = await captured(logger, work)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(events) == 20


# --- the end --------------------------------------------------------------------------------------


async def test_after_the_end_records_are_dropped(logger, capsys):
    async with open_event_log(MemoryStore()) as log:
        handler = EventLogHandler(log)
        logger.addHandler(handler)
        logger.info("in time")
        await log.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert log.statistics().ingested == 1
    logger.info("late")
    await trio.testing.wait_all_tasks_blocked()
    logger.info("later")
    assert handler.dropped == 2
    logger.removeHandler(handler)
    handler.close()
    handler.close()
    assert capsys.readouterr().err == ""


def test_after_the_run_records_are_dropped(logger):
    handlers = []

    async def main():
        async with open_event_log(MemoryStore()) as log:
            handlers.append(EventLogHandler(log))
            logger.addHandler(handlers[0])

    trio.run(main)
    for _ in range(3):
        logger.info("late")
    (handler,) = handlers
    assert handler.dropped == 3
    logger.removeHandler(handler)
    handler.close()


async def test_a_handler_that_is_closed_elsewhere_while_it_delivers(logger):
    """What waited until then is dropped, and Trio goes on."""

    def close_elsewhere(_event):
        thread = threading.Thread(target=handler.close)
        thread.start()
        thread.join()
        return True

    async with open_event_log(MemoryStore(), filter=close_elsewhere) as log:
        with capture_logging(log, logger) as handler:
            logger.info("one")
            logger.info("two")
            await trio.testing.wait_all_tasks_blocked()
    assert (log.statistics().ingested, handler.dropped) == (1, 1)


async def test_records_that_wait_when_a_handler_is_closed_elsewhere_are_counted(logger):
    async with open_event_log(MemoryStore()) as log:
        handler = EventLogHandler(log)
        handler.handle(logging.makeLogRecord({"name": "a", "msg": "m"}))
        closing = threading.Thread(target=handler.close)
        closing.start()
        closing.join()
        assert handler.dropped == 1
        await trio.testing.wait_all_tasks_blocked()
        assert log.statistics().ingested == 0


FORKING = """
import logging, os, sys, trio, warnings
from trio_eventlog import open_event_log
from trio_eventlog.logging import capture_logging
from trio_eventlog.stores import MemoryStore, SqliteStore

warnings.simplefilter("ignore", DeprecationWarning)

async def main():
    store = MemoryStore()
    async with open_event_log(store) as log:
        with capture_logging(log) as handler:
            logging.error("parent")
            child = os.fork()
            if child == 0:
                logging.error("child")
                handler.close()
                os._exit(handler.dropped)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            logging.error("parent again")
        await log.flush()
        print([event.event.payload["message"] for event in await log.query()])

trio.run(main)
"""


def test_a_child_by_fork_drops_its_records(tmp_path):
    """What waited in the parent is the parent's."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.stdout, done.stderr) == ("2\n['parent', 'parent again']\n", "")


async def test_arguments(logger):
    async with open_event_log(MemoryStore()) as log:
        with pytest.raises(ValueError, match="max_waiting"), capture_logging(log, logger, max_waiting=0):
            pytest.fail("captured")
        with pytest.raises(ValueError, match="level"), capture_logging(log, logger, level="LOUD"):
            pytest.fail("captured")
        with pytest.raises(RuntimeError):
            await trio.to_thread.run_sync(EventLogHandler, log)
        with capture_logging(log, logger.name, level="ERROR"):
            logger.warning("below")
            logger.error("above")
        assert log.statistics().ingested == 1


# --- transforms -----------------------------------------------------------------------------------


async def test_a_transform_has_the_last_word_on_a_record(logger):
    """None leaves it out, and is not a loss."""

    def transform(event):
        return None if event.payload["message"] == "noise" else mask_keys("password")(event)

    def work():
        logger.info("noise")
        logger.info("login", extra={"form": {"password": "hunter2"}})

    events, handler = await captured(logger, work, transform=transform)
    assert [event.event.payload["extra"] for event in events] == [{"form": {"password": "***"}}]
    assert handler.dropped == 0


async def test_a_transform_that_fails_drops_the_record(logger, capsys):
    def transform(event):
        if event.payload["message"] == "bad":
            raise LookupError("of the transform")
        return event if event.payload["message"] == "good" else event.payload

    def work():
        for message in ("bad", "not an event", "good"):
            logger.info(message)

    events, handler = await captured(logger, work, transform=transform)
    assert [event.event.event_type for event in events] == ["log.info", "records_dropped"]
    assert handler.dropped == 2
    assert "of the transform" in capsys.readouterr().err


async def test_a_record_that_is_too_large_is_shortened_after_its_transform(logger):
    """So a secret that the shortening would cut in two is masked before."""
    store = MemoryStore()
    async with open_event_log(store, max_event_bytes=1_000) as log:
        with capture_logging(log, logger, transform=mask_text("hunter2")):
            logger.info("%shunter2%s", "x" * 195, "y" * 2_000)
        with capture_logging(log, logger, transform=lambda event: ModuleEvent("m", "t", ["x" * 2_000])):
            logger.info("z")
    first, second = await store.query(EventQuery())
    assert first.event.payload["message"] == "x" * 195 + "***yy"
    assert second.event.payload == {"truncated": True}


async def test_a_transform_of_records_is_a_plain_function(logger):
    async def transform(event):
        return event

    async with open_event_log(MemoryStore()) as log:
        for wrong in (transform, 1):
            with (
                pytest.raises(TypeError, match=r"^transform: expected a"),
                capture_logging(log, logger, transform=wrong),
            ):
                pytest.fail("it was taken")
