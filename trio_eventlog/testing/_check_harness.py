"""Judging the harness: would it have caught a store like this one, if it were broken?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

import attrs

from trio_eventlog.testing._arguments import check_function, check_integer, check_names, check_seconds
from trio_eventlog.testing._check_store import (
    DEFAULT_MAX_EXAMPLES,
    DEFAULT_OP_TIMEOUT,
    check_subject,
    run_checks,
)
from trio_eventlog.testing._interrupts import noticed_interrupts
from trio_eventlog.testing._mutants import MUTANTS, Mutant, open_mutant
from trio_eventlog.testing._report import CLAUSES, CheckSettings, ClauseSkipped, ConformanceReport
from trio_eventlog.testing._subject import StoreDropper, StoreOpener, StoreUnderTest

DEFAULT_MUTATION_BUDGET: Final = 300.0


@attrs.frozen(kw_only=True)
class MutantResult:
    """What became of one way to break the store.

    Attributes:
      mutant: what was wrong with it, in a few words.
      clause: the clause that should catch it.
      verdict: ``"caught"``, ``"missed"``, ``"not finished"`` or ``"skipped"``.
      caught_by: the clause that caught it, which may be another one; empty if none did.
      check: which check of that clause.
      message: what the report says of the store.
      reason: why it was skipped.
      examples: how many examples were tried.
      seconds: how long that took.
    """

    mutant: str
    clause: str
    verdict: str
    caught_by: str = ""
    check: str = ""
    message: str = ""
    reason: str = ""
    examples: int = 0
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class MutationReport:
    """What :func:`check_harness` found.

    Attributes:
      results: of each way to break the store, in the order of the clauses.
      seed: give it to :func:`check_harness` to try the same examples again.
      seconds: how long the run took.
      untried: the names of those that were not come to, because Ctrl-C ended the run.
    """

    results: tuple[MutantResult, ...]
    seed: int
    seconds: float
    untried: tuple[str, ...] = ()

    @property
    def missed(self) -> tuple[MutantResult, ...]:
        """Those that were not caught, for whatever reason, the skipped ones left aside."""
        return tuple(result for result in self.results if result.verdict in ("missed", "not finished"))

    def __str__(self) -> str:
        lines: list[str] = []
        for result in self.results:
            by = f"by {result.caught_by}, {result.check}" if result.caught_by else result.reason or "nothing"
            took = "" if result.verdict == "skipped" else f" in {result.seconds:.1f} s"
            lines.append(f"{result.clause:>3}  {result.verdict:<12}  {result.mutant}: {by}{took}")
        caught = sum(result.verdict == "caught" for result in self.results)
        skipped = sum(result.verdict == "skipped" for result in self.results)
        count = len(self.results) - skipped
        lines.append(
            f"{caught} of {count} caught, {skipped} skipped, in {self.seconds:.1f} s (seed {self.seed})"
        )
        if self.untried:
            were = "was" if len(self.untried) == 1 else "were"
            lines.append(f"INTERRUPTED: {len(self.untried)} more {were} not tried")
        return "\n".join(lines)


class MutationInterrupted(KeyboardInterrupt):
    """Ctrl-C ended :func:`check_harness`.

    Attributes:
      report: what was found so far.
    """

    def __init__(self, report: MutationReport) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return f"what was found so far:\n\n{self.report}"


def check_harness(
    open_store: StoreOpener,
    *,
    durable: bool = True,
    drop_store: StoreDropper | None = None,
    mutants: Collection[str] | None = None,
    budget: float = DEFAULT_MUTATION_BUDGET,
    op_timeout: float = DEFAULT_OP_TIMEOUT,
    seed: int | None = None,
    on_result: Callable[[MutantResult], None] | None = None,
) -> MutationReport:
    """Break a store in some thirty ways, one after the other, and see which of them the harness catches.

    A green report of :func:`check_store` is worth as much as the harness could have found in this very store:
    a slow one, or one that declares small batches, is tried less. Each wrapper around the store breaks one
    clause, which is checked first, until an example fails; then the others, if there is time.

    The store itself should pass :func:`check_store`: a clause that it breaks catches every wrapper. Runs Trio
    itself, as that does.

    Args:
      open_store: as for :func:`check_store`.
      durable: the same. Wrappers that show on reopening, on kills or on the lock are skipped without it.
      drop_store: the same.
      mutants: which wrappers, by name; None for all.
      budget: seconds for all of them together. Each has its part, and what it does not need goes to those
        after it.
      op_timeout: as for :func:`check_store`.
      seed: the seed of an earlier run; None for a new one.
      on_result: called with each result as soon as it is known.

    Returns:
      What was caught, by which clause and how soon.

    Raises:
      MutationInterrupted: Ctrl-C; it is a KeyboardInterrupt.
      TypeError: an argument has the wrong type.
      ValueError: an unknown wrapper; a number out of range.
      Exception: as for :func:`check_store`.
    """
    check_subject(
        StoreUnderTest(open_store=open_store, drop_store=drop_store, durable=durable, op_timeout=op_timeout)
    )
    if mutants is not None:
        check_names("mutants", mutants, next(iter(MUTANTS)), MUTANTS, ", ".join(MUTANTS))
    check_seconds("budget", budget)
    check_integer("seed", seed, 0, optional=True)
    check_function("on_result", on_result, "a function of a result", optional=True)
    began = time.monotonic()
    seed = int.from_bytes(os.urandom(8), "big") if seed is None else seed
    wanted = [mutant for name, mutant in MUTANTS.items() if mutants is None or name in mutants]
    judge = _Judge(open_store, durable, drop_store, op_timeout, seed)
    results: list[MutantResult] = []

    def report() -> MutationReport:
        untried = tuple(mutant.name for mutant in wanted[len(results) :])
        seconds = time.monotonic() - began
        return MutationReport(results=tuple(results), seed=seed, seconds=seconds, untried=untried)

    with noticed_interrupts() as interrupts:
        try:
            for index, mutant in enumerate(wanted):
                interrupts.check()
                left = budget - (time.monotonic() - began)
                results.append(judge.judged(mutant, max(_LEAST, left / (len(wanted) - index))))
                if on_result is not None:
                    on_result(results[-1])
        except KeyboardInterrupt:
            raise MutationInterrupted(report()) from None
    return report()


_LEAST: Final = 2.0
"""Seconds for a wrapper, also where the others have used up the budget."""


@attrs.frozen
class _Judge:
    open_store: StoreOpener
    durable: bool
    drop_store: StoreDropper | None
    op_timeout: float
    seed: int

    def judged(self, mutant: Mutant, budget: float) -> MutantResult:
        """Check the clause that should catch ``mutant``, and the others if it does not."""
        about: dict[str, Any] = {"mutant": mutant.name, "clause": mutant.clause}
        if "durable" in mutant.needs and not self.durable:
            return MutantResult(**about, verdict="skipped", reason="the store is not durable")
        report = self._check(mutant, [mutant.clause], budget)
        if report.skipped or (not report.failures and _lacks(report, mutant)):
            reason = "; ".join([*(skipped.reason for skipped in report.skipped), *_lacks(report, mutant)])
            return MutantResult(**about, verdict="skipped", reason=reason)
        tried = (result for result in report.results() if not isinstance(result, ClauseSkipped))
        examples = sum(result.examples for result in tried)
        seconds, finished = report.seconds, not report.unfinished
        if not report.failures and budget - seconds > _LEAST:
            others = [clause for clause in CLAUSES if clause != mutant.clause]
            report = self._check(mutant, others, budget - seconds)
            seconds += report.seconds
        about |= {"examples": examples, "seconds": seconds}
        if not report.failures:
            return MutantResult(**about, verdict="missed" if finished else "not finished")
        failure = report.failures[0]
        return MutantResult(
            **about, verdict="caught", caught_by=failure.clause, check=failure.check, message=failure.message
        )

    def _check(self, mutant: Mutant, clauses: list[str], budget: float) -> ConformanceReport:
        settings = CheckSettings(
            durable=self.durable,
            budget=budget,
            op_timeout=self.op_timeout,
            max_examples=DEFAULT_MAX_EXAMPLES,
        )
        return run_checks(
            StoreUnderTest(
                open_store=partial(open_mutant, mutant.name, self.open_store),
                drop_store=self.drop_store,
                durable=self.durable,
                op_timeout=self.op_timeout,
            ),
            clauses=clauses,
            settings=settings,
            seed=self.seed,
            deviations={},
            shrinks=False,
            uses_children="children" in mutant.needs,
        )


def _lacks(report: ConformanceReport, mutant: Mutant) -> list[str]:
    """Why a wrapper that shows in another process alone could not show."""
    if "children" not in mutant.needs:
        return []
    return [left for result in report.passed for left in result.left_out if "child process" in left]
