"""When a flush starts, and what ``flush`` waits for and raises: the promise L5."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests._helpers.fakes import (
    Clock,
    FakeStore,
    Reports,
    burst,
    delay,
    fail,
    hang,
    numbered,
    take,
)
from trio_eventlog import (
    EventLog,
    EventsLost,
    LossReason,
    open_event_log,
)


async def test_a_full_batch_goes_at_once(autojump_clock: Clock) -> None:
    """At the size, not at the interval; and what has gathered goes out together."""
    store = FakeStore()
    async with open_event_log(store, batch_size=10, flush_interval=60) as log:
        burst(log, 9)
        await trio.testing.wait_all_tasks_blocked()
        assert store.appends == []
        burst(log, 4)
        await trio.testing.wait_all_tasks_blocked()
        assert [len(append.seqs) for append in store.appends] == [13]
        assert trio.current_time() == 0


async def test_the_interval_counts_from_the_oldest_event(autojump_clock: Clock) -> None:
    """Later events do not postpone it, and each batch starts anew."""
    store = FakeStore()
    async with open_event_log(store, flush_interval=1.0) as log:
        await trio.sleep(5)
        for n in range(4):
            log.ingest(numbered(n))
            await trio.sleep(0.4)
        await trio.sleep(10)

    assert [(append.started_at, len(append.seqs)) for append in store.appends] == [
        (6.0, 3),
        (pytest.approx(7.2), 1),
    ]


class Schedulings(trio.abc.Instrument):
    """Counts how often each task runs."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count."""
        self.count[task.name] = self.count.get(task.name, 0) + 1


async def test_an_idle_log_wakes_nobody_and_a_busy_one_twice_a_batch(autojump_clock: Clock) -> None:
    """The flush task sleeps while nothing comes, and is not woken for every event."""
    store, seen = FakeStore(), Schedulings()

    def writer_steps() -> int:
        return sum(
            count for name, count in seen.count.items() if name.endswith(("Writer.run", "Reporter.run"))
        )

    async with open_event_log(store, batch_size=100) as log:
        trio.lowlevel.add_instrument(seen)
        await trio.sleep(0.1)
        # The writer and the reporter start and go to sleep, once.
        assert writer_steps() == 2
        await trio.sleep(3600)
        assert writer_steps() == 2
        for n in range(99):
            log.ingest(numbered(n))
            await trio.lowlevel.checkpoint()
        # For the first of them, to set its alarm.
        assert writer_steps() == 3
        log.ingest(numbered(99))
        await trio.sleep(0.1)
        # Woken, and back from the one checkpoint of the store.
        assert writer_steps() == 5
        await trio.sleep(3600)
        assert writer_steps() == 5
        trio.lowlevel.remove_instrument(seen)

    assert [len(append.seqs) for append in store.appends] == [100]


async def test_flush_waits_for_what_was_ingested_before_it(autojump_clock: Clock) -> None:
    """It starts an append at once, and does not wait for what comes later."""
    store = FakeStore(otherwise=delay(1.0))
    async with open_event_log(store, flush_interval=60) as log:
        burst(log, 3)
        await log.flush()
        assert trio.current_time() == 1
        assert store.seqs == [1, 2, 3]


async def test_flush_through_a_seq(autojump_clock: Clock) -> None:
    """It returns once that seq is durable, though later events are still on their way."""
    store = FakeStore([take, hang])
    async with open_event_log(store, batch_size=2, on_failure=Reports(), grace_period=1) as log:
        burst(log, 2)
        await trio.testing.wait_all_tasks_blocked()
        burst(log, 2)
        await log.flush(through=2)
        assert store.seqs == [1, 2]
        with pytest.raises(ValueError, match="through"):
            await log.flush(through=5)
        with pytest.raises(ValueError, match="through"):
            await log.flush(through=-1)
        with pytest.raises(TypeError, match="through"):
            await log.flush(through="2")  # type: ignore[arg-type]

    # The hung append was cancelled early enough for another one.
    assert store.seqs == [1, 2, 3, 4]


async def test_flush_raises_losses_once(autojump_clock: Clock) -> None:
    """The first flush after a loss raises it, the next does not; one that went on meanwhile does."""
    store = FakeStore()
    async with open_event_log(store, batch_size=2, retry_buffer_cap=4, on_failure=Reports()) as log:
        burst(log, 10)
        with pytest.raises(EventsLost) as caught:
            await log.flush()
        await log.flush()

    assert (caught.value.count, caught.value.first_seq, caught.value.last_seq) == (6, 1, 6)
    assert caught.value.by_reason == {LossReason.CAP: 6}
    assert "6 events lost (seq 1 to 6: 6 cap)" in str(caught.value)


async def test_flushes_at_the_same_time_both_learn_of_a_loss(autojump_clock: Clock) -> None:
    """Neither is told that its events are durable when they are not."""
    store, told = FakeStore([delay(1.0, fail)]), []

    async def flush() -> None:
        try:
            await log.flush()
        except EventsLost as exc:
            told.append(exc.count)

    async with open_event_log(store, batch_size=2, retry_buffer_cap=4, on_failure=Reports()) as log:
        burst(log, 4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            nursery.start_soon(flush)
            await trio.testing.wait_all_tasks_blocked()
            burst(log, 2)

    assert told == [2, 2]


async def test_a_flush_that_begins_before_another_has_raised_a_loss(autojump_clock: Clock) -> None:
    """A task that waited for a flush and has not run since the loss has raised nothing by then."""
    store = FakeStore(otherwise=fail)
    raised: list[str] = []

    async def flush(name: str) -> None:
        with pytest.raises(EventsLost) as caught:
            await log.flush(1)
        assert (caught.value.count, caught.value.first_seq) == (1, 1)
        raised.append(name)

    with pytest.raises(EventsLost):
        async with open_event_log(
            store, retry_buffer_cap=1, batch_size=1, grace_period=0, on_failure=Reports()
        ) as log:
            burst(log, 1)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush, "first")
                await trio.testing.wait_all_tasks_blocked()
                burst(log, 1)  # the cap takes the first event
                assert raised == []
                await flush("second")
            await log.flush(1)

    assert sorted(raised) == ["first", "second"]


async def test_flush_through_old_events_says_nothing_of_newer_losses(autojump_clock: Clock) -> None:
    """Only losses up to the mark are raised; the rest waits for a flush that concerns it."""
    store = FakeStore([delay(1.0)])
    async with open_event_log(store, batch_size=2, retry_buffer_cap=2, on_failure=Reports()) as log:
        burst(log, 2)
        await trio.testing.wait_all_tasks_blocked()
        burst(log, 6)
        await log.flush(through=2)
        with pytest.raises(EventsLost) as caught:
            await log.flush(through=4)
        assert (caught.value.first_seq, caught.value.last_seq) == (3, 4)
        with pytest.raises(EventsLost) as caught:
            await log.flush()
        assert (caught.value.first_seq, caught.value.last_seq) == (5, 6)


async def test_a_cancelled_flush_consumes_nothing(autojump_clock: Clock) -> None:
    """The losses it would have raised are raised by the next."""
    store = FakeStore([delay(10.0)])
    async with open_event_log(store, batch_size=2, retry_buffer_cap=2, on_failure=Reports()) as log:
        burst(log, 2)
        await trio.testing.wait_all_tasks_blocked()
        burst(log, 3)
        with trio.move_on_after(1):
            await log.flush()
        with pytest.raises(EventsLost) as caught:
            await log.flush()
        assert caught.value.count == 1


async def test_a_flush_that_waits_gets_the_result_of_the_drain(autojump_clock: Clock) -> None:
    """A task outside the block is told what became of its events."""
    store, told = FakeStore(otherwise=fail), []
    logs: list[EventLog] = []

    async def flush() -> None:
        with pytest.raises(EventsLost) as caught:
            await logs[0].flush()
        told.append(caught.value.count)

    async with trio.open_nursery() as nursery:
        with pytest.raises(EventsLost):
            async with open_event_log(store, on_failure=Reports()) as log:
                logs.append(log)
                burst(log, 3)
                nursery.start_soon(flush)
                await trio.testing.wait_all_tasks_blocked()

    assert told == [3]


async def test_a_flush_cancelled_at_the_moment_of_a_loss_does_not_swallow_it(autojump_clock: Clock) -> None:
    """Either it raises the loss, or the next flush does."""
    for _ in range(20):
        store, told = FakeStore([delay(5.0)]), 0
        async with open_event_log(
            store, batch_size=1, retry_buffer_cap=1, append_timeout=5.0, on_failure=Reports()
        ) as log:
            burst(log, 1)
            await trio.testing.wait_all_tasks_blocked()
            burst(log, 1)
            with trio.move_on_after(5.0):
                try:
                    await log.flush()
                except EventsLost as exc:
                    told += exc.count
            try:
                await log.flush()
            except EventsLost as exc:
                told += exc.count

        assert told == log.statistics().lost_total


async def test_many_flushes_at_once(autojump_clock: Clock) -> None:
    """Each is settled, and none looks at all the others."""
    store, done = FakeStore([delay(1.0)]), 0

    async def flush() -> None:
        nonlocal done
        await log.flush()
        done += 1

    async with open_event_log(store, batch_size=1) as log, trio.open_nursery() as nursery:
        burst(log, 1)
        for _ in range(5000):
            nursery.start_soon(flush)

    assert done == 5000
