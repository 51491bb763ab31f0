"""Bounds in bytes: of one event, and of what waits. The policy is that of the bounds in events."""

from __future__ import annotations

import subprocess
import sys
from collections import deque

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import FakeStore, Reports, delay, fail
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    LossReason,
    ModuleEvent,
    PersistedEvent,
    RetryPolicy,
    open_event_log,
)
from trio_eventlog._model._events import sealed
from trio_eventlog._model._payload import encode_payload
from trio_eventlog._model._sealed import seal_persisted, size_of
from trio_eventlog.testing import payloads

STEADY = RetryPolicy(jitter=0)
OVERHEAD = len("0" * 36 + "worker" + "step" + '""')


def weighing(size: int) -> AgentEvent:
    """An event of ``size`` bytes, once it has an id."""
    return AgentEvent("worker", "step", "x" * (size - OVERHEAD))


# --- one event ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "size"),
    [
        (AgentEvent("a", "t"), 1 + 1 + 1 + len("null")),
        (ModuleEvent("module", "t", {"x": [1, 2]}), 1 + 6 + 1 + len('{"x":[1,2]}')),
        (AgentEvent("ä", "€", "😀"), 1 + 2 + 3 + 4 + 2),
    ],
)
def test_what_an_event_weighs(event, size):
    assert size_of(seal_persisted(PersistedEvent("i", 1, 2, None, event))) == size


def test_what_an_event_weighs_is_the_same_for_text_and_bytes():
    """A store may hand out its payload as text."""
    event = seal_persisted(PersistedEvent("ï", 1, 2, "a", AgentEvent("a", "t", "ä😀")))
    as_bytes = size_of(event)
    text = event.event._text.decode()
    event = attrs.evolve(event, event=sealed(AgentEvent, "a", "t", text))

    assert size_of(event) == as_bytes


async def test_an_event_that_is_too_large_is_refused_where_it_is_made(autojump_clock):
    store = FakeStore()
    async with open_event_log(store, max_event_bytes=1000) as log:
        assert log.ingest(weighing(1000)) == 1
        with pytest.raises(
            CodecError, match="event: the event has 1,001 bytes; max_event_bytes is 1,000"
        ) as caught:
            log.ingest(weighing(1001))
        assert caught.value.path == "event"
        with pytest.raises(CodecError, match="event"):
            await log.ingest_wait(weighing(1001))
        with pytest.raises(CodecError, match="event"):
            log.ingest(EventEnvelope.of(AgentEvent("a", "t"), event_id="é" * 500))
        assert log.ingest(weighing(100)) == 2

    assert store.seqs == [1, 2]


async def test_a_mebibyte_is_the_default(autojump_clock):
    async with open_event_log(FakeStore()) as log:
        log.ingest(weighing(2**20))
        with pytest.raises(CodecError, match="max_event_bytes is 1,048,576"):
            log.ingest(weighing(2**20 + 1))


def doubled(levels, value, pair):
    """Small in memory, and not as JSON."""
    for _ in range(levels):
        value = pair(value)
    return value


LISTS = doubled(100, ["x"], lambda one: [one, one])
TOO_LARGE = {
    "lists": LISTS,
    "dicts": doubled(100, {}, lambda one: {"a": one, "b": one}),
    "both": doubled(100, [], lambda one: [one, {"a": one}]),
    "texts": ["x" * 10**6] * 10**5,
    "keys": [{"k" * 10**6: 1}] * 10**5,
    "texts of a dict": dict.fromkeys(map(str, range(10**5)), "x" * 10**6),
    "before a flaw": [LISTS, float("nan")],
    "before a lone surrogate": {"a": LISTS, "b": "\ud800"},
}


@pytest.mark.parametrize("payload", TOO_LARGE)
async def test_what_is_too_large_is_refused_before_all_of_it_is_made(payload, autojump_clock):
    """Made in full, each of these would take minutes, or all memory."""
    async with open_event_log(FakeStore()) as log:
        for event in (AgentEvent("a", "t", TOO_LARGE[payload]), ModuleEvent("é", "t", TOO_LARGE[payload])):
            with pytest.raises(CodecError, match="more than 1,048,576 bytes; max_event_bytes is") as caught:
                log.ingest(event)
            assert caught.value.path == "event"
            with pytest.raises(CodecError, match="max_event_bytes"):
                await log.ingest_wait(EventEnvelope.of(event))


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"a": LISTS, 1: 2}, "payload"),
        ([float("nan"), LISTS], r"payload\[0\]"),
        ({"a": (), "b": LISTS}, "payload.a"),
    ],
    ids=["a key", "nan", "a tuple"],
)
async def test_a_flaw_is_found_before_the_rest_is_walked(payload, path, autojump_clock):
    async with open_event_log(FakeStore()) as log:
        with pytest.raises(CodecError, match=f"^{path}: "):
            log.ingest(AgentEvent("a", "t", payload))


@given(payload=payloads())
def test_what_fits_is_never_refused(payload):
    """What is counted beforehand is less than what comes of it."""
    size = len(encode_payload(payload))

    assert encode_payload(payload, max_bytes=size) == encode_payload(payload)


@pytest.mark.parametrize("payload", [None, 1, "", "x" * 65, [], [[]], [1, 2], {}, {"": 1}, {"x" * 65: [{}]}])
def test_nor_is_the_smallest_of_its_kind(payload):
    assert encode_payload(payload, max_bytes=len(encode_payload(payload)))


async def test_a_name_that_is_no_text_is_not_shown_in_full(autojump_clock):
    async with open_event_log(FakeStore()) as log:
        with pytest.raises(CodecError, match=r"^agent_id: expected a string, got list \(\[") as caught:
            log.ingest(AgentEvent(LISTS, "t"))
        assert len(str(caught.value)) < 200


# --- what waits -----------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(OVERHEAD, 500), max_size=40),
    cap=st.integers(1, 20),
    max_bytes=st.integers(500, 3000),
)
def test_the_newest_that_fit_both_bounds_survive(sizes, cap, max_bytes):
    """L3, for a burst that meets a store which is down."""
    kept: deque[tuple[int, int]] = deque()
    for seq, size in enumerate(sizes, 1):
        kept.append((seq, size))
        while len(kept) > cap or sum(weight for _, weight in kept) > max_bytes:
            kept.popleft()
    store, reports = FakeStore(otherwise=fail), Reports()

    async def main() -> None:
        async with open_event_log(
            store,
            batch_size=1,
            retry_buffer_cap=cap,
            max_pending_bytes=max_bytes,
            max_event_bytes=500,
            on_failure=reports,
            retry=STEADY,
        ) as log:
            for size in sizes:
                log.ingest(weighing(size))
            books = log.statistics()
            # What the channel holds is waiting, and counted.
            assert books.pending_bytes == sum(size for _, size in kept)
            store.otherwise = FakeStore().otherwise

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert store.seqs == [seq for seq, _ in kept]
    assert sorted(reports.lost + store.seqs) == list(range(1, len(sizes) + 1))
    assert {loss.reason for loss in reports.losses} <= {LossReason.CAP}


@given(sizes=st.lists(st.integers(OVERHEAD, 1000), max_size=60), pause=st.sampled_from([0.0, 0.01]))
def test_a_store_that_is_well_loses_nothing_that_fits(sizes, pause):
    """Few events can be many bytes: they do not wait for a full batch, nor for the end of the interval."""
    store, reports = FakeStore(), Reports()

    async def main() -> None:
        async with open_event_log(
            store, max_pending_bytes=4000, max_event_bytes=1000, on_failure=reports
        ) as log:
            for size in sizes:
                log.ingest(weighing(size))
                await trio.sleep(pause)
                assert log.statistics().pending_bytes <= 4000

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert store.seqs == list(range(1, len(sizes) + 1))
    assert not reports.losses


async def test_an_eighth_of_the_bytes_makes_a_batch(autojump_clock):
    """Long before the interval is over."""
    store = FakeStore()
    async with open_event_log(store, flush_interval=60, max_pending_bytes=8000, max_event_bytes=1000) as log:
        log.ingest(weighing(999))
        await trio.sleep(1)
        assert not store.appends
        log.ingest(weighing(100))
        await trio.testing.wait_all_tasks_blocked()
        assert store.seqs == [1, 2]


async def test_ingest_wait_waits_for_bytes(autojump_clock):
    """First come, first served: who would fit waits behind who does not."""
    store, reports = FakeStore(otherwise=delay(1.0)), Reports()
    done: list[str] = []

    async def put(name: str, size: int) -> None:
        await log.ingest_wait(weighing(size))
        done.append(name)

    async with open_event_log(store, max_pending_bytes=1000, max_event_bytes=1000, on_failure=reports) as log:
        async with trio.open_nursery() as nursery:
            for name, size in [("first", 600), ("large", 900), ("small", 90)]:
                nursery.start_soon(put, name, size)
                await trio.testing.wait_all_tasks_blocked()
            assert done == ["first"]
            assert log.statistics().pending_bytes == 600

    sizes = [size_of(event) for event in store.held.values()]
    assert sizes == [600, 900, 90]
    assert not reports.losses


async def test_a_batch_in_flight_is_beside_the_bound(autojump_clock):
    """As with the cap; when it fails, the bound cuts its oldest."""
    store, reports = FakeStore([delay(1.0, then=fail)], otherwise=fail), Reports()
    async with open_event_log(
        store,
        batch_size=2,
        max_pending_bytes=1000,
        max_event_bytes=1000,
        on_failure=reports,
        retry=STEADY,
    ) as log:
        for _ in range(2):
            log.ingest(weighing(400))
        await trio.sleep(0.5)
        for _ in range(2):
            log.ingest(weighing(450))
        await trio.sleep(0.1)
        assert log.statistics().pending_bytes == 1700
        await trio.sleep(0.5)
        assert log.statistics().pending_bytes == 900
        store.otherwise = FakeStore().otherwise

    assert store.seqs == [3, 4]
    assert reports.lost == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_event_bytes": 0}, ValueError, "max_event_bytes: expected 1 or more bytes, got 0"),
        (
            {"max_event_bytes": 1.5},
            TypeError,
            "max_event_bytes: expected a number of bytes as an int, got float",
        ),
        (
            {"max_pending_bytes": 0},
            ValueError,
            "max_pending_bytes: expected 1 or more bytes, got 0",
        ),
        ({"max_pending_bytes": True}, TypeError, "max_pending_bytes: expected a number of bytes"),
        (
            {"max_pending_bytes": 1000},
            ValueError,
            r"max_event_bytes: expected at most max_pending_bytes \(1000\), got 1048576",
        ),
    ],
)
async def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        async with open_event_log(FakeStore(), **arguments):
            pytest.fail("it was opened")


# --- one process ----------------------------------------------------------------------------------

FORKING = """
import os, sys, trio
from trio_eventlog import AgentEvent, EventQuery, open_event_log
from trio_eventlog.stores import SqliteStore

async def refused(call, *arguments):
    try:
        result = call(*arguments)
        if hasattr(result, "__await__"):
            await result
    except RuntimeError as exc:
        return "forked" in str(exc)
    return False

async def main():
    async with SqliteStore.open("log.db") as store, open_event_log(store, spill="log.spill") as log:
        event = AgentEvent("worker", "step")
        log.ingest(event)
        child = os.fork()
        if child == 0:
            try:
                found = [await refused(*call) for call in (
                    (log.ingest, event), (log.ingest_wait, event), (log.flush,), (log.query,),
                )]
                os._exit(0 if found == [True] * 4 else 1)
            except BaseException as exc:
                print(repr(exc), file=sys.stderr, flush=True)
                os._exit(2)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.ingest(event)
        await log.flush()
        print(status, len(await log.query(EventQuery())))

import warnings
warnings.simplefilter("ignore", DeprecationWarning)
trio.run(main)
"""


def test_a_child_by_fork_is_told_that_the_log_is_not_its_own(tmp_path):
    """And the log of its parent goes on."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.stdout, done.stderr) == ("0 2\n", "")


async def test_the_low_mark_of_the_spill_file_counts_bytes_too(tmp_path):
    """Few large events are as good a reason to write as many small ones, and nothing is lost of them."""
    store, reports = FakeStore(otherwise=fail), Reports()
    async with open_event_log(
        store,
        max_pending_bytes=4000,
        max_event_bytes=1000,
        spill=tmp_path / "log.spill",
        on_failure=reports,
        retry=RetryPolicy(initial=0.01, jitter=0),
    ) as log:
        for _ in range(40):
            await log.ingest_wait(weighing(1000))
        books = log.statistics()
        assert books.spilled >= 35
        # What waits, and beside it a batch that was read from the file: as much, or one event more.
        assert books.pending_bytes <= 4000 + 5000
        store.otherwise = FakeStore().otherwise

    assert store.seqs == list(range(1, 41))
    assert not reports.losses
