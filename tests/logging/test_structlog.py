"""What is logged by structlog."""

from __future__ import annotations

import logging

import pytest
import structlog

from tests._helpers.log_records import STRANGERS, Key
from trio_eventlog import EventQuery, open_event_log
from trio_eventlog.logging import EventLogHandler, EventLogProcessor
from trio_eventlog.stores import MemoryStore


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


class OddDict(dict):
    def items(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_structlog_may_carry_anything(stranger):
    value, _ = STRANGERS[stranger]
    names = ("event", "level", "logger", "exc_info", "exception", "run_id", "value")
    store = MemoryStore()
    async with open_event_log(store) as log:
        handler = EventLogHandler(log)
        processor = EventLogProcessor(handler)
        for name in names:
            processor(value, "info", {"event": "m", name: value})
        processor(None, "info", dict.fromkeys(names, value))
        processor(None, "info", {Key(hash("event")): value, Key(hash("logger")): value})
        processor(None, "info", OddDict(event="m"))
        handler.close()
        assert (log.statistics().ingested, handler.dropped) == (len(names) + 3, 0)
