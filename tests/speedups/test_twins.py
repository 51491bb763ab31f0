"""The core in C does what its twins in Python do, and leaves to them what is unusual."""

import enum
import gc
import os
import re
import subprocess
import sys
import threading
import time
from functools import cache, partial
from types import SimpleNamespace

import apsw
import attrs
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from tests._helpers.books import Book, core_ingress
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    open_event_log,
)
from trio_eventlog._log._ingress import ChannelIngress
from trio_eventlog._model._events import wall_clock_ms
from trio_eventlog._model._payload import encode_in_python, scopes_in
from trio_eventlog._model._sealed import reseal, reseal_in_python, seal_persisted
from trio_eventlog._speedups import core
from trio_eventlog.stores import MemoryStore, SqliteStore
from trio_eventlog.stores._common._columns import COLUMNS, columns_of, event_of, event_of_in_python
from trio_eventlog.stores.sqlite._appender import row_of
from trio_eventlog.stores.sqlite._counts import count_in_python
from trio_eventlog.stores.sqlite._schema import load_core
from trio_eventlog.testing import events, payloads, persisted_events

pytestmark = pytest.mark.skipif(core is None, reason="the core was not compiled, or is switched off")

LARGE = 2**62
STORED = ("seq", "id", "timestamp_ms", "kind", "actor", "event_type", "member_id", "payload")


def what_says(program):
    # Without the current directory, which may hold the package as it is where nothing was compiled.
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=50).stdout


# --- payloads -------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Mapping(dict):
    pass


class Level(enum.IntEnum):
    LOW = 1


FLAWS = st.sampled_from(
    [
        *((), (1,), {1}, b"bytes", 1j, float("nan"), float("inf"), 2**64, -(2**63) - 1, 10**400, object()),
        *(
            "\ud800",
            "a\udfffb",
            Text("text"),
            Whole(1),
            True,
            Mapping(a=1),
            Level.LOW,
            None,
            2**64 - 1,
            -(2**63),
        ),
    ]
)
KEYS = st.text(max_size=5) | st.sampled_from(["\ud800", Text("key"), 1, None, True, 1.5])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NESTED = st.recursive(
    payloads() | FLAWS | FLOATS | st.integers(-(2**64), 2**65) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def nested(depth, value=None):
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    return value


@given(NESTED)
@example([])
@example({})
@example("x" * 100_000)
@example([1e16, 1e15, 1e-5, 1e-4, 1e-7, 123456789012345680.0, 5e-324, -0.0, 1.7976931348623157e308])
def test_payloads_are_encoded_alike_and_refused_alike(payload):
    assert core.encode(payload, LARGE) == in_python(payload)


@pytest.mark.parametrize("depth", [199, 200, 201, 5_000])
def test_they_may_be_nested_equally_deep(depth):
    payload = nested(depth)

    assert core.encode(payload, LARGE) == in_python(payload)
    assert (core.encode(payload, LARGE) is None) is (depth > 200)


def in_python(payload):
    try:
        return encode_in_python(payload)
    except CodecError:
        return None


@given(payloads(), st.integers(-10, 400))
def test_a_bound_refuses_nothing_that_fits(payload, bound):
    expected = encode_in_python(payload)

    encoded = core.encode(payload, bound)

    assert encoded == expected or (encoded is None and len(expected) > bound)


def test_what_would_be_far_larger_than_it_is_costs_little():
    payload = ["x"]
    for _ in range(100):
        payload = [payload, payload]
    keys = {"k" * 1_000: None}
    for _ in range(100):
        keys = {"k" * 1_000: [keys, keys]}

    assert core.encode(payload, 1_000_000) is None
    assert core.encode(keys, 1_000_000) is None


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError):
        core.encode({}, "many")
    with pytest.raises(TypeError):
        core.encode({})
    with pytest.raises(OverflowError):
        core.encode({}, 2**63)


# --- ids ------------------------------------------------------------------------------------------


def test_ids_are_uuids_of_version_7_that_ascend():
    before = wall_clock_ms()
    ids = [core.new_event_id() for _ in range(20_000)]

    assert ids == sorted(set(ids))
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i) for i in ids
    )
    # Those of other tests may have come from a clock that was ahead.
    assert int(ids[-1].replace("-", "")[:12], 16) >= before


def test_ids_ascend_while_the_clock_goes_back(monkeypatch):
    first = core.new_event_id()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)

    assert core.new_event_id() > first


def test_a_forked_child_makes_other_ids():
    core.new_event_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "".join(core.new_event_id()[19:] for _ in range(50)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 10_000).decode()
    ours = [core.new_event_id()[19:] for _ in range(50)]
    os.close(read)
    os.close(write)

    assert len(theirs) == 50 * 17
    assert not any(part in theirs for part in ours)


def test_a_clock_that_raises_or_lies_is_told(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        core.new_event_id()
    monkeypatch.setattr(time, "time_ns", lambda: -5)
    with pytest.raises(ValueError, match="before 1970"):
        core.new_event_id()
    monkeypatch.setattr(time, "time_ns", lambda: "now")
    with pytest.raises(TypeError):
        core.new_event_id()


@pytest.mark.parametrize("make", [core_ingress, lambda: ChannelIngress])
def test_both_ask_the_clock_that_is_there(make, monkeypatch):
    book = Book(make())
    # Another function in C.
    monkeypatch.setattr(time, "time_ns", time.monotonic_ns)
    before = time.monotonic_ns() // 1_000_000
    book.ingress.ingest(AgentEvent("a", "t"))

    assert before <= book.ingress.take_all()[0].timestamp_ms <= time.monotonic_ns() // 1_000_000

    monkeypatch.setattr(time, "time_ns", lambda: -5)
    assert book.outcome(AgentEvent("a", "t")) == (ValueError, "time.time_ns() is before 1970")


# --- the intake -----------------------------------------------------------------------------------


class MyEvent(AgentEvent):
    pass


def half_made():
    return AgentEvent.__new__(AgentEvent)


odd_texts = st.text(max_size=4) | st.sampled_from(["a", "é", "\ud800", Text("a"), None, 1])
odd_payloads = NESTED | st.just("x" * 990) | st.just("x" * 2_000)
odd_events = (
    st.builds(AgentEvent, odd_texts, odd_texts, odd_payloads)
    | st.builds(ModuleEvent, odd_texts, odd_texts, odd_payloads)
    | st.builds(MyEvent, st.just("a"), st.just("t"))
)
sealed_events = persisted_events().map(lambda event: seal_persisted(event).event)
odd_envelopes = st.builds(
    EventEnvelope,
    st.text(max_size=3).map(lambda text: f"e-{text}") | st.sampled_from(["e-\ud800", "e-é", None, 3]),
    st.sampled_from(["agent", "module", "mod" + "ule", "other", None]),
    st.integers(-1, 5) | st.sampled_from([2**63 - 1, 2**63, 2**64, True, 1.0, None]),
    odd_events | events() | sealed_events | st.just("no event"),
)
anything = (
    odd_events | events() | sealed_events | odd_envelopes | st.sampled_from([None, "event", AgentEvent])
)


@given(st.lists(anything, max_size=25), st.sampled_from([0, 2**63 - 4]), st.booleans())
def test_both_take_in_the_same_events_and_raise_the_same_errors(items, last_seq, is_filtered):
    def keep(event):
        return event.event_type != "t"

    changes = {"filter": keep} if is_filtered else {}
    in_c = Book(core_ingress(), last_seq, **changes)
    in_python = Book(ChannelIngress, last_seq, **changes)

    for item in items:
        ours, theirs = in_c.outcome(item), in_python.outcome(item)
        assert ours == theirs

    assert in_c.facts() == in_python.facts()


@pytest.mark.parametrize("what", ["closed", "refusing", "elsewhere"])
def test_what_is_no_usual_state_is_left_to_python(what):
    book = Book(core_ingress())
    event = AgentEvent("a", "t")
    if what == "closed":
        book.ingress.is_closed = True
        with pytest.raises(trio.ClosedResourceError):
            book.ingress.ingest(event)
    elif what == "refusing":
        book.ingress.lost_from_now_on = "reason"
        assert book.ingress.ingest(event) == 1
        assert [reason for _, reason in book.taken] == ["reason"]
    else:
        raised = []

        def elsewhere():
            try:
                book.ingress.ingest(event)
            except RuntimeError as exc:
                raised.append(str(exc))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "belongs to the thread that opened it" in raised[0]


@pytest.mark.parametrize("batch_size", [2**61, 2**63, 10**30])
def test_limits_may_be_larger_than_the_core_counts(batch_size):
    limits = dict.fromkeys(
        ("batch_size", "retry_buffer_cap", "max_event_bytes", "max_pending_bytes"), batch_size
    )
    in_c, in_python = Book(core_ingress(), **limits), Book(ChannelIngress, **limits)

    assert in_c.outcome(AgentEvent("a", "t")) == in_python.outcome(AgentEvent("a", "t")) == 1
    assert in_c.ingress.capacity == in_python.ingress.capacity


@pytest.mark.parametrize("size", [0, 900, 2_000, 2**63 - 1, 2**70])
def test_a_sealed_event_is_as_large_as_it_says(size):
    sealed = seal_persisted(PersistedEvent("i", 1, 1, "a", AgentEvent("a", "t", {"x": 1}))).event
    object.__setattr__(sealed, "_size", size)
    in_c, in_python = Book(core_ingress()), Book(ChannelIngress)

    assert in_c.outcome(sealed) == in_python.outcome(sealed)


def test_an_event_that_was_never_filled_is_an_error():
    book = Book(core_ingress())

    with pytest.raises(AttributeError):
        book.ingress.ingest(half_made())


@pytest.mark.parametrize("answer", [True, 1, "yes", False, 0, "", None, ...])
def test_what_a_filter_answers_counts_as_in_python(answer):
    def judge(event):
        if answer is ...:
            raise LookupError("of the filter")
        return answer

    in_c, in_python = Book(core_ingress(), filter=judge), Book(ChannelIngress, filter=judge)

    assert in_c.outcome(AgentEvent("a", "t")) == in_python.outcome(AgentEvent("a", "t"))
    assert in_c.facts() == in_python.facts()


@pytest.mark.parametrize("payload", [{"a": 1}, (1,), "é" * 2_000])
def test_a_filter_is_asked_once(payload):
    asked = []
    book = Book(core_ingress(), filter=lambda event: asked.append(event) or True)

    book.outcome(AgentEvent("a", "t", payload))

    assert len(asked) == 1


def test_a_filter_that_closes_the_log_or_ingests():
    book = None

    def close(event):
        book.ingress.is_closed = True
        return True

    def again(event):
        if event.event_type == "t":
            book.ingress.ingest(AgentEvent("a", "inner"))
        return True

    book = Book(core_ingress(), filter=close)
    with pytest.raises(trio.ClosedResourceError):
        book.ingress.ingest(AgentEvent("a", "t"))
    assert book.ingress.last_seq == 0

    book = Book(core_ingress(), filter=again)
    assert book.ingress.ingest(AgentEvent("a", "t")) == 2
    assert [event.event.event_type for event in book.ingress.take_all()] == ["inner", "t"]


def test_what_look_raises_comes_out_and_the_event_is_there():
    book = Book(core_ingress())
    book.ingress.look = lambda: 1 / 0

    with pytest.raises(ZeroDivisionError):
        book.ingress.ingest(AgentEvent("a", "t"))

    assert book.ingress.last_seq == book.ingress.count == 1


def test_look_may_be_replaced_while_it_runs():
    # A cache goes on with itself after its function has returned; under AddressSanitizer that is noticed.
    book = Book(core_ingress())
    book.ingress.look = cache(lambda: setattr(book.ingress, "look", book.look))

    assert [book.ingress.ingest(AgentEvent("a", "t")) for _ in range(2)] == [1, 2]
    assert book.looks == [(2, book.ingress.size)]


def test_the_collector_may_ingest_at_any_allocation():
    """A finalizer that ingests, in the middle of an ingest, takes no seq twice and mixes nothing up."""
    book = Book(core_ingress(), retry_buffer_cap=100_000, batch_size=50_000)
    seqs = []

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            seqs.append(book.ingress.ingest(AgentEvent("gc", "t", {"run_id": "of the collector"})))

    thresholds = gc.get_threshold()
    gc.set_threshold(5, 2, 2)
    try:
        for number in range(3_000):
            Cycle()
            seqs.append(
                book.ingress.ingest(AgentEvent("a", "t", {"run_id": f"run-{number}", "list": [number]}))
            )
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()

    events = book.ingress.take_all()
    assert [event.seq for event in events] == list(range(1, len(events) + 1)) == sorted(seqs)
    assert len(events) > 5_000
    for event in events:
        of_collector = event.event.payload["run_id"] == "of the collector"
        assert (event.member_id == "gc") is of_collector
        assert event.event._scopes == scopes_in(event.event.payload)


def fields_of(stored):
    inner = stored.event
    actor = inner.agent_id if type(inner) is AgentEvent else inner.module
    return (
        *(type(stored), stored.id, stored.seq, stored.timestamp_ms, stored.member_id),
        *(type(inner), actor, inner.event_type, inner._text, inner._scopes, inner._size),
    )


@given(persisted_events(), st.sampled_from([None, "m", "\xe9"]), st.booleans())
def test_stored_events_are_copied_alike(event, member_id, is_read):
    stored = seal_persisted(attrs.evolve(event, member_id=member_id))
    if is_read:
        _ = stored.event.payload

    copy = core.reseal(stored)

    assert copy is None or copy is not stored
    assert fields_of(reseal(stored)) == fields_of(reseal_in_python(stored)) == fields_of(stored)
    assert reseal(stored) == stored
    if is_read and isinstance(stored.event.payload, (dict, list)):
        assert reseal(stored).event.payload is not stored.event.payload


@pytest.mark.parametrize(
    "odd",
    [
        PersistedEvent("id", 1, 1, None, AgentEvent("a", "t", [])),
        PersistedEvent.__new__(PersistedEvent),
        PersistedEvent("id", 1, 1, None, AgentEvent.__new__(AgentEvent)),
        PersistedEvent("id", 1, 1, None, None),
        AgentEvent("a", "t"),
        None,
    ],
)
def test_what_was_not_sealed_is_not_copied_by_the_core(odd):
    assert core.reseal(odd) is None


@given(persisted_events(), st.sampled_from([None, "m", "\xe9"]))
def test_columns_become_the_same_events(event, member_id):
    stored = seal_persisted(attrs.evolve(event, member_id=member_id))
    row = dict(zip(COLUMNS, columns_of(stored), strict=True))
    columns = tuple(row[name] for name in STORED)

    made = event_of(columns)

    assert fields_of(made) == fields_of(event_of_in_python(columns))
    assert made == attrs.evolve(event, member_id=member_id)


@pytest.mark.parametrize("columns", [(), (1,), (1, "id", 1, "kind", "a", "t", None, None)])
def test_what_are_no_columns_is_an_error(columns):
    with pytest.raises(TypeError):
        core.event_of(columns)


def test_nothing_is_left_behind():
    """References, taken and given back: of what goes in, of what is refused, and of the ingress itself."""
    payload, actor = {"run_id": "r" * 20, "x": [1]}, "agent" * len("x")
    event = AgentEvent(actor, "t", payload)
    envelope = EventEnvelope("e-1", "agent", 5, event)
    bad = AgentEvent(actor, "t", {"x": ()})
    watched = [payload, actor, event, envelope, bad, payload["run_id"], AgentEvent, PersistedEvent]

    def use():
        book = Book(core_ingress(), filter=lambda event: event is not bad or True)
        for item in (event, envelope, bad, None):
            book.outcome(item)
        book.facts()
        book.outcome(envelope)
        stored = seal_persisted(PersistedEvent("id", 5, 5, actor, event))
        assert core.event_of((5, "id", 5, 0, actor, "t", actor, core.reseal(stored).event._text)) == stored
        assert core.reseal(PersistedEvent("id", 5, 5, actor, bad)) is None

    use()
    gc.collect()
    before = [sys.getrefcount(item) for item in watched]
    for _ in range(200):
        use()
    gc.collect()

    assert [sys.getrefcount(item) for item in watched] == before


# --- rows -----------------------------------------------------------------------------------------


def rows_in_c(batch):
    db = apsw.Connection(":memory:")
    db.enable_load_extension(True)
    db.load_extension(core.__file__, "trio_eventlog_rows_init")
    columns = ", ".join((*COLUMNS[:-1], "checksum", COLUMNS[-1]))
    sql = f"SELECT {columns} FROM trio_eventlog_batch(?)"  # noqa: S608 - no values
    return db.execute(sql, (batch.number,)).fetchall()


LENGTHS = (0, 1, 31, 32, 255, 256, 65_535, 65_536)
TEXTS = [letter * length for length in LENGTHS for letter in ("a", "é")]
NUMBERS = (1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1)


@given(st.lists(persisted_events(), max_size=5), st.integers(0, 2**32 - 1))
@example([PersistedEvent(text, 1, 0, text, AgentEvent(text, text, text)) for text in TEXTS], 0)
@example([PersistedEvent("i", number, number, None, ModuleEvent("m", "t")) for number in NUMBERS], 7)
@example([PersistedEvent("a\0b", 1, 0, None, ModuleEvent("\0", "t\0", {"run_id": "\0", "step_id": 5}))], 1)
def test_sqlite_reads_the_rows_that_python_makes(stored, seed):
    sealed = [seal_persisted(event) for event in stored]
    batch = core.make_batch(sealed, seed)

    assert rows_in_c(batch) == [row_of(event, seed) for event in sealed]


def test_what_is_unusual_is_no_batch():
    sealed = seal_persisted(PersistedEvent("i", 1, 1, "a", AgentEvent("a", "t", {"x": 1})))
    scopeless = attrs.evolve(sealed)
    object.__setattr__(scopeless.event, "_scopes", None)

    assert core.make_batch([scopeless], 0) is None
    assert core.make_batch([attrs.evolve(sealed, event=AgentEvent("a", "t"))], 0) is None
    assert core.make_batch([attrs.evolve(sealed, seq=2**63)], 0) is None
    assert core.make_batch([attrs.evolve(sealed, id=Text("i"))], 0) is None
    assert core.make_batch([PersistedEvent.__new__(PersistedEvent)], 0) is None
    assert core.make_batch(["event"], 0) is None
    with pytest.raises(TypeError):
        core.make_batch(5, 0)


@given(st.lists(persisted_events(), min_size=1), st.integers(0, 3), st.integers(1, 9))
def test_events_are_counted_as_python_counts_them(stored, start, stop):
    sealed = [seal_persisted(event) for event in stored]
    if sealed[start:stop]:
        assert core.count_events(sealed, start, stop) == count_in_python(sealed[start:stop])
        assert core.count_events(tuple(sealed), start, stop) == count_in_python(sealed[start:stop])


def test_what_is_unusual_is_not_counted():
    sealed = seal_persisted(PersistedEvent("i", 1, 1, "a", AgentEvent("a", "t")))

    assert core.count_events([attrs.evolve(sealed, timestamp_ms=2**63)], 0, 1) is None
    assert core.count_events([attrs.evolve(sealed, member_id=Text("i"))], 0, 1) is None
    assert core.count_events([attrs.evolve(sealed, event=AgentEvent("a", Text("t")))], 0, 1) is None
    assert core.count_events([attrs.evolve(sealed, event=ModuleEvent(Text("m"), "t"))], 0, 1) is None
    assert core.count_events([PersistedEvent.__new__(PersistedEvent)], 0, 1) is None
    assert core.count_events(["event"], 0, 1) is None
    with pytest.raises(TypeError):
        core.count_events(5, 0, 1)


@pytest.mark.parametrize("number", [0, -1, 10**9, None, "1", 1.5])
def test_a_number_without_a_batch_is_an_error(number):
    db = apsw.Connection(":memory:")
    db.enable_load_extension(True)
    db.load_extension(core.__file__, "trio_eventlog_rows_init")

    with pytest.raises(apsw.MisuseError):
        db.execute("SELECT * FROM trio_eventlog_batch(?)", (number,)).fetchall()
    with pytest.raises(apsw.SQLError):
        db.execute("SELECT * FROM trio_eventlog_batch").fetchall()


def test_a_batch_ends_with_its_last_reference():
    batch = core.make_batch([seal_persisted(PersistedEvent("i", 1, 1, "a", AgentEvent("a", "t")))], 0)
    number = batch.number
    assert len(rows_in_c(batch)) == 1
    del batch

    db = apsw.Connection(":memory:")
    db.enable_load_extension(True)
    db.load_extension(core.__file__, "trio_eventlog_rows_init")
    with pytest.raises(apsw.MisuseError):
        db.execute("SELECT * FROM trio_eventlog_batch(?)", (number,)).fetchall()


def test_batches_are_made_and_read_by_several_threads():
    sealed = [
        seal_persisted(
            PersistedEvent(f"i-{seq}", seq, 1, "a", AgentEvent("a", "t", {"n": seq, "x": "é" * 50}))
        )
        for seq in range(1, 500)
    ]
    expected = [row_of(event, 3) for event in sealed]
    wrong = []

    def work():
        found = [rows_in_c(core.make_batch(sealed, 3)) for _ in range(20)]
        wrong.extend(rows for rows in found if rows != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


FORKS = """
import os, signal, threading
import apsw
from trio_eventlog._speedups import core

batch = core.make_batch([], 0)
# Looks the batch up, without end.
numbers = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n)"
sql = f"{numbers} SELECT 1 FROM n JOIN trio_eventlog_batch(? + 0 * n.i)"
dbs = [apsw.Connection(":memory:") for _ in range(2)]

def look_up(db):
    db.enable_load_extension(True)
    db.load_extension(core.__file__, "trio_eventlog_rows_init")
    try:
        db.execute(sql, (batch.number,)).fetchall()
    except apsw.InterruptError:
        pass

threads = [threading.Thread(target=look_up, args=(db,)) for db in dbs]
for thread in threads:
    thread.start()
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        core.make_batch([], 0)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        break
while any(thread.is_alive() for thread in threads):
    for db in dbs:
        db.interrupt()
    threads[0].join(0.01)
print(status)
"""


def test_a_child_does_not_wait_for_threads_of_its_parent():
    assert what_says(FORKS) == "0\n"


async def test_a_connection_that_cannot_read_batches_is_given_rows(tmp_path, monkeypatch):
    async def appended(name):
        async with SqliteStore.open(tmp_path / name) as store, open_event_log(store) as log:
            log.ingest(EventEnvelope("e-1", "agent", 5, AgentEvent("a", "t", {"run_id": "r"})))
            await log.flush()
            return await store.query(EventQuery(run_id="r"))

    assert load_core(apsw.Connection(":memory:")) is core
    expected = await appended("batches.db")

    # SQLite without extensions, a path that is not UTF-8, a file that is not there.
    assert load_core(SimpleNamespace()) is None
    monkeypatch.setattr(core, "__file__", "/\udcff.so")
    assert load_core(apsw.Connection(":memory:")) is None
    monkeypatch.setattr(core, "__file__", "/nowhere.so")
    assert load_core(apsw.Connection(":memory:")) is None
    assert await appended("rows.db") == expected


# --- a log ----------------------------------------------------------------------------------------

SUBINTERPRETER = '''
import _testcapi
import trio
from trio_eventlog import AgentEvent, open_event_log
from trio_eventlog.stores import MemoryStore

async def main():
    async with open_event_log(MemoryStore()) as log:
        print([log.ingest(AgentEvent(actor, "t")) for actor in ("a", "\\u00e9")])

# With some versions of Python, msgspec cannot be imported there.
elsewhere = """
try:
    import trio_eventlog
except ImportError:
    pass
else:
    assert not trio_eventlog.HAS_CORE
"""
assert _testcapi.run_in_subinterp(elsewhere) == 0
trio.run(main)
'''


def test_a_subinterpreter_uses_the_twins_and_leaves_the_core_alone():
    pytest.importorskip("_testcapi")

    assert what_says(SUBINTERPRETER) == "[1, 2]\n"


async def test_a_log_has_the_method_of_the_core_and_documents_it():
    async with open_event_log(MemoryStore()) as log:
        assert log.ingest.__self__ is log._ingress
        assert type(log).ingest.__doc__.startswith("Hand an event to the log.")
        assert type(log).ingest(log, AgentEvent("a", "t")) == 1
        assert partial(log.ingest, AgentEvent("a", "t"))() == 2
