"""The scheduler: when to append, and when to try again. Tables for the rules, properties for the promises.

Time is an argument everywhere, so that a test goes through hours in no time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog import RetryPolicy
from trio_eventlog._engine._scheduler import Scheduler

AT_ONCE: Final = -math.inf
NEVER: Final = math.inf

# --- helpers --------------------------------------------------------------------------------------


def steady(*, initial: float = 1.0, maximum: float = 8.0) -> RetryPolicy:
    """A policy whose waits are known: each twice as long as the one before."""
    return RetryPolicy(initial=initial, maximum=maximum, multiplier=2.0, jitter=0.0)


def scheduler(
    *, batch_size: int = 4, flush_interval: float = 10.0, retry: RetryPolicy | None = None
) -> Scheduler:
    """A scheduler with round numbers."""
    return Scheduler(
        batch_size=batch_size, flush_interval=flush_interval, retry=steady() if retry is None else retry
    )


def fail(subject: Scheduler, *, times: int = 1, now: float = 0.0) -> float:
    """Offer everything and fail, so many times and in no time. Returns the last wait."""
    wait = math.nan
    for _ in range(times):
        subject.taken(0, now)
        wait = subject.failed(now)
    return wait


def store(subject: Scheduler, *, left: int = 0, now: float = 0.0) -> None:
    """Offer all but ``left`` and succeed, in no time."""
    subject.taken(left, now)
    subject.succeeded(now)


policies = st.builds(
    lambda initial, factor, multiplier, jitter, seed: RetryPolicy(
        initial=initial,
        maximum=initial * factor,
        multiplier=multiplier,
        jitter=jitter,
        random=seed.random,
    ),
    initial=st.floats(1e-3, 60),
    factor=st.floats(1, 1e3),
    multiplier=st.floats(1, 10),
    jitter=st.floats(0, 1),
    seed=st.randoms(use_true_random=False),
)


# --- size or interval, whichever is first ---------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [(0, NEVER), (1, 105.0), (3, 105.0), (4, AT_ONCE), (5, AT_ONCE), (1000, AT_ONCE)],
)
def test_size_or_interval(waiting: int, expected: float) -> None:
    """A full batch is due at once; less of it when the oldest event has waited for the interval (L5)."""
    subject = scheduler(batch_size=4, flush_interval=5.0)
    subject.arrived(100.0)

    assert expected == subject.due(waiting, awaited=False)


def test_batch_size_one() -> None:
    """With batches of one, every event is due at once."""
    subject = scheduler(batch_size=1)
    subject.arrived(3.0)

    assert AT_ONCE == subject.due(1, awaited=False)


def test_idle_is_never_due() -> None:
    """A log that nothing waits in wakes nobody, be it new, just successful, failing or closing (L5)."""
    fresh, done, failing, closing = scheduler(), scheduler(), scheduler(), scheduler()
    done.arrived(0.0)
    store(done)
    fail(failing)
    closing.close(0.0, 5.0)

    assert [NEVER] * 8 == [
        subject.due(0, awaited=awaited)
        for subject in (fresh, done, failing, closing)
        for awaited in (False, True)
    ]


def test_interval_starts_with_the_first_event_after_a_batch() -> None:
    """What came before the last batch went is no longer waited for."""
    subject = scheduler()
    assert subject.is_idle
    subject.arrived(0.0)
    assert not subject.is_idle
    store(subject)
    assert subject.is_idle
    subject.arrived(7.0)

    assert 17.0 == subject.due(1, awaited=False)


def test_interval_runs_during_an_append() -> None:
    """An event that came while an append was under way has waited since then."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(0, 1.0)
    subject.arrived(2.0)
    subject.succeeded(2.0)

    assert 12.0 == subject.due(1, awaited=False)


def test_flush_does_not_wait_for_the_interval() -> None:
    """Events that somebody waits for are due at once."""
    subject = scheduler()
    subject.arrived(0.0)

    assert AT_ONCE == subject.due(1, awaited=True)


def test_what_has_gathered_goes_out_together() -> None:
    """What did not fit the append is due as soon as that is done, and after it all is as before (L5)."""
    subject = scheduler()
    subject.arrived(0.0)
    store(subject, left=1)
    assert AT_ONCE == subject.due(1, awaited=False)
    store(subject)
    subject.arrived(4.0)

    assert 14.0 == subject.due(1, awaited=False)


# --- rejections -----------------------------------------------------------------------------------


def test_rest_of_a_rejected_batch_goes_at_once() -> None:
    """Events that the store did not name go again without a wait, and only they (L12)."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(0, 0.0)
    subject.rejected(left=2)
    assert AT_ONCE == subject.due(2, awaited=False)
    store(subject)
    subject.arrived(5.0)

    assert 15.0 == subject.due(1, awaited=False)


def test_rejection_of_a_whole_batch_hurries_nobody() -> None:
    """If nothing is left of the batch, the next event waits for its interval as ever (L5)."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(0, 0.0)
    subject.rejected(left=0)
    subject.arrived(5.0)

    assert 15.0 == subject.due(1, awaited=False)


def test_rejection_leaves_what_had_gathered_due() -> None:
    """Events that did not fit the rejected batch are due as if it had been stored."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(1, 0.0)
    subject.rejected(left=0)

    assert AT_ONCE == subject.due(1, awaited=False)


def test_rejection_ends_the_waits() -> None:
    """The store has answered: what is left does not wait for the end of an earlier wait."""
    subject = scheduler()
    fail(subject, times=4)
    subject.taken(0, 8.0)
    subject.rejected(left=1)

    assert AT_ONCE == subject.due(1, awaited=False)


# --- waits after failures -------------------------------------------------------------------------


def test_waits_grow_up_to_the_maximum() -> None:
    """Each failure in a row doubles the wait, up to the maximum; a success starts over (L6)."""
    subject = scheduler(retry=steady(initial=1.0, maximum=8.0))
    waits = []
    for _ in range(6):
        waits.append(fail(subject, now=100.0))
        assert 100.0 + waits[-1] == subject.due(1, awaited=False)
    assert 6 == subject.failures
    store(subject, now=200.0)
    assert 0 == subject.failures
    subject.arrived(200.0)
    assert 210.0 == subject.due(1, awaited=False)
    waits.append(fail(subject, now=210.0))

    assert [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 1.0] == waits


@pytest.mark.parametrize("waiting", [1, 4, 4096])
@pytest.mark.parametrize("awaited", [False, True])
def test_wait_holds_for_everything(waiting: int, awaited: bool) -> None:
    """Neither a full batch, nor a part that is left of one, nor a waiting flush shortens a wait (L6)."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(10, 0.5)
    subject.failed(1.0)
    subject.arrived(1.5)

    assert 2.0 == subject.due(waiting, awaited=awaited)


def test_hurry_ends_a_wait() -> None:
    """A flush cuts a wait short. The wait after that attempt is as long as ever, and can be cut short
    again (L6).
    """
    subject = scheduler()
    fail(subject, times=3, now=10.0)
    assert 14.0 == subject.due(1, awaited=True)
    subject.hurry()
    assert AT_ONCE == subject.due(1, awaited=True)
    assert 8.0 == fail(subject, now=11.0)
    assert 19.0 == subject.due(1, awaited=True)
    subject.hurry()

    assert AT_ONCE == subject.due(1, awaited=True)


def test_hurry_without_a_wait_is_nothing() -> None:
    """It neither makes anything due nor counts for the next wait."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.hurry()
    assert 10.0 == subject.due(1, awaited=False)
    subject.taken(0, 1.0)
    subject.hurry()
    subject.failed(1.0)
    assert 2.0 == subject.due(1, awaited=False)
    subject.hurry()

    assert AT_ONCE == subject.due(1, awaited=False)


@given(
    policy=policies,
    batch_size=st.integers(1, 20),
    flush_interval=st.floats(1e-3, 100),
    program=st.lists(
        st.tuples(
            st.sampled_from(
                ["arrive", "arrive", "arrive", "flush", "hurry", "store", "reject one", "fail", "fail"]
            ),
            st.sampled_from([0.0, 0.01, 0.3, 2.0]),
            st.sampled_from([1, 3, 100]),
        ),
        max_size=40,
    ),
)
def test_nothing_but_a_flush_shortens_a_wait(
    policy: RetryPolicy, batch_size: int, flush_interval: float, program: list[tuple[str, float, int]]
) -> None:
    """Between a failure and the next append nothing is due before the wait is over, however many events
    come and whoever waits for them, unless somebody hurries (L6).
    """
    subject = Scheduler(batch_size=batch_size, flush_interval=flush_interval, retry=policy)
    now, waiting = 0.0, 0
    retry_at: float | None = None  # None: no wait
    for step, passed, events in program:
        now += passed
        if step == "arrive":
            waiting += events
            if subject.is_idle:
                subject.arrived(now)
        elif step == "hurry":
            subject.hurry()
            retry_at = None if retry_at is None else AT_ONCE
        elif step != "flush" and waiting:
            # The log never appends before it is due.
            now = max(now, subject.due(waiting, awaited=True))
            offered = min(waiting, events)
            subject.taken(waiting - offered, now)
            retry_at = None
            if step == "store":
                waiting -= offered
                subject.succeeded(now)
            elif step == "reject one":
                waiting -= 1
                subject.rejected(offered - 1)
            else:
                wait = subject.failed(now)
                assert 0 <= wait <= policy.maximum * (1 + 1e-9)
                retry_at = now + wait

        due = subject.due(waiting, awaited=step == "flush")
        if not waiting:
            assert NEVER == due
        elif retry_at is not None:
            assert pytest.approx(retry_at) == due


# --- an append that takes long --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started", "timeout", "expected"),
    [
        (0.0, 3.0, 3.0),
        # 9 is when the last attempt is to start: a hanging call must not prevent it.
        (0.0, 30.0, 9.0),
        (0.0, NEVER, 9.0),
        (8.0, 30.0, 9.0),
        # The last attempt itself.
        (9.0, 0.5, 9.5),
        (9.0, NEVER, NEVER),
    ],
)
def test_append_is_cut_for_a_last_attempt(started: float, timeout: float, expected: float) -> None:
    """An append has its timeout, and while the log closes only until the last attempt must start (L6)."""
    subject = scheduler(retry=steady(initial=1.0))
    store(subject)
    subject.taken(0, started)
    assert started + timeout == subject.append_until(timeout)
    subject.close(0.0, 10.0)

    assert expected == subject.append_until(timeout)


@pytest.mark.parametrize(("took", "expected"), [(None, 30.0), (1.5, 30.0), (1.0, 9.0), (0.0, 9.0)])
def test_slow_store_is_left_alone(took: float | None, expected: float) -> None:
    """An append is cut for another one only if the store has shown that it can do it in that time (L3)."""
    subject = scheduler(retry=steady(initial=1.0))
    if took is not None:
        subject.taken(0, -10.0)
        subject.succeeded(-10.0 + took)
    subject.taken(0, 0.0)
    subject.close(0.0, 10.0)

    assert expected == subject.append_until(30.0)


# --- closing --------------------------------------------------------------------------------------


def test_closing_starts_over_at_once() -> None:
    """The end of the body ends a long wait, and the waits are short again (L6)."""
    subject = scheduler(retry=steady(initial=1.0, maximum=64.0))
    fail(subject, times=6)
    assert 32.0 == subject.due(1, awaited=False)
    subject.close(3.0, 100.0)

    assert AT_ONCE == subject.due(1, awaited=False)
    assert 1.0 == fail(subject, now=3.0)
    assert 4.0 == subject.due(1, awaited=False)


def test_closing_does_not_wait_for_a_full_batch() -> None:
    """After the body has ended there is nothing to gather."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.close(0.0, 5.0)

    assert AT_ONCE == subject.due(1, awaited=False)


def attempts_of_a_drain(
    subject: Scheduler, start: float, deadline: float, append: float, flushes: Iterable[bool] = ()
) -> list[float]:
    """When the log appends, from ``start`` on, to a store that fails after ``append`` seconds, or when it is
    cancelled, and that was quick before. ``flushes`` says which waits are cut short half way.
    """
    store(subject, now=start)
    subject.close(start, deadline)
    hurries = iter(flushes)
    attempts: list[float] = []
    now = start
    while (due := subject.due(1, awaited=False)) < NEVER:
        if now < due and next(hurries, False):
            due = (now + due) / 2
            subject.hurry()
            assert AT_ONCE == subject.due(1, awaited=True)
        now = max(now, due)
        attempts.append(now)
        assert len(attempts) < 10_000, "this scheduler never waits"
        subject.taken(0, now)
        now = min(now + append, subject.append_until(NEVER))
        subject.failed(now)
    # It stays over, whoever asks.
    subject.hurry()
    assert NEVER == subject.due(1, awaited=True)
    return attempts


@pytest.mark.parametrize(
    ("initial", "grace", "append", "expected"),
    [
        # The defaults: the wait after 3.1 would end at 6.3.
        (0.1, 5.0, 0.0, [0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 4.9]),
        # A wait longer than all the time there is: half of it.
        (60.0, 5.0, 0.0, [0.0, 2.5]),
        # A store that takes time to fail.
        (1.0, 10.0, 0.75, [0.0, 1.75, 4.5, 9.0]),
        # One that hangs: cut short for another attempt.
        (1.0, 10.0, NEVER, [0.0, 9.0]),
        # The wait would end at 7.0 + 0.5, which leaves the store too little.
        (2.0, 9.0, 0.5, [0.0, 2.5, 7.0]),
        # No time at all.
        (1.0, 0.0, 0.0, [0.0]),
    ],
)
def test_last_attempt(initial: float, grace: float, append: float, expected: list[float]) -> None:
    """The last attempt comes shortly before the deadline, and after it there is none (L6)."""
    subject = scheduler(retry=steady(initial=initial, maximum=60.0))

    assert pytest.approx(expected) == attempts_of_a_drain(subject, 0.0, grace, append)


@given(
    policy=policies,
    start=st.floats(0, 1e6),
    grace=st.floats(1e-3, 1e2),
    append=st.floats(0.1, 100) | st.just(NEVER),
    flushes=st.lists(st.booleans(), max_size=5),
)
def test_last_attempt_of_any_drain(
    policy: RetryPolicy, start: float, grace: float, append: float, flushes: list[bool]
) -> None:
    """Whatever the policy, the store and other flushes do, the last attempt begins so long before the
    deadline as the first wait is, or half of the time there is, and there is one only (L6).
    """
    deadline = start + grace
    attempts = attempts_of_a_drain(scheduler(retry=policy), start, deadline, append, flushes)

    assert start == attempts[0]
    assert all(earlier < later for earlier, later in itertools.pairwise(attempts))
    assert attempts[-1] < deadline
    assert min(policy.initial, grace / 2) == pytest.approx(deadline - attempts[-1], abs=1e-8)


def test_flush_during_the_drain_does_not_use_up_the_last_attempt() -> None:
    """If a flush lets an attempt come early, another one follows just before the deadline (L6)."""
    subject = scheduler(retry=steady(initial=1.0, maximum=60.0))
    subject.close(0.0, 10.0)
    fail(subject, times=4, now=3.0)
    assert 9.0 == subject.due(1, awaited=True)
    subject.hurry()
    assert AT_ONCE == subject.due(1, awaited=True)
    assert 5.0 == fail(subject, now=4.0)
    assert 9.0 == subject.due(1, awaited=True)

    assert NEVER == fail(subject, now=9.0)


def test_overdue_last_attempt_comes_at_once() -> None:
    """An append that could not be cut in time leaves less for the last attempt, but leaves it one."""
    subject = scheduler(retry=steady(initial=1.0))
    subject.close(0.0, 10.0)
    subject.taken(0, 2.0)

    assert 0.0 == subject.failed(9.75)
    assert 9.75 == subject.due(1, awaited=False)


@pytest.mark.parametrize("now", [10.0, 12.0])
def test_no_attempt_after_the_deadline(now: float) -> None:
    """A failure when the time is over is the last, also of an attempt that was not meant to be (L6)."""
    subject = scheduler(retry=steady(initial=1.0))
    subject.close(0.0, 10.0)
    subject.taken(0, 2.0)

    assert NEVER == subject.failed(now)
    assert NEVER == subject.due(1, awaited=True)


def test_what_is_left_after_the_last_attempt_gets_one_too() -> None:
    """If the store takes the last attempt but not all fitted it, the next batch is tried at once."""
    subject = scheduler(retry=steady(initial=1.0, maximum=60.0))
    subject.close(0.0, 10.0)
    fail(subject, times=4, now=4.0)
    assert 9.0 == subject.due(2, awaited=False)
    store(subject, left=1, now=9.0)
    assert AT_ONCE == subject.due(1, awaited=False)

    assert NEVER == fail(subject, now=9.5)


# --- whole runs -----------------------------------------------------------------------------------


@attrs.define
class Run:
    """What became of a simulated log."""

    appends: list[tuple[float, int]] = attrs.Factory(list)
    """When each append began, and how many events it offered."""

    waiting: int = 0
    """Events that were not stored in the end."""


def simulate(
    subject: Scheduler, arrivals: list[float], until: float, store_takes: Callable[[int], bool]
) -> Run:
    """The loop of the log without a log: events arrive at their times, and every append is over at once.

    Args:
      subject: the scheduler.
      arrivals: when events come, ascending.
      until: when the run ends.
      store_takes: whether the store takes the n-th append, counted from 0.
    """
    run = Run()
    coming = iter([*arrivals, NEVER])
    next_arrival = next(coming)
    now = 0.0
    while True:
        due = max(now, subject.due(run.waiting, awaited=False))
        now = min(due, next_arrival)
        if now > until:
            return run
        if next_arrival <= due:
            run.waiting += 1
            if subject.is_idle:
                subject.arrived(now)
            next_arrival = next(coming)
        else:
            run.appends.append((now, run.waiting))
            assert len(run.appends) < 10_000, "this scheduler never waits"
            subject.taken(0, now)
            if store_takes(len(run.appends) - 1):
                subject.succeeded(now)
                run.waiting = 0
            else:
                subject.failed(now)


def test_dead_store_is_left_alone() -> None:
    """6,000 events in a minute for a store that is down: ten calls, and new events cost none (L6).

    The ancestor of this log made 5,971 calls here, and offered 16.3 million events.
    """
    arrivals = [number / 100 for number in range(6_000)]
    subject = scheduler(batch_size=64, flush_interval=1.0, retry=RetryPolicy(random=lambda: 0.0))
    run = simulate(subject, arrivals, until=60.0, store_takes=lambda _: False)

    # The first batch is full at 0.63 s; the waits from there are 0.1, 0.2, 0.4 ... 25.6 s.
    starts = [0.63 + wait for wait in itertools.accumulate([0.1 * 2**n for n in range(9)], initial=0.0)]
    assert pytest.approx(starts) == [moment for moment, _ in run.appends]
    assert sum(offered for _, offered in run.appends) < 3 * len(arrivals)


@given(
    policy=st.builds(
        lambda initial, multiplier, jitter, drawn: RetryPolicy(
            initial=initial, maximum=1e9, multiplier=multiplier, jitter=jitter, random=lambda: drawn
        ),
        initial=st.floats(0.01, 10),
        multiplier=st.floats(1.5, 10),
        jitter=st.floats(0, 0.9),
        drawn=st.floats(0, 1, exclude_max=True),
    ),
    events=st.integers(1, 2_000),
    length=st.floats(1, 1e6),
    batch_size=st.integers(1, 64),
)
def test_calls_of_a_dead_store_grow_with_the_logarithm_of_time(
    policy: RetryPolicy, events: int, length: float, batch_size: int
) -> None:
    """How often a store is called that is down depends on the policy and the time, never on what comes: as
    long as the waits grow, on no more than the logarithm of the time (L6).
    """
    subject = scheduler(batch_size=batch_size, flush_interval=0.5, retry=policy)
    arrivals = [length * number / events for number in range(events)]
    run = simulate(subject, arrivals, until=length, store_takes=lambda _: False)

    # The n-th wait is at least shortest * multiplier ** (n - 1), and even the last is over by the end.
    shortest = policy.initial * (1 - policy.jitter)
    waits = math.floor(math.log(length / shortest, policy.multiplier) + 1e-9) + 1
    assert len(run.appends) <= 1 + max(0, waits)


@given(
    arrivals=st.lists(st.integers(0, 400).map(lambda quarters: quarters / 4), min_size=1, max_size=60),
    batch_size=st.integers(1, 8),
    flush_interval=st.sampled_from([0.25, 1.0, 10.0]),
    outcomes=st.lists(st.booleans(), max_size=20),
)
def test_all_is_stored_in_time(
    arrivals: list[float], batch_size: int, flush_interval: float, outcomes: list[bool]
) -> None:
    """A store that fails now and then gets all in the end. One that works gets every event when its batch is
    full or the oldest of it has waited for the interval, not earlier and not later (L5).
    """
    left = sorted(arrivals)
    subject = scheduler(batch_size=batch_size, flush_interval=flush_interval)
    run = simulate(subject, left, until=1e4, store_takes=lambda number: all(outcomes[number : number + 1]))
    assert 0 == run.waiting
    if all(outcomes):
        for moment, offered in run.appends:
            batch, left = left[:offered], left[offered:]
            full_at = batch[batch_size - 1] if offered >= batch_size else NEVER
            assert min(full_at, batch[0] + flush_interval) == moment
            assert all(moment <= arrival for arrival in left)
        assert [] == left
