"""What :func:`check_store` found, and the clauses that it checks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import attrs

CLAUSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "S1": "Appending an event again changes nothing: the first write of an id wins.",
        "S2": "seqs are 1 to 2**63 - 1, gaps are legal, and batches in any order of seq are stored.",
        "S3": "A new event on a seq that is taken raises SequenceConflict, and nothing is stored.",
        "S4": "A batch is all or nothing, for readers and after failures, and the store works on.",
        "S5": "Results pass all filters, ascend by seq, and only then are limited.",
        "S6": "Strings compare exactly.",
        "S7": "What is read equals what was written, in value and type.",
        "S8": "Given and returned objects are not shared with the store.",
        "S9": "last_seq is the highest seq ever stored, 0 before the first.",
        "S10": "What append_batch has returned from is read by the next query and kept.",
        "S11": "Every method is a checkpoint, heeds cancellation and does not block the event loop.",
        "S12": "Errors are those of trio_eventlog, and say whether to try again.",
        "S13": "A log has one appender at a time; the next is refused with LogBusy.",
        "S14": "Ids and seqs belong to one log.",
        "S15": "Leaving the store frees everything, however it is left.",
        "S16": "From files that were damaged it answers what was written, or raises an error.",
    }
)
"""The clauses S1 to S16 in order, each with its sentence. The contract itself is :class:`EventStore`."""


@attrs.frozen(kw_only=True)
class ClausePassed:
    """A clause that the store keeps, as far as it was tried.

    Attributes:
      clause: for example ``"S5"``.
      sentence: what the clause says, in short.
      examples: how many examples were tried.
      seconds: how long that took.
      left_out: which parts were not checked, and why; empty if all were.
    """

    clause: str
    sentence: str
    examples: int
    seconds: float
    left_out: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ClauseFailure:
    """A clause that the store breaks.

    Attributes:
      clause: for example ``"S5"``.
      sentence: what the clause says, in short.
      check: which part of the clause was tried, for example ``"filters, order and limit"``.
      message: what happened, and what should have.
      example: the smallest example that Hypothesis found, as a Python program.
      seed: the seed of the whole run; with it :func:`check_store` tries the same examples again.
      intermittent: whether the example passed when it was repeated. ``example`` then is the recorded
        history of a run that failed.
      examples: how many examples of the clause were tried until one failed, those of shrinking not
        counted.
      seconds: how long all of it took.
    """

    clause: str
    sentence: str
    check: str
    message: str
    example: str
    seed: int
    intermittent: bool
    examples: int
    seconds: float

    def __str__(self) -> str:
        again = "\nIt passed when it was repeated: the failure is intermittent." if self.intermittent else ""
        return (
            f"{self.clause}: {self.sentence}\n{self.message}{again}\n"
            f"({self.check}; seed {self.seed})\n\n{self.example}"
        )


@attrs.frozen(kw_only=True)
class ClauseSkipped:
    """A clause that was not checked.

    Attributes:
      clause: for example ``"S13"``.
      sentence: what the clause says, in short.
      reason: why it was not checked.
    """

    clause: str
    sentence: str
    reason: str


ClauseResult: TypeAlias = ClausePassed | ClauseFailure | ClauseSkipped


class ConformanceError(AssertionError):
    """A store breaks its contract.

    Raised by :meth:`ConformanceReport.raise_if_failed`.

    Attributes:
      report: the whole report.
    """

    def __init__(self, report: ConformanceReport) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.report.failures))


@attrs.frozen(kw_only=True)
class ConformanceReport:
    """What :func:`check_store` found, clause by clause.

    Attributes:
      passed: the clauses that hold, in order.
      failures: what breaks the others, in order; of a clause that is broken in several ways, the first.
      skipped: the clauses that were not checked, in order.
      seed: give it to :func:`check_store` to try the same examples again.
      seconds: how long the run took.
    """

    passed: tuple[ClausePassed, ...]
    failures: tuple[ClauseFailure, ...]
    skipped: tuple[ClauseSkipped, ...]
    seed: int
    seconds: float

    def results(self) -> tuple[ClauseResult, ...]:
        """All of them, in the order of the clauses."""
        order = list(CLAUSES)
        results: list[ClauseResult] = [*self.passed, *self.failures, *self.skipped]
        return tuple(sorted(results, key=lambda result: order.index(result.clause)))

    def raise_if_failed(self) -> None:
        """Do nothing if no clause is broken.

        Raises:
          ConformanceError: a clause is broken; the message has every failure with its example.
        """
        __tracebackhide__ = True  # for pytest
        if self.failures:
            raise ConformanceError(self)

    def __str__(self) -> str:
        lines: list[str] = []
        for result in self.results():
            match result:
                case ClausePassed():
                    lines.append(f"{result.clause:>3}  passed   {result.examples} examples")
                    lines += [f"     left out: {reason}" for reason in result.left_out]
                case ClauseSkipped():
                    lines.append(f"{result.clause:>3}  skipped  {result.reason}")
                case ClauseFailure():
                    lines.append(f"{result.clause:>3}  FAILED   {result.message.splitlines()[0]}")
        return "\n".join(lines)
