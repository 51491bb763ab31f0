"""The scheduler: when to append, and when to try again. Tables for the rules, properties for the promises.

Time is an argument everywhere, so that a test goes through days in no time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_eventlog import RetryPolicy
from trio_eventlog._scheduler import Scheduler

NOW: Final = -math.inf
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


def fail_times(subject: Scheduler, count: int, now: float = 0.0) -> float:
    """Offer everything and fail, ``count`` times at the same time. Returns the last wait."""
    wait = math.nan
    for _ in range(count):
        subject.taken(0)
        wait = subject.failed(now)
    return wait


moments = st.floats(0, 1e6)
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
    [(0, NEVER), (1, 105.0), (3, 105.0), (4, NOW), (5, NOW), (1000, NOW)],
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

    assert NOW == subject.due(1, awaited=False)


def test_idle_is_never_due() -> None:
    """A log that nothing waits in wakes nobody, be it new, just successful, failing or closing (L5)."""
    fresh, done, failing, closing = scheduler(), scheduler(), scheduler(), scheduler()
    done.arrived(0.0)
    done.taken(0)
    done.succeeded()
    failing.taken(0)
    failing.failed(0.0)
    closing.close(5.0)

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
    subject.taken(0)
    assert subject.is_idle
    subject.succeeded()
    subject.arrived(7.0)

    assert 17.0 == subject.due(1, awaited=False)


def test_interval_runs_during_an_append() -> None:
    """An event that came while an append was under way has waited since then."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(0)
    subject.arrived(2.0)
    subject.succeeded()

    assert 12.0 == subject.due(1, awaited=False)


def test_flush_does_not_wait_for_the_interval() -> None:
    """Events that somebody waits for are due at once."""
    subject = scheduler()
    subject.arrived(0.0)

    assert NOW == subject.due(1, awaited=True)


def test_what_has_gathered_goes_out_together() -> None:
    """What did not fit the append is due as soon as that is done, and after it all is as before (L5)."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(left=1)
    subject.succeeded()
    assert NOW == subject.due(1, awaited=False)
    subject.taken(left=0)
    subject.succeeded()
    subject.arrived(4.0)

    assert 14.0 == subject.due(1, awaited=False)


# --- waits after failures -------------------------------------------------------------------------


def test_waits_grow_up_to_the_maximum() -> None:
    """Each failure in a row doubles the wait, up to the maximum; a success starts over (L6)."""
    subject = scheduler(retry=steady(initial=1.0, maximum=8.0))
    waits = []
    for _ in range(6):
        subject.taken(0)
        waits.append(subject.failed(100.0))
        assert 100.0 + waits[-1] == subject.due(1, awaited=False)
    assert 6 == subject.failures
    subject.taken(0)
    subject.succeeded()
    assert 0 == subject.failures
    subject.arrived(100.0)
    assert 110.0 == subject.due(1, awaited=False)
    subject.taken(0)
    waits.append(subject.failed(100.0))

    assert [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 1.0] == waits


@pytest.mark.parametrize("waiting", [1, 4, 4096])
@pytest.mark.parametrize("awaited", [False, True])
def test_wait_holds_for_everything(waiting: int, awaited: bool) -> None:
    """Neither a full batch, nor a part that is left of one, nor a waiting flush shortens a wait (L6)."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(left=10)
    subject.failed(1.0)
    subject.arrived(1.5)

    assert 2.0 == subject.due(waiting, awaited=awaited)


def test_hurry_once_per_wait() -> None:
    """A flush cuts a wait short once; if that attempt fails, the next wait can be cut short again (L6)."""
    subject = scheduler()
    fail_times(subject, 3, now=10.0)
    assert 14.0 == subject.due(1, awaited=True)
    subject.hurry()
    assert NOW == subject.due(1, awaited=True)
    subject.taken(0)
    assert 8.0 == subject.failed(11.0)
    assert 19.0 == subject.due(1, awaited=True)
    subject.hurry()

    assert NOW == subject.due(1, awaited=True)


def test_hurry_without_a_wait_is_nothing() -> None:
    """It neither makes anything due nor counts for the next wait."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.hurry()
    assert 10.0 == subject.due(1, awaited=False)
    subject.taken(0)
    subject.hurry()
    subject.failed(0.0)
    assert 1.0 == subject.due(1, awaited=False)
    subject.hurry()

    assert NOW == subject.due(1, awaited=False)


@attrs.define
class CountedPolicy:
    """Counts the waits that were begun."""

    waits: int = 0

    def random(self) -> float:
        self.waits += 1
        return 0.0


def test_hurry_cannot_be_doubled_by_arrivals() -> None:
    """Once cut short, a wait stays cut short until its attempt, and a second flush starts no other."""
    counted = CountedPolicy()
    subject = scheduler(retry=RetryPolicy(initial=1.0, maximum=8.0, random=counted.random))
    fail_times(subject, 1)
    for moment in range(1, 20):
        subject.hurry()
        subject.arrived(moment / 100)
        assert NOW == subject.due(moment, awaited=True)

    assert 1 == counted.waits


def test_rest_of_a_rejected_batch_goes_at_once() -> None:
    """Events that the store did not name go again without a wait (L12)."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(0)
    subject.rejected(left=2)
    assert NOW == subject.due(2, awaited=False)
    subject.taken(0)
    subject.succeeded()
    subject.arrived(5.0)

    assert 15.0 == subject.due(1, awaited=False)


def test_rejection_of_a_whole_batch_hurries_nobody() -> None:
    """If nothing is left of the batch, the next event waits for its interval as ever (L5)."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(0)
    subject.rejected(left=0)
    subject.arrived(5.0)

    assert 15.0 == subject.due(1, awaited=False)


def test_rejection_leaves_the_remainder_of_what_had_gathered_due() -> None:
    """Events that did not fit the rejected batch are due as if it had been stored."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.taken(left=1)
    subject.rejected(left=0)

    assert NOW == subject.due(1, awaited=False)


def test_rejection_after_a_failure_ends_the_wait() -> None:
    """The store has answered: what is left does not wait for the end of an earlier wait."""
    subject = scheduler()
    fail_times(subject, 4, now=0.0)
    subject.taken(0)
    subject.rejected(left=1)

    assert NOW == subject.due(1, awaited=False)


steps = st.one_of(
    st.tuples(st.just("arrive"), st.floats(0, 5)),
    st.tuples(st.just("ask"), st.floats(0, 5)),
    st.tuples(st.just("await"), st.floats(0, 5)),
    st.tuples(st.just("hurry"), st.floats(0, 5)),
    st.tuples(st.just("store"), st.floats(0, 5)),
    st.tuples(st.just("fail"), st.floats(0, 5)),
    st.tuples(st.just("fail"), st.floats(0, 5)),
    st.tuples(st.just("reject"), st.floats(0, 5)),
)


@given(policies, st.integers(1, 20), st.floats(1e-3, 100), st.lists(steps, max_size=60))
def test_nothing_but_a_flush_shortens_a_wait(
    policy: RetryPolicy, batch_size: int, flush_interval: float, program: list[tuple[str, float]]
) -> None:
    """Between a failure and the next append nothing is due before the wait is over, however many events
    come and whoever waits for them; a flush ends a wait once (L6)."""
    subject = Scheduler(batch_size=batch_size, flush_interval=flush_interval, retry=policy)
    now = 0.0
    waiting = 0
    in_flight = 0
    retry_at: float | None = None
    is_hurried = False

    def check(*, awaited: bool) -> float:
        due = subject.due(waiting, awaited=awaited)
        if waiting and retry_at is not None:
            assert (NOW if is_hurried else retry_at) == pytest.approx(due)
        return due

    for step, passed in program:
        now += passed
        if step == "arrive":
            waiting += 1
            if subject.is_idle:
                subject.arrived(now)
            check(awaited=False)
        elif step == "ask":
            check(awaited=False)
        elif step == "await":
            check(awaited=True)
        elif step == "hurry":
            subject.hurry()
            is_hurried = retry_at is not None
        elif waiting and (due := check(awaited=True)) < NEVER:
            # Not before it may: then the log appends.
            now = max(now, due)
            retry_at = None
            is_hurried = False
            in_flight = (waiting + 1) // 2
            subject.taken(waiting - in_flight)
            if step == "store":
                waiting -= in_flight
                subject.succeeded()
            elif step == "reject":
                waiting -= 1
                subject.rejected(in_flight - 1)
            else:
                delay = subject.failed(now)
                assert 0 <= delay <= policy.maximum
                retry_at = now + delay
            check(awaited=False)


# --- closing --------------------------------------------------------------------------------------


def test_closing_starts_over_at_once() -> None:
    """The end of the body ends a long wait, and the waits are short again (L6)."""
    subject = scheduler(retry=steady(initial=1.0, maximum=64.0))
    fail_times(subject, 6, now=0.0)
    assert 32.0 == subject.due(1, awaited=False)
    subject.close(100.0)
    assert NOW == subject.due(1, awaited=False)
    subject.taken(0)

    assert 1.0 == subject.failed(0.0)
    assert 1.0 == subject.due(1, awaited=False)


def test_closing_does_not_wait_for_a_full_batch() -> None:
    """After the body has ended there is nothing to gather."""
    subject = scheduler()
    subject.arrived(0.0)
    subject.close(5.0)

    assert NOW == subject.due(1, awaited=False)


def attempts_while_closing(subject: Scheduler, start: float, deadline: float, append: float) -> list[float]:
    """When the log appends, from ``start`` on, to a store that takes ``append`` seconds to fail."""
    subject.close(deadline)
    attempts = []
    now = start
    while (due := subject.due(1, awaited=False)) < NEVER:
        now = max(now, due)
        attempts.append(now)
        subject.taken(0)
        now += append
        subject.failed(now)
    assert NEVER == subject.failed(now)
    assert NEVER == subject.due(1, awaited=True)
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
        # A store that takes time to fail: the last attempt still gets the time of a first wait.
        (1.0, 10.0, 0.5, [0.0, 1.5, 4.0, 9.0]),
        # A wait that would end at 7, when less than that is left: the attempt comes at 6 instead.
        (2.0, 8.0, 0.5, [0.0, 2.5, 6.0]),
        # A first attempt that takes all the time.
        (1.0, 10.0, 10.0, [0.0]),
        (1.0, 10.0, 20.0, [0.0]),
    ],
)
def test_last_attempt(initial: float, grace: float, append: float, expected: list[float]) -> None:
    """The last attempt comes shortly before the deadline, and after it there is none (L6)."""
    subject = scheduler(retry=steady(initial=initial, maximum=60.0))

    assert expected == pytest.approx(attempts_while_closing(subject, 0.0, grace, append))


@given(policies, moments, st.floats(1e-3, 1e3), st.floats(1e-3, 10))
@example(steady(initial=1e-3), 1e6, 1e-3, 1e-3)
def test_last_attempt_is_before_the_deadline(
    policy: RetryPolicy, start: float, grace: float, append: float
) -> None:
    """Whatever the policy and the store's pace, every attempt begins before the deadline; and unless the
    store used all the time up, the last one leaves no more than the shortest wait unused (L6)."""
    deadline = start + grace
    attempts = attempts_while_closing(scheduler(retry=policy), start, deadline, append)

    assert start == attempts[0]
    assert attempts[-1] < deadline
    assert sorted(attempts) == attempts
    failed_at = attempts[-1] + append
    assert deadline - failed_at <= policy.initial + 1e-6


def test_flush_during_the_drain_does_not_use_up_the_last_attempt() -> None:
    """If a flush lets the last attempt come early, another one follows just before the deadline (L6)."""
    subject = scheduler(retry=steady(initial=1.0, maximum=60.0))
    subject.close(10.0)
    fail_times(subject, 4, now=3.0)
    assert 9.0 == subject.due(1, awaited=True)
    subject.hurry()
    assert NOW == subject.due(1, awaited=True)
    subject.taken(0)
    assert 5.0 == subject.failed(4.0)
    assert 9.0 == subject.due(1, awaited=True)
    subject.taken(0)

    assert NEVER == subject.failed(9.0)


def test_success_while_closing_grants_the_next_batch_a_last_attempt() -> None:
    """The last attempt of one batch is not that of the next."""
    subject = scheduler(retry=steady(initial=1.0, maximum=60.0))
    subject.close(10.0)
    fail_times(subject, 4, now=4.0)
    assert 9.0 == subject.due(2, awaited=False)
    subject.taken(1)
    subject.succeeded()
    assert NOW == subject.due(1, awaited=False)
    subject.taken(0)
    subject.failed(9.2)

    assert pytest.approx(9.6) == subject.due(1, awaited=False)


def test_no_attempt_at_the_deadline() -> None:
    """A failure when the time is over is the last, also if no attempt was declared so before."""
    subject = scheduler()
    subject.close(10.0)
    subject.taken(0)

    assert NEVER == subject.failed(10.0)
    assert NEVER == subject.due(1, awaited=True)


# --- whole runs -----------------------------------------------------------------------------------


@attrs.define
class Run:
    """What became of a simulated log."""

    appends: list[tuple[float, int]] = attrs.Factory(list)
    """When each append began, and how many events it offered."""
    waiting: int = 0
    oldest: float | None = None


def simulate(
    subject: Scheduler, arrivals: list[float], until: float, takes_batch: Callable[[int], bool]
) -> Run:
    """The log's loop without a log: each event arrives at its time, and every append is over at once.

    Args:
      subject: the scheduler.
      arrivals: when events come, ascending.
      until: when the run ends.
      takes_batch: whether the store takes the n-th append, counted from 0.
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
            continue
        run.appends.append((now, run.waiting))
        subject.taken(0)
        if takes_batch(len(run.appends) - 1):
            subject.succeeded()
            run.waiting = 0
        else:
            subject.failed(now)


def test_dead_store_is_left_alone() -> None:
    """6,000 events against a store that is down for an hour: a handful of calls, and new events cost none.

    The ancestor of this log made 5,971 calls here.
    """
    arrivals = [number / 100 for number in range(6_000)]
    subject = scheduler(batch_size=64, flush_interval=1.0, retry=RetryPolicy(random=lambda: 0.0))
    run = simulate(subject, arrivals, until=60.0, takes_batch=lambda _: False)

    # At 0.64 s the first batch is full; the waits from there: 0.1, 0.2, 0.4 ... 25.6 s, then 30 s.
    expected = [0.63 + wait for wait in itertools.accumulate([0.1 * 2**n for n in range(9)], initial=0.0)]
    assert expected == pytest.approx([moment for moment, _ in run.appends])
    assert 10 == len(run.appends)
    assert sum(offered for _, offered in run.appends) < 3 * len(arrivals)


@given(
    policy=policies,
    events=st.integers(1, 2_000),
    length=st.floats(1, 1e4),
    batch_size=st.integers(1, 64),
    flush_interval=st.floats(1e-3, 10),
)
def test_calls_of_a_dead_store_are_bounded(
    policy: RetryPolicy, events: int, length: float, batch_size: int, flush_interval: float
) -> None:
    """How often a store is called that always fails depends on the policy and the time alone: no more than
    the shortest waits that the policy allows fit into it, however many events come (L6)."""
    policy = attrs.evolve(policy, jitter=min(policy.jitter, 0.5), initial=max(policy.initial, 0.1))
    subject = Scheduler(batch_size=batch_size, flush_interval=flush_interval, retry=policy)
    arrivals = [length * number / events for number in range(events)]
    run = simulate(subject, arrivals, until=length, takes_batch=lambda _: False)

    bound = 1
    wait, total = policy.initial, 0.0
    while (total := total + wait * (1 - policy.jitter)) <= length * (1 + 1e-9):
        bound += 1
        wait = min(policy.maximum, wait * policy.multiplier)
    assert len(run.appends) <= bound


@given(
    arrivals=st.lists(st.floats(0, 100), min_size=1, max_size=60).map(sorted),
    batch_size=st.integers(1, 8),
    flush_interval=st.floats(1e-3, 20),
    takes=st.lists(st.booleans(), max_size=20),
)
def test_no_event_waits_longer_than_it_must(
    arrivals: list[float], batch_size: int, flush_interval: float, takes: list[bool]
) -> None:
    """Against a store that fails now and then, all is stored in the end; and against one that works,
    every event within the interval, in batches of at most ``batch_size``, none of them early (L5)."""
    subject = scheduler(batch_size=batch_size, flush_interval=flush_interval)
    run = simulate(subject, arrivals, until=1e4, takes_batch=lambda n: takes[n] if n < len(takes) else True)
    assert 0 == run.waiting
    assert len(run.appends) <= len(arrivals) + takes.count(False)
    if all(takes):
        left = list(arrivals)
        for moment, offered in run.appends:
            batch, left = left[:offered], left[offered:]
            assert offered <= batch_size
            assert (batch[-1] if offered == batch_size else batch[0] + flush_interval) == moment
        assert [] == left
