"""Checking a store clause by clause within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from trio_eventlog.testing._checks import CHECKS
from trio_eventlog.testing._report import (
    CLAUSES,
    ClauseFailure,
    ClausePassed,
    ClauseResult,
    ClauseSkipped,
    ClauseUnfinished,
)
from trio_eventlog.testing._search import Allowance, Check, Searcher, SearchResult, SmallestFailure


@attrs.define
class ClauseRunner:
    """Checks clauses, one after the other.

    Attributes:
      searcher: looks for examples that fail.
      lacking: what the store does not have, each with the reason to give for what is left out.
      remaining: seconds that are left of the budget.
      reserve: more seconds, for checks that need them to try enough.
      shrinks: whether to look for smaller examples that fail.
      max_examples: most examples of a check.
      seed: the seed of the run, for reports.
      pending: the checks that are still to be carried out.
      deviations: the clauses that the store is known to break, each with the reason.
      interrupted: whether Ctrl-C came.
    """

    searcher: Searcher
    lacking: dict[str, str]
    remaining: float
    max_examples: int
    seed: int
    pending: list[Check]
    deviations: Mapping[str, str]
    reserve: float = 0.0
    shrinks: bool = True
    interrupted: bool = False

    def check_all(
        self, clauses: list[str], on_result: Callable[[ClauseResult], None] | None = None
    ) -> list[ClauseResult]:
        """Check clauses. Those that Ctrl-C kept from being checked have a result that says so."""
        results: list[ClauseResult] = []
        try:
            for clause in clauses:
                self.searcher.interrupts.check()
                results.append(self.check(clause))
                if self.interrupted:
                    break
                if on_result is not None:
                    on_result(results[-1])
        except KeyboardInterrupt:
            # Between two examples.
            self.interrupted = True
        return [*results, *map(_not_come_to, clauses[len(results) :])]

    def check(self, clause: str) -> ClauseResult:
        """Check a clause."""
        checks = [check for check in self.pending if check.clause == clause]
        began = time.monotonic()
        tried: dict[str, SearchResult] = {}
        for check in checks:
            tried[check.name] = self._search(check)
            self.pending.remove(check)
            # The first way in which a clause is broken is enough: others cost time, and are often the same.
            if tried[check.name].failure is not None or self.interrupted:
                self.pending = [check for check in self.pending if check.clause != clause]
                break
        about: dict[str, Any] = {"clause": clause, "sentence": CLAUSES[clause]}
        left_out = self._left_out(clause)
        if not checks:
            return ClauseSkipped(**about, reason="; ".join(dict.fromkeys(left_out.values())))
        about |= {
            "examples": sum(result.examples for result in tried.values()),
            "seconds": time.monotonic() - began,
        }
        deviation = self.deviations.get(clause)
        failures = [result.failure for result in tried.values() if result.failure is not None]
        if failures:
            return self._failure(failures[0], about, deviation)
        named = tuple(f"{name}: {reason}" for name, reason in left_out.items())
        unfinished = tuple(
            f"{name}: tried {result.examples} of {result.enough} examples"
            for name, result in tried.items()
            if not result.is_enough
        )
        if unfinished:
            return ClauseUnfinished(**about, unfinished=unfinished, left_out=named)
        cut_short = tuple(
            f"{name}: {result.examples} of {result.planned} examples"
            for name, result in tried.items()
            if result.ended_early
        )
        return ClausePassed(**about, left_out=named, cut_short=cut_short, deviation=deviation)

    def _failure(
        self, failure: SmallestFailure, about: dict[str, Any], deviation: str | None
    ) -> ClauseFailure:
        return ClauseFailure(
            **about,
            check=failure.check,
            message=failure.message,
            example=failure.program,
            seed=self.seed,
            intermittent=failure.intermittent,
            deviation=deviation,
        )

    def _search(self, check: Check) -> SearchResult:
        allotted = self.remaining * _weight(check) / sum(map(_weight, self.pending))
        # What comes to few examples may use time of what comes after it, but never all of that.
        borrowed = (self.remaining - allotted) * _BORROWED
        at_most = allotted + borrowed + self.reserve
        allowance = Allowance(seconds=allotted, at_most=at_most, shrinks=self.shrinks)
        began = time.monotonic()
        result = self.searcher.search(check, max_examples=self.max_examples, allowance=allowance)
        spent = time.monotonic() - began
        self.interrupted |= result.interrupted
        # Shrinking has time of its own.
        spent = min(spent, allotted) if result.failure else spent
        self.reserve = max(0.0, self.reserve - max(0.0, spent - allotted - borrowed))
        self.remaining = max(0.0, self.remaining - spent)
        return result

    def _left_out(self, clause: str) -> dict[str, str]:
        """The checks of a clause for which the store lacks something, each with the reason."""
        # What was noted last says most: a store that is not durable need not hear of child processes.
        return {
            check.name: next(reason for need, reason in reversed(self.lacking.items()) if need in check.needs)
            for check in CHECKS
            if check.clause == clause and check.needs & self.lacking.keys()
        }


def _not_come_to(clause: str) -> ClauseUnfinished:
    return ClauseUnfinished(
        clause=clause,
        sentence=CLAUSES[clause],
        examples=0,
        unfinished=("not tried: interrupted",),
        seconds=0.0,
    )


def checks_of(clauses: list[str], lacking: dict[str, str]) -> list[Check]:
    """The checks of these clauses for which the store lacks nothing."""
    return [check for check in CHECKS if check.clause in clauses and not check.needs & lacking.keys()]


_BORROWED: Final = 0.75
"""The part of what is left for other checks that one may use until it has tried enough."""

_OF_A_PROCESS: Final = 2.0
"""The weight of a check whose examples start Python."""


def _weight(check: Check) -> float:
    if check.weight is not None:
        return check.weight
    if "children" in check.needs:
        return _OF_A_PROCESS
    # Few examples do not mean little time: those with a small share are the costly ones.
    return 0.3 if check.fixed is not None else max(check.share, 0.3)


def clause_shares() -> dict[str, float]:
    """Which part of the budget each clause gets; 1.0 in all."""
    total = sum(map(_weight, CHECKS))
    return {
        clause: sum(_weight(check) for check in CHECKS if check.clause == clause) / total
        for clause in CLAUSES
    }
