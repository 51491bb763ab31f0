"""Log records as events: from any thread, whatever they carry, and never in a circle."""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import enum
import gc
import itertools
import json
import logging
import math
import re
import signal
import subprocess
import sys
import threading
import traceback
import types
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import apsw
import pytest
import structlog
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_eventlog.logging
from tests._helpers.fakes import FakeStore, Reports, fail
from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, RetryPolicy, open_event_log, to_json
from trio_eventlog.logging import EventLogHandler, EventLogProcessor, capture_logging, event_from_record
from trio_eventlog.stores import MemoryStore, SqliteStore

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

    monkeypatch.setattr(trio_eventlog.logging.time, "monotonic", lambda: now)
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


# --- what a record may carry ----------------------------------------------------------------------


class Row(Mapping):
    """Of an ORM whose session is gone."""

    def __getitem__(self, key):
        raise RuntimeError("the row is not bound to a session")

    def __iter__(self):
        raise RuntimeError("the row is not bound to a session")

    def __len__(self):
        return 1


class HalfARow(Row):
    def __iter__(self):
        yield from ("a", "b")


class Rows(list):
    def __iter__(self):
        raise RuntimeError("no")


class Pairs(Row):
    def items(self):
        return [1, 2, 3]


class Number(int):
    def __int__(self):
        raise ValueError("no")

    __le__ = __ge__ = __repr__ = __int__


class Fraction(float):
    def __float__(self):
        raise ValueError("no")

    __repr__ = __float__


class Wide(int):
    """Answers what it is asked, and is beyond JSON."""

    def __le__(self, other):
        return True

    __ge__ = __le__

    def __repr__(self):
        return "Wide()"


class Text(str):
    __slots__ = ()

    def __str__(self):
        raise ValueError("no")


class NoText:
    def __str__(self):
        return 5  # noqa: PLE0307 - the point of it

    __repr__ = __str__


class LoudText(str):
    """What a __str__ may return."""

    __slots__ = ()

    def __len__(self):
        raise ValueError("no")

    isascii = encode = __getitem__ = __len__


class GivesLoudText:
    def __str__(self):
        return LoudText("loud")

    __repr__ = __str__


class Array:
    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")

    def __eq__(self, other):
        raise ValueError("ambiguous")

    __hash__ = None

    def __repr__(self):
        return "Array()"


class Liar:
    """Claims to be what it is not."""

    def __init__(self, claim):
        self.claim = claim

    @property
    def __class__(self):
        if self.claim is None:
            raise RuntimeError("none of your business")
        return self.claim

    def __repr__(self):
        return "Liar()"


class Meta(type):
    def __getattribute__(cls, name):
        raise RuntimeError(name)


class Nameless(metaclass=Meta):
    def __repr__(self):
        raise RuntimeError("no")


class Key:
    def __init__(self, hashed=1):
        self.hashed = hashed

    def __hash__(self):
        return self.hashed

    def __eq__(self, other):
        raise RuntimeError("no")

    def __repr__(self):
        return "Key()"


class OddError(Exception):
    @property
    def args(self):
        raise RuntimeError("no")

    def __str__(self):
        return 5  # noqa: PLE0307 - as above

    __notes__ = __cause__ = args


STRANGERS = {
    "row": (Row(), "<Row that cannot be shown>"),
    "half a row": (HalfARow(), "<HalfARow that cannot be shown>"),
    "rows": (Rows([1]), "<Rows that cannot be shown>"),
    "pairs": (Pairs(), "<Pairs that cannot be shown>"),
    "number": (Number(3), "<Number that cannot be shown>"),
    "fraction": (Fraction(3), "<Fraction that cannot be shown>"),
    "wide": (Wide(2**64), "Wide()"),
    "text": (Text("x"), "<Text that cannot be shown>"),
    "no text": (NoText(), "<NoText that cannot be shown>"),
    "loud text": (GivesLoudText(), "loud"),
    "array": (Array(), "Array()"),
    "liar": (Liar(None), "Liar()"),
    "no dict": (Liar(dict), "Liar()"),
    "no text either": (Liar(str), "Liar()"),
    "no error": (Liar(ValueError), "Liar()"),
    "nameless": (Nameless(), "<Nameless that cannot be shown>"),
    "inside": ([Row(), 1], ["<Row that cannot be shown>", 1]),
    "keys": ({Key(): 1, NoText(): 2}, {"Key()": 1, "<NoText that cannot be shown>": 2}),
    "error": (OddError(), "<OddError that cannot be shown>"),
    "surrogates": ({"\ud800": "\udcff"}, {"\\ud800": "\\udcff"}),
}


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


def test_every_public_name_is_documented():
    text = (ROOT / "docs/reference/logging.md").read_text()
    source = (ROOT / "trio_eventlog/logging.py").read_text()

    for name in re.findall(r"^(?:class|def) ([A-Za-z]\w+)", source, re.MULTILINE):
        assert re.search(rf"auto(?:class|function):: trio_eventlog\.logging\.{name}\b", text), name
        assert getattr(trio_eventlog.logging, name).__doc__
