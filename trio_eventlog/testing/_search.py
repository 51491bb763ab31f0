"""Looking for an example that fails, and for the smallest, within a bound of time.

Hypothesis finds and shrinks. What is ours: the time, a thread per example so that a store that blocks or
never ends cannot take the harness along, and the verdict whether a failure repeats.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from random import seed as seed_random
from typing import Any, Final, TypeAlias

import attrs
import trio
from hypothesis import HealthCheck, Phase, Verbosity, find, settings
from hypothesis.errors import Flaky, NoSuchExample, Unsatisfiable
from hypothesis.strategies import SearchStrategy

from trio_eventlog.testing._code import shortened
from trio_eventlog.testing._example import ClauseViolation, Example
from trio_eventlog.testing._interrupts import Interrupts
from trio_eventlog.testing._subject import StoreUnderTest, fresh_location

CheckRun: TypeAlias = Callable[[Example, Any], Awaitable[None]]

_SETTINGS: Final = settings(
    database=None,
    deadline=None,
    derandomize=False,
    phases=(Phase.generate, Phase.shrink),
    print_blob=False,
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType] - its metaclass iterates
    verbosity=Verbosity.quiet,
)


def shrink_seconds(allotted: float) -> float:
    """How long to look for a smaller example, where looking for the first one may take ``allotted``."""
    return max(2.0, allotted)


_REPEATS: Final = 3

_ENOUGH: Final = 20
"""How many examples a check with a full share must have drawn to count as tried."""


def _no_table(_subject: StoreUnderTest) -> Sequence[Any]:
    return ()


@attrs.frozen(kw_only=True)
class Check:
    """One way to try a clause.

    Attributes:
      clause: which clause.
      name: what is tried, in a few words.
      cases: from the subject to the strategy that draws what :attr:`run` gets.
      run: tries one case.
      table: cases that are tried before any is drawn. What stores are known to get wrong must not be left
        to chance.
      smaller: draws cases smaller than one of the table that failed; None for :attr:`cases`.
      share: how many of the examples of a run it gets, 1.0 being all of them.
      fixed: how many cases there are, if they are few enough to try all of them, whatever the run gets.
      needs: what the subject must have: ``durable``, ``children``, ``reader``, ``reading children``,
        ``lock``.
      confirm: how often a failure must repeat to count. More than once where time is measured: the
        machine may have been busy.
      weight: its part of the time, where that does not follow from the number of examples.
    """

    clause: str
    name: str
    cases: Callable[[StoreUnderTest], SearchStrategy[Any]]
    run: CheckRun
    table: Callable[[StoreUnderTest], Sequence[Any]] = _no_table
    smaller: Callable[[Any], SearchStrategy[Any]] | None = None
    share: float = 1.0
    fixed: int | None = None
    needs: frozenset[str] = frozenset()
    confirm: int = 1
    weight: float | None = None

    def examples(self, max_examples: int) -> int:
        """How many to draw at most, where the run has ``max_examples``."""
        return max(1, round(max_examples * self.share)) if self.fixed is None else self.fixed

    def enough(self, max_examples: int) -> int:
        """How many to draw at least: with fewer, the clause has not been tried."""
        if self.fixed is not None:
            return self.fixed
        return min(self.examples(max_examples), math.ceil(_ENOUGH * self.share))


@attrs.frozen(kw_only=True)
class SmallestFailure:
    """An example that fails."""

    check: str
    message: str
    program: str
    intermittent: bool


@attrs.frozen(kw_only=True)
class SearchResult:
    """What became of a check.

    Attributes:
      examples: how many were tried.
      enough: how many it takes to pass.
      planned: how many there would have been.
      failure: the smallest that failed.
      ended_early: whether the time was up, or Ctrl-C came, before all were tried.
      interrupted: whether it was Ctrl-C.
    """

    examples: int
    enough: int
    planned: int
    failure: SmallestFailure | None = None
    ended_early: bool = False
    interrupted: bool = False

    @property
    def is_enough(self) -> bool:
        """Whether the check can count as passed if nothing failed."""
        # An end of its own accord means that there are no more cases.
        return not self.ended_early or self.examples >= self.enough


@attrs.frozen(kw_only=True)
class Allowance:
    """How long a check may take.

    Attributes:
      seconds: for as many examples as fit.
      at_most: until as many are tried as it takes; an example that is not over then is cut off.
      shrinks: whether it may take more time to look for a smaller example that fails.
    """

    seconds: float
    at_most: float
    shrinks: bool = True


@attrs.frozen
class _FailingCase:
    """A case that failed."""

    case: Any
    violation: ClauseViolation
    program: str


class _Case:
    """A case that Hypothesis does not try to print: some are large."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<case>"


class _TimeIsUp(BaseException):
    """Ends a search from within. Not an Exception, which Hypothesis would take for a failing example."""


@attrs.define
class Sandbox:
    """Where examples keep their data: a directory of its own for each, and what removes them."""

    root: Path
    subject: StoreUnderTest
    opening: str
    reading: str | None = None

    async def drop(self, locations: list[Path]) -> None:
        """Remove what the store keeps for ``locations``, and the directories."""
        if self.subject.drop_store is not None:
            for location in locations:
                await self.subject.drop_store(location)
        for location in locations:
            shutil.rmtree(location, ignore_errors=True)


class _Search:
    """The cases of a check that were tried, and the time that is left."""

    def __init__(
        self,
        attempt: Callable[[Any, float], _FailingCase | None],
        enough: int,
        allowance: Allowance,
        interrupts: Interrupts,
    ) -> None:
        self._attempt = attempt
        self._interrupts = interrupts
        self._enough = enough
        self._allowance = allowance
        began = time.monotonic()
        self._until = began + allowance.seconds
        self._at_most = began + max(allowance.seconds, allowance.at_most)
        self.tried = 0
        """Until the first one failed."""
        self.failing: dict[str, _FailingCase] = {}
        """By what they look like, in the order in which they were found."""
        self.defect: Exception | None = None
        """What went wrong that is not the store's."""

    def fails(self, drawn: _Case) -> bool:
        """Try a case, if there is time.

        Raises:
          _TimeIsUp: there is none, or going on would be of no use.
          KeyboardInterrupt: Ctrl-C came, and was not heard.
        """
        self._interrupts.check()
        key = repr(drawn.value)
        if key in self.failing:
            # Hypothesis tries the smallest again in the end; whether it repeats is judged by us.
            return True
        until = self._until if self.failing or self.tried >= self._enough else self._at_most
        if time.monotonic() > until:
            raise _TimeIsUp
        try:
            found = self._attempt(drawn.value, self._until if self.failing else self._at_most)
        except Exception as exc:  # noqa: BLE001 - raised again by the search
            # Nothing to be shrunk.
            self.defect = exc
            raise _TimeIsUp from None
        if not self.failing:
            self.tried += 1
        if found is None:
            return False
        if not self.failing:
            self._until = time.monotonic() + shrink_seconds(self._allowance.seconds)
        self.failing[key] = found
        if found.violation.out_of_reach or not self._allowance.shrinks:
            # Each further one that is out of reach would leave a thread behind that never ends.
            raise _TimeIsUp
        return True


class Searcher:
    """Runs checks on one subject.

    Attributes:
      interrupts: whether Ctrl-C came.
    """

    def __init__(self, sandbox: Sandbox, seed: int, interrupts: Interrupts) -> None:
        self._sandbox = sandbox
        self.interrupts = interrupts
        self._subject = sandbox.subject
        self._seed = seed
        self._examples = 0

    def table(self, check: Check) -> Sequence[Any]:
        """The cases of ``check`` that are tried before any is drawn."""
        return check.table(self._subject)

    def search(self, check: Check, *, max_examples: int, allowance: Allowance) -> SearchResult:
        """Try cases of ``check`` until one fails, the number is reached or the time is up.

        The smallest failing case gets some time more. Ctrl-C ends the search, whose result then says so.
        """
        table = self.table(check)
        planned = len(table) + check.examples(max_examples)
        enough = len(table) + check.enough(max_examples)
        running = _Search(partial(self._confirmed, check), enough, allowance, self.interrupts)
        strategy = check.cases(self._subject)
        limits = settings(_SETTINGS, max_examples=check.examples(max_examples))
        random = Random(f"{self._seed}:{check.clause}:{check.name}")  # noqa: S311 - for examples, not for secrets
        smallest: str | None = None
        ended_early = interrupted = False
        try:
            for case in table:
                if running.fails(_Case(case)):
                    strategy = strategy if check.smaller is None else check.smaller(case)
                    break
            smallest = repr(find(strategy.map(_Case), running.fails, settings=limits, random=random).value)
        except (NoSuchExample, Unsatisfiable, Flaky):
            pass
        except _TimeIsUp:
            ended_early = True
        except KeyboardInterrupt:
            ended_early = interrupted = True
        if running.defect is not None:
            raise running.defect
        result = SearchResult(
            examples=running.tried,
            enough=enough,
            planned=planned,
            ended_early=ended_early,
            interrupted=interrupted,
        )
        if not running.failing:
            return result
        # Cut short, shrinking has come as far as the last one that failed.
        worst = running.failing[smallest if smallest is not None else list(running.failing)[-1]]
        return self._judged(check, worst, result)

    def _judged(self, check: Check, failing: _FailingCase, result: SearchResult) -> SearchResult:
        """The result with a failure, and whether it repeats."""
        repeats = failing.violation.out_of_reach or check.confirm > 1
        until = time.monotonic() + shrink_seconds(0.0)
        try:
            for number in range(0 if repeats or result.interrupted else _REPEATS):
                if number and time.monotonic() > until:
                    break
                again = self._example(check, failing.case, math.inf)
                if again is not None:
                    failing, repeats = again, True
                    break
        except KeyboardInterrupt:
            result = attrs.evolve(result, ended_early=True, interrupted=True)
        failure = SmallestFailure(
            check=check.name,
            message=shortened(failing.violation.message),
            program=failing.program,
            # Whoever presses Ctrl-C does not wait for the verdict.
            intermittent=not repeats and not result.interrupted,
        )
        return attrs.evolve(result, failure=failure)

    def _confirmed(self, check: Check, case: Any, until: float) -> _FailingCase | None:
        failing = None
        for _ in range(check.confirm):
            failing = self._example(check, case, until)
            if failing is None or failing.violation.out_of_reach:
                return failing
        return failing

    def _example(self, check: Check, case: Any, until: float) -> _FailingCase | None:
        """Try one case. Returns None if nothing fails.

        Raises:
          _TimeIsUp: it was not over at ``until``, a time of :func:`time.monotonic`.
        """
        location = fresh_location(self._sandbox.root)
        example = Example(self._subject, check.clause, location)
        was_cut = False

        async def attempt() -> None:
            nonlocal was_cut
            example.budget.deadline = trio.current_time() + until - time.monotonic()
            try:
                with example.budget:
                    await check.run(example, case)
            finally:
                was_cut = example.budget.cancel_called
                example.alive("dropping the store", expected_seconds=_DROP_SECONDS)
                with trio.move_on_after(_DROP_SECONDS, shield=True):
                    await self._sandbox.drop([location, *example.siblings])

        # Hypothesis makes the global generator start anew for each example: what a store does one time in a
        # hundred would never be seen.
        self._examples += 1
        seed_random(f"{self._seed}:{self._examples}")
        error = run_watched(attempt, example)
        if was_cut and not (example.violation and example.violation.out_of_reach):
            # Whatever the store did then, it did because it was cancelled.
            raise _TimeIsUp
        if example.violation is None:
            if error is None:
                return None
            if isinstance(error, Exception):
                raise error
            # SystemExit and the like end a program, and so must not end the harness in silence.
            example.violation = ClauseViolation(check.clause, f"{example.in_progress} raised {error!r}")
        why = f"{check.clause}: {shortened(example.violation.message)}"
        program = example.program.code(self._sandbox.opening, why, self._sandbox.reading)
        return _FailingCase(case, example.violation, program)


_DROP_SECONDS: Final = 60.0


def run_watched(attempt: Callable[[], Awaitable[None]], example: Example) -> BaseException | None:
    """Run an example in a thread of its own, and abandon it if it does not even let the harness run.

    The example then has a violation that is out of reach. Returns what the example raised.
    """
    error: BaseException | None = None
    token: trio.lowlevel.TrioToken | None = None
    scope = trio.CancelScope()
    done = threading.Event()

    async def main() -> None:
        nonlocal token
        token = trio.lowlevel.current_trio_token()
        with scope:
            await attempt()

    def run() -> None:
        nonlocal error
        try:
            trio.run(main)
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - Trio has ended; carried into the thread that waits
            error = exc
        finally:
            done.set()

    # A daemon: one that never ends must not keep the interpreter from ending.
    thread = threading.Thread(target=run, name="trio_eventlog.testing", daemon=True)
    thread.start()
    try:
        for remaining in _remaining(example):
            if done.wait(remaining):
                break
        else:
            _abandon(example)
    except KeyboardInterrupt:
        if token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
        done.wait(example.subject.patience)
        raise
    return error


def _remaining(example: Example) -> Iterator[float]:
    """Seconds to wait, again and again, until the last sign of life is too long ago."""
    while True:
        remaining = example.last_sign_of_life + example.subject.patience - time.monotonic()
        if remaining <= 0:
            return
        yield remaining


def _abandon(example: Example) -> None:
    message = (
        f"{example.in_progress}: for {example.subject.patience:.1f} s neither an end nor a reaction to being"
        " cancelled; the store blocks the event loop or swallows Cancelled"
    )
    if example.violation is None:
        example.violation = ClauseViolation(example.clause, message)
    example.violation.out_of_reach = True
