"""Looking for an example that fails, and for the smallest, within a bound of time.

Hypothesis finds and shrinks. What is ours: the time, a thread per example so that a store that blocks or
never ends cannot take the harness along, and the verdict whether a failure repeats.
"""

from __future__ import annotations

import contextlib
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

from trio_eventlog.testing._example import ClauseViolation, Example
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
        """How many to try at most, where the run has ``max_examples``."""
        return max(1, round(max_examples * self.share)) if self.fixed is None else self.fixed


@attrs.frozen(kw_only=True)
class SmallestFailure:
    """An example that fails."""

    check: str
    message: str
    program: str
    intermittent: bool


@attrs.frozen(kw_only=True)
class SearchResult:
    """What became of a check."""

    examples: int
    failure: SmallestFailure | None


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

    def __init__(self, attempt: Callable[[Any], _FailingCase | None], seconds: float) -> None:
        self._attempt = attempt
        self._seconds = seconds
        self._until = time.monotonic() + seconds
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
        """
        key = repr(drawn.value)
        if key in self.failing:
            # Hypothesis tries the smallest again in the end; whether it repeats is judged by us.
            return True
        if self.tried and time.monotonic() > self._until:
            raise _TimeIsUp
        if not self.failing:
            self.tried += 1
        try:
            found = self._attempt(drawn.value)
        except Exception as exc:  # noqa: BLE001 - raised again by the search
            # Nothing to be shrunk.
            self.defect = exc
            raise _TimeIsUp from None
        if found is None:
            return False
        if not self.failing:
            self._until = time.monotonic() + shrink_seconds(self._seconds)
        self.failing[key] = found
        if found.violation.out_of_reach:
            # Each further one would leave a thread behind that never ends.
            raise _TimeIsUp
        return True


class Searcher:
    """Runs checks on one subject."""

    def __init__(self, sandbox: Sandbox, seed: int) -> None:
        self._sandbox = sandbox
        self._subject = sandbox.subject
        self._seed = seed
        self._examples = 0

    def search(self, check: Check, *, max_examples: int, seconds: float) -> SearchResult:
        """Try cases of ``check`` until one fails, the number is reached or the time is up.

        One case at least is tried, whatever it takes. The smallest failing case gets some time more.
        """
        running = _Search(partial(self._confirmed, check), seconds)
        strategy = check.cases(self._subject)
        limits = settings(_SETTINGS, max_examples=max_examples)
        random = Random(f"{self._seed}:{check.clause}:{check.name}")  # noqa: S311 - for examples, not for secrets
        smallest: str | None = None
        with contextlib.suppress(_TimeIsUp, NoSuchExample, Unsatisfiable, Flaky):
            for case in check.table(self._subject):
                if running.fails(_Case(case)):
                    strategy = strategy if check.smaller is None else check.smaller(case)
                    break
            smallest = repr(find(strategy.map(_Case), running.fails, settings=limits, random=random).value)
        if running.defect is not None:
            raise running.defect
        if not running.failing:
            return SearchResult(examples=running.tried, failure=None)
        # Cut short, shrinking has come as far as the last one that failed.
        worst = running.failing[smallest if smallest is not None else list(running.failing)[-1]]
        return SearchResult(examples=running.tried, failure=self._judged(check, worst))

    def _judged(self, check: Check, failing: _FailingCase) -> SmallestFailure:
        """Whether the failure repeats."""
        repeats = failing.violation.out_of_reach or check.confirm > 1
        for _ in range(0 if repeats else _REPEATS):
            again = self._example(check, failing.case)
            if again is not None:
                failing, repeats = again, True
                break
        return SmallestFailure(
            check=check.name,
            message=failing.violation.message,
            program=failing.program,
            intermittent=not repeats,
        )

    def _confirmed(self, check: Check, case: Any) -> _FailingCase | None:
        failing = None
        for _ in range(check.confirm):
            failing = self._example(check, case)
            if failing is None or failing.violation.out_of_reach:
                return failing
        return failing

    def _example(self, check: Check, case: Any) -> _FailingCase | None:
        """Try one case. Returns None if nothing fails."""
        location = fresh_location(self._sandbox.root)
        example = Example(self._subject, check.clause, location)

        async def attempt() -> None:
            try:
                await check.run(example, case)
            finally:
                example.alive("dropping the store", expected_seconds=_DROP_SECONDS)
                with trio.move_on_after(_DROP_SECONDS, shield=True):
                    await self._sandbox.drop([location, *example.siblings])

        # Hypothesis makes the global generator start anew for each example: what a store does one time in a
        # hundred would never be seen.
        self._examples += 1
        seed_random(f"{self._seed}:{self._examples}")
        error = run_watched(attempt, example)
        if example.violation is None:
            if error is None:
                return None
            if isinstance(error, Exception):
                raise error
            # SystemExit and the like end a program, and so must not end the harness in silence.
            example.violation = ClauseViolation(check.clause, f"{example.in_progress} raised {error!r}")
        why = f"{check.clause}: {example.violation.message}"
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
