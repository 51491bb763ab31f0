"""Checking a store clause by clause within a budget."""

from __future__ import annotations

import time
from typing import Any

import attrs

from trio_eventlog.testing._checks import CHECKS
from trio_eventlog.testing._report import CLAUSES, ClauseFailure, ClausePassed, ClauseResult, ClauseSkipped
from trio_eventlog.testing._search import Check, Searcher, SearchResult, SmallestFailure


@attrs.define
class ClauseRunner:
    """Checks clauses, one after the other.

    Attributes:
      searcher: looks for examples that fail.
      lacking: what the store does not have, each with the reason to give for what is left out.
      remaining: seconds that are left of the budget.
      max_examples: most examples of a check.
      seed: the seed of the run, for reports.
      pending: the checks that are still to be carried out.
    """

    searcher: Searcher
    lacking: dict[str, str]
    remaining: float
    max_examples: int
    seed: int
    pending: list[Check]

    def check(self, clause: str) -> ClauseResult:
        """Check a clause."""
        checks = [check for check in self.pending if check.clause == clause]
        began = time.monotonic()
        examples = 0
        failure: SmallestFailure | None = None
        for check in checks:
            # The first way in which a clause is broken is enough: others cost time, and are often the same.
            if failure is None:
                result = self._search(check)
                examples += result.examples
                failure = result.failure
            self.pending.remove(check)
        about: dict[str, Any] = {"clause": clause, "sentence": CLAUSES[clause]}
        seconds = time.monotonic() - began
        left_out = self._left_out(clause)
        if not checks:
            return ClauseSkipped(**about, reason="; ".join(dict.fromkeys(left_out.values())))
        if failure is None:
            named = tuple(f"{name}: {reason}" for name, reason in left_out.items())
            return ClausePassed(**about, examples=examples, seconds=seconds, left_out=named)
        return ClauseFailure(
            **about,
            check=failure.check,
            message=failure.message,
            example=failure.program,
            seed=self.seed,
            intermittent=failure.intermittent,
            examples=examples,
            seconds=seconds,
        )

    def _search(self, check: Check) -> SearchResult:
        allotted = self.remaining * _weight(check) / sum(map(_weight, self.pending))
        began = time.monotonic()
        result = self.searcher.search(check, max_examples=check.examples(self.max_examples), seconds=allotted)
        spent = time.monotonic() - began
        # Shrinking has time of its own.
        self.remaining = max(0.0, self.remaining - (min(spent, allotted) if result.failure else spent))
        return result

    def _left_out(self, clause: str) -> dict[str, str]:
        """The checks of a clause for which the store lacks something, each with the reason."""
        # What was noted last says most: a store that is not durable need not hear of child processes.
        return {
            check.name: next(reason for need, reason in reversed(self.lacking.items()) if need in check.needs)
            for check in CHECKS
            if check.clause == clause and check.needs & self.lacking.keys()
        }


def checks_of(clauses: list[str], lacking: dict[str, str]) -> list[Check]:
    """The checks of these clauses for which the store lacks nothing."""
    return [check for check in CHECKS if check.clause in clauses and not check.needs & lacking.keys()]


def _weight(check: Check) -> float:
    if check.weight is not None:
        return check.weight
    # Few examples do not mean little time: those with a small share are the costly ones.
    return 0.3 if check.fixed is not None else max(check.share, 0.3)


def clause_shares() -> dict[str, float]:
    """Which part of the budget each clause gets; 1.0 in all."""
    total = sum(map(_weight, CHECKS))
    return {
        clause: sum(_weight(check) for check in CHECKS if check.clause == clause) / total
        for clause in CLAUSES
    }
