"""Samples of the numbers of a log."""

from types import MappingProxyType

import trio

from trio_eventlog import AgentEvent, LogState, LogStatistics, RetryPolicy, StoreError, open_event_log
from trio_eventlog.console._sampler import MAX_SAMPLES, TICK, TICKS_PER_SAMPLE, Sampler
from trio_eventlog.stores import MemoryStore


def numbers(**given):
    fields = dict.fromkeys(
        (
            *("ingested", "recovered", "filtered", "persisted", "duplicate", "pending", "pending_bytes"),
            *("spilled", "spill_bytes", "appends", "failures", "last_assigned_seq", "last_durable_seq"),
            *("peak_pending", "peak_batch"),
        ),
        0,
    )
    return LogStatistics(**{**fields, "lost": MappingProxyType({}), "state": LogState.OPEN, **given})


class Log:
    """Numbers that a test sets."""

    def __init__(self):
        self.now = numbers()
        self.clock = 1000

    def sampler(self):
        return Sampler(lambda: self.now, lambda: self.clock)


def test_how_long_an_event_waits():
    log = Log()
    sampler = log.sampler()
    sampler.look(0.0)
    log.now = numbers(last_assigned_seq=5, pending=5)
    sampler.look(0.1)
    log.now = numbers(last_assigned_seq=9, pending=9)
    sampler.look(0.2)
    log.now = numbers(last_assigned_seq=9, last_durable_seq=5, pending=4)
    sampler.look(0.4)
    assert sampler._flush_ms == 300
    log.now = numbers(last_assigned_seq=9, last_durable_seq=9)
    sampler.look(0.5)
    assert [sample["flush_ms"] for sample in sampler.samples] == [None]
    sampler.look(0.6)
    assert [sample["flush_ms"] for sample in sampler.samples] == [None, 300]
    for place in range(TICKS_PER_SAMPLE):
        sampler.look(0.7 + place / 10)
    # Said once.
    assert sampler.samples[-1]["flush_ms"] is None


def test_since_when_the_store_fails():
    log = Log()
    sampler = log.sampler()
    sampler.look(0.0)
    log.now = numbers(pending=1, last_assigned_seq=1, failures=1)
    sampler.look(0.1)
    log.clock = 2000
    log.now = numbers(pending=3, last_assigned_seq=3, failures=2)
    sampler.look(0.2)
    assert sampler.failing_since_ms == 1000
    log.now = numbers(pending=3, last_assigned_seq=4, last_durable_seq=1, failures=2)
    sampler.look(0.3)
    assert sampler.failing_since_ms is None
    # An event that was rejected is no failure of the store.
    log.now = numbers(last_assigned_seq=4, last_durable_seq=1, failures=3)
    sampler.look(0.4)
    assert sampler.failing_since_ms is None


def test_samples_are_bounded():
    log = Log()
    sampler = log.sampler()
    for tick in range(3 * MAX_SAMPLES * TICKS_PER_SAMPLE):
        log.now = numbers(last_assigned_seq=tick, pending=tick)
        sampler.look(tick * TICK)
    assert len(sampler.samples) == MAX_SAMPLES
    assert len(sampler._probes) < 2000


class DownStore(MemoryStore):
    is_down = True

    async def append_batch(self, events):
        if self.is_down:
            raise StoreError("down")
        return await super().append_batch(events)


async def test_of_a_log_whose_store_fails_and_recovers(autojump_clock):
    store = DownStore()
    retry = RetryPolicy(initial=0.3, maximum=0.3, jitter=0)
    async with (
        open_event_log(store, flush_interval=0.1, retry=retry, on_failure=lambda report: None) as log,
        trio.open_nursery() as nursery,
    ):
        sampler = Sampler(log.statistics)
        nursery.start_soon(sampler.run)
        await trio.sleep(1)
        log.ingest(AgentEvent("w", "t"))
        await trio.sleep(3)
        assert sampler.failing_since_ms is not None
        store.is_down = False
        await trio.sleep(3)
        assert sampler.failing_since_ms is None
        waited = [sample["flush_ms"] for sample in sampler.samples if sample["flush_ms"] is not None]
        assert len(waited) == 1
        assert 2900 <= waited[0] <= 3500
        assert sampler.samples[-1]["pending"] == 0
        nursery.cancel_scope.cancel()
