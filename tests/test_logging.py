"""Log records as events: from any thread, whatever they carry, and never in a circle."""

from __future__ import annotations

import datetime as dt
import enum
import gc
import json
import logging
import math
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_eventlog.logging
from tests.fakes import FakeStore, Reports, fail
from trio_eventlog import AgentEvent, EventQuery, RetryPolicy, open_event_log, to_json
from trio_eventlog.logging import EventLogHandler, EventLogProcessor, capture_logging, event_from_record
from trio_eventlog.stores import MemoryStore

ROOT = Path(__file__).parents[1]


@pytest.fixture
def logger(request):
    """One that nobody else has."""
    logger = logging.getLogger(f"tests.{request.node.name}")
    logger.setLevel(1)
    logger.propagate = False
    yield logger
    assert not [handler for handler in logger.handlers if isinstance(handler, EventLogHandler)]


async def captured(logger, work, **options):
    """The events that the records of ``work`` become."""
    store = MemoryStore()
    async with open_event_log(store) as log:
        with capture_logging(log, logger, **options) as handler:
            work()
    return await store.query(EventQuery()), handler


# --- what a record becomes ------------------------------------------------------------------------


async def test_a_record_is_a_module_event(logger):
    def work():
        logger.warning("%d of %s", 3, "these", extra={"run_id": "r-1", "size": 2.5, "step_id": 7})

    (event,), _ = await captured(logger, work)
    assert event.event.module == logger.name
    assert event.event.event_type == "log.warning"
    assert event.member_id is None
    payload = event.event.payload
    assert (payload["level"], payload["logger"], payload["message"]) == ("WARNING", logger.name, "3 of these")
    assert payload["extra"] == {"run_id": "r-1", "size": 2.5, "step_id": 7}
    assert payload["run_id"] == "r-1"
    assert "step_id" not in payload
    assert payload["function"] == "work"
    assert payload["file"].endswith("test_logging.py")
    assert payload["thread"] == threading.current_thread().name
    assert "exception" not in payload
    assert EventQuery(run_id="r-1", event_types=("log.warning",)).matches(event)


async def test_an_exception_comes_with_its_traceback(logger):
    def work():
        try:
            {}["key"]
        except KeyError:
            logger.exception("failed", stack_info=True)

    (event,), _ = await captured(logger, work)
    exception = event.event.payload["exception"]
    assert (exception["type"], exception["message"]) == ("KeyError", "'key'")
    assert exception["traceback"].startswith("Traceback (most recent call last):")
    assert "Stack (most recent call last)" in event.event.payload["stack"]


def test_the_time_is_that_of_the_record():
    record = logging.makeLogRecord({"name": "a", "msg": "m", "created": 1234.5678})
    handler_events = []

    async def main():
        async with open_event_log(MemoryStore()) as log:
            with capture_logging(log, "tests.none") as handler:
                handler.handle(record)
            await log.flush()
            handler_events.extend(await log.query())

    trio.run(main)
    assert [event.timestamp_ms for event in handler_events] == [1_234_567]


class Colour(enum.IntEnum):
    RED = 1


class Rude:
    def __repr__(self):
        raise ValueError("no")

    __str__ = __repr__


class Mute:
    def __str__(self):
        raise ValueError("no")

    def __repr__(self):
        return "Mute()"


CYCLE: list = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**64, str(2**64)),
        (Colour.RED, 1),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("a\ud800b", "a\\ud800b"),
        (b"x", "b'x'"),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        ({1: {None: 2}}, {"1": {"None": 2}}),
        (dt.date(2026, 7, 14), "datetime.date(2026, 7, 14)"),
        (Rude(), "<Rude that cannot be shown>"),
        ({Rude(): 1}, {"<Rude that cannot be shown>": 1}),
        (CYCLE, [[[[[[["[[...]]"]]]]]]]),
        ("x" * 40_000, "x" * 32_768 + "…"),
    ],
)
def test_what_json_does_not_know_is_shown(value, expected):
    record = logging.makeLogRecord({"name": "a", "msg": "m", "value": value})

    found = event_from_record(record)
    assert found.payload["extra"]["value"] == expected
    to_json(found)


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=())),
        st.binary(),
        st.dates(),
        st.builds(Mute),
    ),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner), st.dictionaries(st.one_of(st.text(), st.integers()), inner)
    ),
)


@given(message=anything, args=st.lists(anything, max_size=3), extra=anything, name=st.text(), level=st.text())
def test_every_record_becomes_an_event_that_a_log_takes(message, args, extra, name, level):
    record = logging.makeLogRecord(
        {
            "name": name,
            "msg": message,
            "args": tuple(args),
            "levelname": level,
            "extra": extra,
            "run_id": extra,
        }
    )
    event = event_from_record(record)
    encoded = to_json(event)

    assert len(encoded) < 2**20
    assert json.loads(encoded)["payload"]["logger"] == event.module


def test_the_largest_record_fits_a_log():
    """Control characters take six bytes of JSON each."""
    record = logging.makeLogRecord(
        {"name": "a", "msg": "\0" * 10**6, "extra": {str(n): "\0" * 10**6 for n in range(100)}}
    )

    assert len(to_json(event_from_record(record))) < 2**20


async def test_a_log_of_smaller_events_gets_the_beginning(logger):
    store = MemoryStore()
    async with open_event_log(store, max_event_bytes=1000) as log:
        with capture_logging(log, logger) as handler:
            logger.info("x" * 5000)
    (event,) = await store.query(EventQuery())
    assert event.event.payload == {
        "level": "INFO",
        "logger": logger.name,
        "message": "x" * 200,
        "truncated": True,
    }
    assert handler.dropped == 0


def test_arguments_that_do_not_fit():
    record = logging.makeLogRecord({"name": "a", "msg": "%d of %d", "args": ("x",)})

    assert event_from_record(record).payload["message"] == "%d of %d ['x']"


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
from trio_eventlog.stores import MemoryStore

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


# --- structlog ------------------------------------------------------------------------------------


async def test_a_structlog_processor():
    store = MemoryStore()
    async with open_event_log(store) as log:
        handler = EventLogHandler(log, logging.INFO)
        rendered = []
        logger = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[
                structlog.processors.add_log_level,
                EventLogProcessor(handler),
                lambda _logger, _name, event_dict: rendered.append(dict(event_dict)) or "",
            ],
        ).bind(run_id="r-1", logger="app.db")
        logger.info("opened", size=(1, 2))
        logger.debug("below the level")
        try:
            int("bad")
        except ValueError:
            logger.exception("failed")
        logger.bind(logger="trio_eventlog").error("its own")
        handler.close()
    events = await store.query(EventQuery(run_id="r-1"))

    assert [event.event.event_type for event in events] == ["log.info", "log.error"]
    assert events[0].event.module == "app.db"
    assert events[0].event.payload == {
        "level": "INFO",
        "logger": "app.db",
        "message": "opened",
        "extra": {"run_id": "r-1", "size": [1, 2]},
        "run_id": "r-1",
    }
    assert events[1].event.payload["exception"]["type"] == "ValueError"
    assert [one["event"] for one in rendered] == ["opened", "below the level", "failed", "its own"]
    assert rendered[0]["size"] == (1, 2)


async def test_structlog_without_processors_of_its_own():
    async with open_event_log(MemoryStore()) as log:
        handler = EventLogHandler(log)
        processor = EventLogProcessor(handler)
        event_dict = {"event": "x", "exception": "Traceback …"}
        assert processor(None, "warning", event_dict) is event_dict
        processor(None, "error", {"event": "y", "exc_info": ValueError("bad")})
        handler.close()
        await log.flush()
        first, second = await log.query()
    assert (first.event.module, first.event.event_type) == ("structlog", "log.warning")
    assert first.event.payload["exception"] == {"traceback": "Traceback …"}
    assert second.event.payload["exception"]["message"] == "bad"


def test_every_public_name_is_documented():
    text = (ROOT / "docs/reference/logging.md").read_text()
    source = (ROOT / "trio_eventlog/logging.py").read_text()

    for name in re.findall(r"^(?:class|def) ([A-Za-z]\w+)", source, re.MULTILINE):
        assert re.search(rf"auto(?:class|function):: trio_eventlog\.logging\.{name}\b", text), name
        assert getattr(trio_eventlog.logging, name).__doc__
