"""Records may carry objects that raise, lie, or are not what they seem."""

from __future__ import annotations

import contextlib
import logging

import pytest
import trio

from tests._helpers.log_records import STRANGERS, Array, Key, Mute
from trio_eventlog import open_event_log, to_json
from trio_eventlog.logging import EventLogHandler, EventLogProcessor, capture_logging, event_from_record
from trio_eventlog.stores import MemoryStore


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_cannot_be_looked_at_is_named(stranger):
    value, expected = STRANGERS[stranger]
    found = event_from_record(logging.makeLogRecord({"name": "a", "msg": "m", "value": value}))

    assert found.payload["extra"]["value"] == expected
    assert found.payload["message"] == "m"
    to_json(found)


FIELDS = sorted(vars(logging.makeLogRecord({})))


@pytest.mark.parametrize("stranger", STRANGERS)
def test_any_field_of_a_record_may_hold_anything(stranger, logger):
    """Each alone, and all of them, through a handler."""
    value, _ = STRANGERS[stranger]
    records = [logging.makeLogRecord({"name": "a", "msg": "m", field: value}) for field in FIELDS]
    records.append(logging.makeLogRecord(dict.fromkeys(FIELDS, value)))

    async def main():
        async with open_event_log(MemoryStore()) as log:
            with capture_logging(log, logger) as handler:
                for record in records:
                    handler.handle(record)
            assert (log.statistics().ingested, handler.dropped) == (len(records), 0)

    trio.run(main)


@pytest.mark.parametrize("field", FIELDS)
def test_any_field_of_a_record_may_be_missing(field):
    class Record(logging.LogRecord):
        """Raises where one is missing."""

        def __getattr__(self, name):
            raise RuntimeError(name)

    record = Record("a", logging.INFO, "f.py", 1, "m", (), None)
    with contextlib.suppress(AttributeError):
        delattr(record, field)

    to_json(event_from_record(record))


def test_a_record_with_keys_that_are_no_texts():
    record = logging.makeLogRecord({"name": "a", "msg": "m"})
    vars(record).update({Key(hash("run_id")): 1, Key(hash("step_id")): 2, 3: 4})

    assert event_from_record(record).payload["extra"] == {"Key()": 2, "3": 4}


def test_a_record_of_another_class_makes_its_own_message():
    class Braces(logging.LogRecord):
        def getMessage(self):  # noqa: N802 - of logging
            return self.msg.format(*self.args)

    record = Braces("a", logging.INFO, "f.py", 1, "{} of {}", (1, 2), None)
    assert event_from_record(record).payload["message"] == "1 of 2"


def test_an_exc_info_that_is_none():
    for exc_info in (
        (1, 2),
        (1, 2, 3),
        (ValueError, ValueError("bad"), 3),
        (None, None, None),
        (),
        "yes",
        Array(),
    ):
        to_json(event_from_record(logging.makeLogRecord({"msg": "m", "exc_info": exc_info})))


def test_close_to_the_limit_of_recursion(logger):
    """The record is taken, told in short, or counted."""

    async def main():
        async with open_event_log(MemoryStore()) as log:
            handler = EventLogHandler(log)
            record = logging.makeLogRecord(
                {"name": "a", "levelname": "INFO", "msg": "m", "value": [[[Mute()]]]}
            )

            def dive(depth):
                with contextlib.suppress(RecursionError):
                    dive(depth + 1)
                handler.emit(record)

            with contextlib.suppress(RecursionError):
                dive(0)
            handler.close()
            await log.flush()
            found = [event.event.payload for event in await log.query()]
            return [payload for payload in found if payload.get("message") == "m"]

    assert trio.run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_meant_for_the_program_gets_there(error, logger):
    """An error of the program becomes text; what ends it is not swallowed."""
    raising = True

    class Ending:
        def __repr__(self):
            if raising:
                raise error
            return ""

    value = Ending()
    async with open_event_log(MemoryStore()) as log:
        with capture_logging(log, logger) as handler:
            with pytest.raises(error):
                logger.info("%r", value)
            with pytest.raises(error):
                logger.info("m", extra={"values": [value]})
            with pytest.raises(error):
                EventLogProcessor(handler)(None, "info", {"value": value})
    raising = False


def test_arguments_that_do_not_fit():
    record = logging.makeLogRecord({"name": "a", "msg": "%d of %d", "args": ("x",)})

    assert event_from_record(record).payload["message"] == "%d of %d ['x']"
