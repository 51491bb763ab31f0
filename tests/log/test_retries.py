"""What happens after a failed append, and when there is no other: the promise L6."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from tests._helpers.fakes import (
    STEADY,
    Clock,
    FakeStore,
    Reports,
    burst,
    delay,
    fail,
    hang,
    numbered,
    take,
    take_and_fail,
)
from trio_eventlog import (
    EventsLost,
    PersistedEvent,
    RetryPolicy,
    StoreError,
    open_event_log,
)


async def test_failures_back_off_and_new_events_do_not_shorten_the_wait(autojump_clock: Clock) -> None:
    """Thousands of events against a store that is down cost as many appends as the waits allow."""
    store = FakeStore(otherwise=fail)
    reports = Reports()
    with pytest.raises(EventsLost):
        async with open_event_log(
            store, batch_size=1, retry=STEADY, on_failure=reports, grace_period=0
        ) as log:
            for n in range(6000):
                log.ingest(numbered(n))
                await trio.sleep(0.005)

    # 30 s: at 0 (the first event comes at 0), then after waits of 1, 2, 4, 8, 8 and 8 s.
    assert [append.started_at for append in store.appends] == pytest.approx([0, 1, 3, 7, 15, 23])
    assert [failure.retry_in for failure in reports.failures] == [1, 2, 4, 8, 8, 8]
    assert [failure.failures for failure in reports.failures] == [1, 2, 3, 4, 5, 6]


async def test_a_success_starts_the_waits_anew(autojump_clock: Clock) -> None:
    """The next failure waits for ``initial`` again."""
    store, reports = FakeStore([fail, fail, take, fail, take]), Reports()
    async with open_event_log(store, batch_size=1, retry=STEADY, on_failure=reports) as log:
        burst(log, 1)
        await trio.sleep(10)
        burst(log, 1)
        await trio.sleep(10)

    assert [failure.retry_in for failure in reports.failures] == [1, 2, 1]
    assert store.seqs == [1, 2]


async def test_a_flush_hurries_one_attempt_per_wait(autojump_clock: Clock) -> None:
    """The first flush ends the wait; more of them in the same wait do not."""
    store = FakeStore(otherwise=fail)
    async with open_event_log(
        store, batch_size=1, retry=RetryPolicy(initial=10, maximum=1000, jitter=0), on_failure=Reports()
    ) as log:
        burst(log, 1)
        await trio.sleep(1)
        assert len(store.appends) == 1
        for _ in range(5):
            with trio.move_on_after(1):
                await log.flush()
        # One attempt hurried in the wait of 10 s, one in the wait of 20 s that followed, and so on: each of
        # the five flushes met a new wait.
        assert [append.started_at for append in store.appends] == [0, 1, 2, 3, 4, 5]
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(log.flush)
            await trio.sleep(1)
            # Five at once: the first hurries, the others find its attempt under way or hurry the next wait.
            assert len(store.appends) - 6 <= 5
            nursery.cancel_scope.cancel(reason="test")
        store.otherwise = take


async def test_an_append_that_takes_too_long_is_cancelled_and_retried(autojump_clock: Clock) -> None:
    """It counts as failed with a TimeoutError, its outcome unknown."""
    store, reports = FakeStore([hang]), Reports()
    async with open_event_log(
        store, batch_size=1, append_timeout=30, retry=STEADY, on_failure=reports
    ) as log:
        burst(log, 1)
        await log.flush()
        assert trio.current_time() == 31

    (failure,) = reports.failures
    assert isinstance(failure.error, TimeoutError)
    assert "30 s" in str(failure.error)
    assert store.seqs == [1]


async def test_an_append_may_take_for_ever_if_told_so(autojump_clock: Clock) -> None:
    """``append_timeout=math.inf``."""
    store = FakeStore([delay(1e6)])
    async with open_event_log(store, batch_size=1, append_timeout=math.inf) as log:
        burst(log, 1)
        await log.flush()
        assert trio.current_time() == 1e6

    assert len(store.appends) == 1


async def test_a_lost_answer_stores_nothing_twice(autojump_clock: Clock) -> None:
    """The retry finds the events in the store under their own seqs: persisted, and no duplicates."""
    store = FakeStore([take_and_fail])
    async with open_event_log(store, on_failure=Reports()) as log:
        burst(log, 3)

    assert store.seqs == [1, 2, 3]
    assert (log.statistics().persisted, log.statistics().duplicate) == (3, 0)


async def test_closing_ends_a_wait_and_starts_over(autojump_clock: Clock) -> None:
    """A store that has recovered gets its events at once, however long the wait still is."""
    store = FakeStore([fail])
    retry = RetryPolicy(initial=1000, maximum=1000, jitter=0)
    async with open_event_log(store, batch_size=1, retry=retry, on_failure=Reports()) as log:
        burst(log, 1)
        await trio.sleep(10)

    assert store.seqs == [1]
    assert trio.current_time() == 10


async def test_the_drain_makes_sure_of_a_last_attempt(autojump_clock: Clock) -> None:
    """A store that recovers late in the grace period is not missed by a long wait."""
    store = FakeStore([fail, fail, fail])
    retry = RetryPolicy(initial=1, maximum=1000, multiplier=100, jitter=0)
    async with open_event_log(store, grace_period=5, retry=retry, on_failure=Reports()) as log:
        burst(log, 1)
        store.script = [fail, fail]

    # At once, after 1 s, and then not after another 100 s but 1 s before the end.
    assert [append.started_at for append in store.appends] == [0, 1, 4]
    assert store.seqs == [1]


@pytest.mark.parametrize("seconds", [4.91, 4.95, 4.99])
async def test_a_slow_append_is_not_cut_for_another_one(seconds: float, autojump_clock: Clock) -> None:
    """A healthy store that needs nearly the whole grace period loses nothing."""
    store = FakeStore(otherwise=delay(seconds))
    async with open_event_log(store, grace_period=5.0) as log:
        burst(log, 1)

    assert store.seqs == [1]
    assert len(store.appends) == 1


async def test_many_slow_appends_in_the_drain(autojump_clock: Clock) -> None:
    """They have all of the grace period."""
    store = FakeStore(otherwise=delay(0.45))
    store.max_batch = 10
    async with open_event_log(store, batch_size=200, grace_period=5.0) as log:
        burst(log, 110)

    assert len(store.held) == 110


async def test_failed_appends_leave_no_garbage(autojump_clock: Clock) -> None:
    """A batch is freed when it is settled, not when the collector of cycles comes round."""
    errors = []

    async def fresh_error(_store: FakeStore, _events: Sequence[PersistedEvent]) -> tuple[()]:
        error = StoreError("down")
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.collect()
    gc.disable()
    try:
        store = FakeStore([fresh_error] * 5)
        async with open_event_log(store, batch_size=1, retry=STEADY, on_failure=lambda _: None) as log:
            burst(log, 1)
            await log.flush()
        assert len(errors) == 5
        assert [error for error in errors if error() is not None] == []
    finally:
        gc.enable()


async def test_an_append_that_is_cut_off_leaves_no_garbage(autojump_clock: Clock) -> None:
    """The same for what ends with the log."""
    batches = []

    async def hang_with(_store: FakeStore, events: Sequence[PersistedEvent]) -> Any:
        batches.append(weakref.ref(events[0]))
        await trio.sleep_forever()

    gc.collect()
    gc.disable()
    try:
        store = FakeStore([hang_with])
        with pytest.raises(EventsLost):
            async with open_event_log(store, grace_period=1, on_failure=lambda _: None) as log:
                burst(log, 1)
        assert [batch for batch in batches if batch() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("drawn", [math.nan, None, -7.0, 2.0, ZeroDivisionError])
async def test_a_broken_source_of_randomness_costs_the_jitter_alone(
    drawn: Any, autojump_clock: Clock
) -> None:
    """Never the wait, and never the log."""

    def source() -> Any:
        if isinstance(drawn, type):
            raise drawn
        return drawn

    store = FakeStore(otherwise=fail)
    retry = RetryPolicy(initial=1.0, maximum=1.0, jitter=1.0, random=source)
    with pytest.raises(EventsLost):
        async with open_event_log(
            store, batch_size=1, retry=retry, grace_period=0, on_failure=Reports()
        ) as log:
            burst(log, 1)
            await trio.sleep(10.5)

    assert len(store.appends) == 11
