"""Looking for an order of tasks in which a program fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from random import Random
from typing import Final, TypeVarTuple

import attrs
import trio
from hypothesis import HealthCheck, Phase, Verbosity, find, settings
from hypothesis import strategies as st
from hypothesis.database import ExampleDatabase
from hypothesis.errors import Flaky, NoSuchExample, Unsatisfiable
from hypothesis.strategies import SearchStrategy

from trio_eventlog.testing._arguments import check_function, check_integer
from trio_eventlog.testing._explored_run import Run, kind_of, run_on
from trio_eventlog.testing._schedules import Departure, Plan, ScheduleError, parsed, written

PosArgs = TypeVarTuple("PosArgs")

DEFAULT_MAX_EXAMPLES: Final = 100

_SEED_BITS: Final = 64


def explore(
    main: Callable[[*PosArgs], Awaitable[object]],
    *args: *PosArgs,
    max_examples: int = DEFAULT_MAX_EXAMPLES,
    seed: int | None = None,
    database: ExampleDatabase | None = None,
) -> None:
    """Run ``main(*args)`` again and again, each time with its tasks in another order, until it fails.

    Each run has virtual time: a clock that jumps to the next deadline whenever all tasks wait. In each round
    of its loop, Trio runs every task that is ready once, in an order that it does not promise. Here
    Hypothesis draws the order. Once the program fails, it looks for an order that departs from the plain one
    (the oldest task first) in as few places as possible.

    The program must do the same again in the same order: it makes what it needs anew in each run, and does
    not depend on real time, on chance without a seed, on the order of a set, or on what comes over a network.
    It is run twice in the plain order to find out, and again with each failure.

    What it does with :func:`trio.to_thread.run_sync` is done at once, in Trio's own thread. So stores with
    threads can be explored, but not what threads do at the same time; and nothing in a thread may wait for
    the loop.

    ``main`` has to come to an end: a loop that goes on for ever is not noticed. To end one after some virtual
    time, use :func:`trio.move_on_after`.

    While it runs, the scheduler of Trio is replaced for the whole process. Other Trio runs, in other threads,
    are not affected, except that they cannot be explored.

    Args:
      main: an async function; it fails by raising an exception.
      args: its arguments, the same in each run.
      max_examples: how many orders to try at most, 2 or more, those not counted that are tried to find a
        smaller example.
      seed: the seed of an earlier exploration, to draw the same orders; None for new ones.
      database: of Hypothesis, where failures are kept, to be tried first the next time; None for nowhere.

    Raises:
      BaseException: whatever ``main`` raises, with a note that says in which order, and how to :func:`replay`
        it.
      Deadlock: all tasks wait, and nothing is left that could wake one.
      ScheduleError: the program is not deterministic; or this version of Trio is not known.
      RuntimeError: called from within Trio, or while another program is explored.
      TypeError: an argument has the wrong type.
      ValueError: ``max_examples`` or ``seed`` is out of range.
    """
    __tracebackhide__ = True  # for pytest
    check_function("main", main, "an async function")
    check_integer("max_examples", max_examples, 2)
    if seed is None:
        seed = int.from_bytes(os.urandom(_SEED_BITS // 8), "big")
    check_integer("seed", seed, 0)
    exploration = _Exploration(main, args)
    worst = exploration.search(max_examples, seed, database)
    if worst is not None:
        assert worst.error is not None
        worst.error.add_note(_note(worst, f"after {exploration.tried} orders, with seed={seed}"))
        raise worst.error


def replay(main: Callable[[*PosArgs], Awaitable[object]], *args: *PosArgs, schedule: str) -> None:
    """Run ``main(*args)`` once, with its tasks in an order that :func:`explore` has found.

    Args:
      main: the program.
      args: its arguments.
      schedule: the order, from the note of the exception; an empty string for the plain order.

    Raises:
      BaseException: whatever ``main`` raises.
      Deadlock: all tasks wait, and nothing is left that could wake one.
      ScheduleError: the program has other tasks to choose from than when the order was found; or this
        version of Trio is not known.
      RuntimeError: called from within Trio, or while a program is explored.
      ValueError: ``schedule`` is not one.
      TypeError: an argument has the wrong type.
    """
    __tracebackhide__ = True  # for pytest
    if not isinstance(schedule, str):
        raise TypeError(f"schedule: expected a str, got {type(schedule).__name__}")
    check_function("main", main, "an async function")
    departures = parsed(schedule)
    _check_outside()
    run = run_on({departure.at: departure.taken for departure in departures}, main, args)
    if list(run.departures) != departures:
        raise ScheduleError(
            f"the schedule is of another program: it went {written(run.departures)!r} instead of {schedule!r}"
        ) from run.error
    if run.error is not None:
        run.error.add_note(_note(run, "again"))
        raise run.error


def _check_outside() -> None:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return
    raise RuntimeError("it runs Trio itself: call it from synchronous code, or in a thread")


def _note(run: Run, found: str) -> str:
    lines = [f"Found by trio_eventlog.testing.explore {found}."]
    if run.departures:
        lines.append("The oldest task that was ready came first, except where")
        lines += [f"  {one.name} came before {one.before}" for one in run.departures]
    else:
        lines.append("The oldest task that was ready always came first.")
    lines.append(f"To run it again: replay(main, schedule={written(run.departures)!r})")
    return "\n".join(lines)


# --- searching ------------------------------------------------------------------------------------

_SETTINGS: Final = settings(
    database=None,
    deadline=None,
    derandomize=False,
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
    print_blob=False,
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType] - its metaclass iterates
    verbosity=Verbosity.quiet,
)

_SHARE_OF_SINGLE: Final = 3
"""One in this many orders departs from the plain one in one place: most failures need no more."""

_MOST_IN_A_ROW: Final = 300
"""Choices that are drawn one after the other; more would be more than Hypothesis draws for an example."""


@attrs.define
class _Exploration:
    main: Callable[..., Awaitable[object]]
    args: Sequence[object]
    tried: int = 0
    """Orders, until one failed."""

    _failing: dict[tuple[tuple[int, int], ...], Run] = attrs.Factory(dict)

    def search(self, max_examples: int, seed: int, database: ExampleDatabase | None) -> Run | None:
        """The failure with the fewest departures that was found; None if there was none."""
        _check_outside()
        plain = self._run({})
        self._repeat({}, plain)
        if plain.error is not None:
            return plain
        if not plain.choices:
            # There is one task, and so one order.
            return None
        random = Random(seed)  # noqa: S311 - for examples, not for secrets
        if not any(map(self._fails, _single(plain, max_examples // _SHARE_OF_SINGLE, random))):
            self._draw(plain, max_examples - self.tried, random, database)
        return self._smallest() if self._failing else None

    def _draw(self, plain: Run, max_examples: int, random: Random, database: ExampleDatabase | None) -> None:
        """Let Hypothesis draw orders until one fails, and look for smaller ones."""
        limits = settings(_SETTINGS, max_examples=max(1, max_examples), database=database)
        key = f"{self.main.__module__}.{getattr(self.main, '__qualname__', self.main)}".encode()
        with contextlib.suppress(NoSuchExample, Unsatisfiable, Flaky):
            find(
                _plans(plain.choices, plain.widest),
                self._fails,
                settings=limits,
                random=random,
                database_key=key,
            )

    def _run(self, plan: Plan) -> Run:
        if not self._failing:
            self.tried += 1
        return run_on(plan, self.main, self.args)

    def _repeat(self, plan: Plan, run: Run) -> Run:
        again = run_on(plan, self.main, self.args)
        if not again.is_same(run):
            ends = [_end(run), _end(again)]
            what = "went two different ways" if ends[0] == ends[1] else " and then ".join(ends)
            raise ScheduleError(
                f"the program is not deterministic: with its tasks in the same order, it {what}"
            ) from (run.error or again.error)
        return again

    def _fails(self, plan: Plan) -> bool:
        key = _key(plan)
        if key in self._failing:
            return True
        run = self._run(plan)
        if run.error is None:
            return False
        # While shrinking, it must not turn into something else.
        first = next(iter(self._failing.values()), run)
        if kind_of(run.error) != kind_of(first.error):
            return False
        self._failing[key] = run
        return True

    def _smallest(self) -> Run:
        """With none of its departures to spare, and each of them as small as possible."""
        best = min(self._failing.values(), key=_size)
        while (smaller := next(self._smaller(best), None)) is not None:
            best = smaller
        return self._repeat({one.at: one.taken for one in best.departures}, best)

    def _smaller(self, best: Run) -> Iterator[Run]:
        for plan in _smaller_plans(best.departures):
            if self._fails(plan):
                found = self._failing[_key(plan)]
                if _size(found) < _size(best):
                    yield found


def _key(plan: Plan) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(plan.items()))


def _smaller_plans(departures: Sequence[Departure]) -> Iterator[Plan]:
    """Without one departure, also with another one changed for it; and with one that takes an older task."""
    plan = {one.at: one.taken for one in departures}
    for one in departures:
        yield {at: taken for at, taken in plan.items() if at != one.at}
    for one in departures[:_MOST_CHANGED]:
        rest = {at: taken for at, taken in plan.items() if at != one.at}
        for other in departures[:_MOST_CHANGED]:
            if other is not one:
                yield from ({**rest, other.at: taken} for taken in range(1, min(other.ready, _MOST_CHANGED)))
    for one in departures:
        yield from ({**plan, one.at: taken} for taken in range(1, min(one.taken, _MOST_CHANGED)))


_MOST_CHANGED: Final = 6


def _size(run: Run) -> tuple[int, int, int]:
    return len(run.departures), sum(one.taken for one in run.departures), run.choices


def _end(run: Run) -> str:
    return "came to its end" if run.error is None else f"raised {run.error!r}"


def _single(plain: Run, most: int, random: Random) -> Iterator[Plan]:
    places = range(plain.choices)
    for place in places if plain.choices <= most else random.sample(places, most):
        yield {place: random.randint(1, max(1, plain.widest - 1))}


def _plans(choices: int, widest: int) -> SearchStrategy[Plan]:
    """Departures here and there, many in a row from anywhere on, or everywhere."""
    # In another order there may be more choices.
    place = st.integers(0, choices + choices // 4)
    amount = st.integers(0, max(1, widest - 1))
    few = st.lists(st.tuples(place, st.lists(amount, min_size=1, max_size=1)), min_size=1, max_size=8)
    row = st.lists(amount, min_size=1, max_size=min(choices + 1, _MOST_IN_A_ROW))
    some = st.lists(st.tuples(place, row), min_size=1, max_size=3)
    length = min(choices, _MOST_IN_A_ROW)
    everywhere = st.lists(amount, min_size=length, max_size=length).map(lambda row: [(0, row)])
    return (few | some | everywhere).map(_plan)


def _plan(rows: list[tuple[int, list[int]]]) -> Plan:
    return {place + number: amount for place, row in rows for number, amount in enumerate(row) if amount}
