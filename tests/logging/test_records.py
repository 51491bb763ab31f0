"""What a record becomes, and what it may cost."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import json
import logging
import math
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Mapping

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.log_records import Mute, captured
from trio_eventlog import EventQuery, open_event_log, to_json
from trio_eventlog.logging import capture_logging, event_from_record
from trio_eventlog.stores import MemoryStore

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
    assert payload["file"].endswith("test_records.py")
    assert payload["thread"] == threading.current_thread().name
    assert "exception" not in payload
    assert EventQuery(run_id="r-1", event_types=("log.warning",)).matches(event)


async def test_a_record_of_a_member_is_an_event_of_that_agent(logger):
    """A string alone names one, of whatever class; and one that is too long is cut as any other."""

    class Name(str):
        __slots__ = ()

    def work():
        logger.info("1", extra={"member_id": "w2", "run_id": "r"})
        logger.info("2", extra={"member_id": Name("w3")})
        logger.info("3", extra={"member_id": 7})
        logger.info("4", extra={"member_id": None})
        logger.info("5", extra={"member_id": "x" * 100_000})

    events, _ = await captured(logger, work)
    assert [event.member_id and event.member_id[:3] for event in events] == ["w2", "w3", None, None, "xxx"]
    first = events[0]
    assert first.event.agent_id == "w2"
    assert first.event.event_type == "log.info"
    assert first.event.payload["logger"] == logger.name
    assert first.event.payload["extra"] == {"member_id": "w2", "run_id": "r"}
    assert EventQuery(member_id="w2", run_id="r").matches(first)
    assert events[1].event.payload["extra"] == {"member_id": "w3"}
    assert len(events[4].member_id) < 40_000


async def test_a_record_of_a_member_that_is_too_large_is_shortened(logger):
    """It stays one of that member."""
    store = MemoryStore()
    async with open_event_log(store, max_event_bytes=2_000) as log:
        with capture_logging(log, logger):
            logger.info("x" * 5_000, extra={"member_id": "w2"})
        await log.flush()
    (event,) = await store.query(EventQuery(member_id="w2"))
    assert event.event.payload["truncated"] is True


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


# --- what a record may cost -----------------------------------------------------------------------


def family(children):
    root = {"name": "root"}
    root["children"] = [{"name": f"child {number}", "parent": root} for number in range(children)]
    return root


def doubled(levels, value="x", pair=lambda one: [one, one]):
    for _ in range(levels):
        value = pair(value)
    return value


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


class Endless(Mapping):
    """Says that it is small."""

    def __getitem__(self, key):
        return self

    def __iter__(self):
        return itertools.count()

    def __len__(self):
        return 1


class EndlessList(list):
    def __iter__(self):
        return itertools.count()


def raised(exc):
    try:
        raise exc  # noqa: TRY301 - for its traceback
    except BaseException as caught:  # noqa: BLE001, ASYNC103 - raised just above
        return caught  # noqa: ASYNC104 - as above


def chain_of(count):
    """Each is the cause of the next."""
    error = ValueError("first")
    for number in range(count):
        try:
            raise RuntimeError(number) from error  # noqa: TRY301 - as above
        except RuntimeError as exc:
            error = exc
    return error


LARGE = {
    "a family": lambda: family(2000),
    "a table that repeats a row": lambda: [[[0] * 300] * 300] * 300,
    "shared lists": lambda: doubled(60),
    "shared tuples": lambda: doubled(60, pair=lambda one: (one, one)),
    "shared dicts": lambda: doubled(60, pair=lambda one: {"a": one, "b": one}),
    "shared deques": lambda: doubled(60, pair=lambda one: deque([one, one])),
    "shared views": lambda: doubled(60, pair=lambda one: {1: one, 2: one}.values()),
    "shared proxies": lambda: doubled(60, pair=lambda one: types.MappingProxyType({"a": one, "b": one})),
    "shared, below the levels that are shown": lambda: nested(6)[0] + [nested(0), doubled(60)],
    "depth": lambda: nested(100_000),
    "an endless mapping": Endless,
    "an endless list": lambda: EndlessList([1]),
    "many texts": lambda: ["x" * 10**6] * 1000,
    "many texts in a tuple of bytes": lambda: deque([b"x" * 10**6] * 1000),
    "keys": lambda: {f"{number}" * 10_000: number for number in range(1000)},
    "bytes": lambda: b"x" * 10**7,
    "a bytearray": lambda: bytearray(10**7),
    "an integer": lambda: 1 << 10**7,
    "integers": lambda: [1 << 10**6] * 1000,
    "integers in a deque": lambda: deque([1 << 10**6] * 1000),
    "numbers": lambda: [[[[1.2345678901234567e-300] * 1000] * 1000] * 1000],
    "surrogates": lambda: ["\udcff" * 10**6] * 10,
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("place", ["extra", "argument", "arguments", "message", "exception"])
def test_a_record_takes_no_more_than_it_has_to(make, place):
    """However its values hang together; without bounds, many of these would never end."""
    value = make()
    fields = {
        "extra": {"value": value},
        "argument": {"msg": "%s", "args": (value,)},
        "arguments": {"msg": "%(a)s %(b)r", "args": {"a": value, "b": value}},
        "message": {"msg": value},
        "exception": {"exc_info": raised(ValueError(value))},
    }
    found = event_from_record(logging.makeLogRecord({"name": "a", "msg": "m", **fields[place]}))

    assert len(to_json(found)) < 2**20
    assert found.payload.get("truncated") or len(str(found.payload)) < 5000


def test_what_is_near_the_top_is_told_first():
    found = event_from_record(logging.makeLogRecord({"msg": "m", "node": family(400), "other": 1}))
    extra = found.payload["extra"]

    assert extra["other"] == 1
    assert [child["name"] for child in extra["node"]["children"]] == [f"child {n}" for n in range(400)]
    assert extra["node"]["children"][399]["parent"]["name"] == "root"
    assert found.payload["truncated"] is True


def test_what_says_the_most_is_told_before_the_extras():
    extra = {f"text {number}": "x" * 32_768 for number in range(100)}
    record = logging.makeLogRecord(
        {"msg": "m", "pathname": "f.py", "exc_info": raised(ValueError("bad")), "run_id": "r-1", **extra}
    )
    payload = event_from_record(record).payload

    assert (payload["message"], payload["file"], payload["run_id"]) == ("m", "f.py", "r-1")
    assert payload["exception"]["message"] == "bad"


@pytest.mark.parametrize(
    "error",
    [
        doubled(60, ValueError("x"), lambda one: ExceptionGroup("g", [one, one])),
        chain_of(5000),
        ValueError(doubled(60)),
        KeyError(doubled(60)),
    ],
    ids=["shared groups", "a long chain", "shared lists", "a shared key"],
)
def test_an_exception_takes_no_more_than_it_has_to(error):
    payload = event_from_record(logging.makeLogRecord({"msg": "m", "exc_info": raised(error)})).payload

    assert payload["exception"]["traceback"].startswith("Traceback (most recent call last):")
    assert "in raised" in payload["exception"]["traceback"]
    assert payload["truncated"] is True


def test_an_exception_of_usual_size_is_told_as_python_does():
    try:
        try:
            raise ValueError("first")  # noqa: TRY301 - as above
        except ValueError as exc:
            raise ExceptionGroup("two", [KeyError(1), OSError("x")]) from exc
    except ExceptionGroup as exc:
        error = exc
    payload = event_from_record(logging.makeLogRecord({"msg": "m", "exc_info": error})).payload

    assert payload["exception"]["traceback"] == "".join(traceback.format_exception(error)).rstrip()
    assert "truncated" not in payload


def test_after_a_second_nobody_is_asked_any_more(monkeypatch):
    now = 0.0

    class Slow:
        def __repr__(self):
            nonlocal now
            now += 0.3
            return "slow"

    monkeypatch.setattr(time, "monotonic", lambda: now)
    payload = event_from_record(
        logging.makeLogRecord({"msg": "m", "values": [Slow() for _ in range(100)]})
    ).payload

    assert payload["extra"]["values"] == ["slow"] * 4 + ["…"] * 96
    assert payload["truncated"] is True


def test_with_no_room_left_nobody_is_asked():
    asked = []

    class Asked:
        def __repr__(self):
            asked.append(self)
            return "x" * 40_000

    event_from_record(logging.makeLogRecord({"msg": "m", "values": [Asked() for _ in range(100)]}))

    assert len(asked) == 4


def test_an_iterator_is_not_iterated():
    numbers = iter(range(3))
    event_from_record(logging.makeLogRecord({"msg": "%s", "args": (numbers,), "numbers": numbers}))

    assert list(numbers) == [0, 1, 2]


def test_large_arguments_leave_the_rest_of_the_message():
    record = logging.makeLogRecord({"msg": "%s of %r by %d", "args": ("part", doubled(60), 3)})

    assert event_from_record(record).payload["message"] == (
        "part of <list that is too large to be shown> by 3"
    )
