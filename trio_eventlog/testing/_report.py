"""What :func:`check_store` found, and the clauses that it checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        "S6": "Strings and values of payloads compare exactly.",
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
        "S17": "What was erased is in no answer and in no file, and everything else is as it was.",
        "S18": "What it counts, or reads backwards, is what a query finds.",
    }
)
"""The clauses S1 to S18 in order, each with its sentence. The contract itself is :class:`EventStore`."""

CONTRACT_VERSION: Final = "3.0"
"""The version of the contract that this harness checks.

The first number grows when a clause asks for more than it did, so that a store that conformed may fail; the
second when a clause is added that only stores with some new declaration have to keep.
"""


@attrs.frozen(kw_only=True)
class CheckSettings:
    """How :func:`check_store` was told to look.

    Attributes:
      durable: whether the store was said to keep its events.
      budget: seconds to look for failures in all.
      op_timeout: seconds after which an operation counted as hung.
      max_examples: most examples of a check.
    """

    durable: bool
    budget: float
    op_timeout: float
    max_examples: int


@attrs.frozen(kw_only=True)
class ClausePassed:
    """A clause that the store keeps, as far as it was tried.

    Attributes:
      clause: for example ``"S5"``.
      sentence: what the clause says, in short.
      examples: how many examples were tried.
      seconds: how long that took.
      left_out: which parts were not checked, and why; empty if all were.
      cut_short: which checks tried fewer examples than they were allowed, since their time was up, such as
        ``"payloads: 37 of 100 examples"``; empty if none. They had tried enough to pass.
      deviation: why the store was said to break this clause, which it was not seen to do; None if it was not.
    """

    clause: str
    sentence: str
    examples: int
    seconds: float
    left_out: tuple[str, ...] = ()
    cut_short: tuple[str, ...] = ()
    deviation: str | None = None


@attrs.frozen(kw_only=True)
class ClauseUnfinished:
    """A clause that was neither seen to be broken nor tried enough to pass: the time was up before.

    Attributes:
      clause: for example ``"S5"``.
      sentence: what the clause says, in short.
      examples: how many examples were tried.
      unfinished: which checks tried too few, such as ``"repeats: tried 1 of 20 examples"``.
      seconds: how long that took.
      left_out: which parts were not checked for another reason.
    """

    clause: str
    sentence: str
    examples: int
    unfinished: tuple[str, ...]
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
      deviation: why the store is known to break this clause; None if that was not declared.
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
    deviation: str | None = None

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


ClauseResult: TypeAlias = ClausePassed | ClauseFailure | ClauseUnfinished | ClauseSkipped


class ConformanceError(AssertionError):
    """A store breaks its contract, or was not tried enough to say that it does not.

    Raised by :meth:`ConformanceReport.raise_if_failed`.

    Attributes:
      report: the whole report.
    """

    def __init__(self, report: ConformanceReport) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        unfinished = [
            f"{result.clause}: {result.sentence}\nNot finished: {'; '.join(result.unfinished)}."
            f" Raise the budget, which was {self.report.settings.budget:g} s."
            for result in self.report.unfinished
        ]
        return "\n\n".join([*map(str, self.report.failures), *unfinished])


class ConformanceInterrupted(KeyboardInterrupt):
    """Ctrl-C ended :func:`check_store`.

    Attributes:
      report: what was found so far. The clauses that were not come to are unfinished.
    """

    def __init__(self, report: ConformanceReport) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return "\n\n".join(["what was found so far:", str(self.report), *map(str, self.report.failures)])


@attrs.frozen(kw_only=True)
class ConformanceReport:
    """What :func:`check_store` found, clause by clause.

    Attributes:
      passed: the clauses that hold, in order.
      failures: what breaks the others, in order; of a clause that is broken in several ways, the first.
      deviations: the same for clauses that were declared as deviations.
      unfinished: the clauses that were not tried enough to pass, in order.
      skipped: the clauses that were not checked, in order.
      seed: give it to :func:`check_store` to try the same examples again.
      seconds: how long the run took.
      settings: how it was told to look.
      interrupted: whether Ctrl-C ended it.
    """

    passed: tuple[ClausePassed, ...]
    failures: tuple[ClauseFailure, ...]
    deviations: tuple[ClauseFailure, ...]
    unfinished: tuple[ClauseUnfinished, ...]
    skipped: tuple[ClauseSkipped, ...]
    seed: int
    seconds: float
    settings: CheckSettings
    interrupted: bool = False

    @property
    def is_conformant(self) -> bool:
        """Whether no clause is broken but declared deviations, and each was tried enough or skipped."""
        return not self.failures and not self.unfinished

    def results(self) -> tuple[ClauseResult, ...]:
        """All of them, in the order of the clauses."""
        order = list(CLAUSES)
        results: list[ClauseResult] = [
            *self.passed,
            *self.failures,
            *self.deviations,
            *self.unfinished,
            *self.skipped,
        ]
        return tuple(sorted(results, key=lambda result: order.index(result.clause)))

    def raise_if_failed(self) -> None:
        """Do nothing if the store conforms. Declared deviations are no failures.

        Raises:
          ConformanceError: a clause is broken; the message has every failure with its example. Or a clause
            was not tried enough, which is no pass.
        """
        __tracebackhide__ = True  # for pytest
        if not self.is_conformant:
            raise ConformanceError(self)

    def __str__(self) -> str:
        lines: list[str] = []
        for result in self.results():
            lines.append(f"{result.clause:>3}  {_verdict(result)}")
            if isinstance(result, ClausePassed | ClauseUnfinished):
                lines += [f"     left out: {reason}" for reason in result.left_out]
            if isinstance(result, ClausePassed):
                lines += [f"     cut short: {what}" for what in result.cut_short]
            if isinstance(result, ClauseUnfinished):
                lines += [f"     {what}" for what in result.unfinished]
        if self.interrupted:
            lines.append("INTERRUPTED: this is no pass")
        elif self.unfinished:
            lines.append(f"NOT FINISHED within the budget of {self.settings.budget:g} s: this is no pass")
        return "\n".join(lines)


def _verdict(result: ClauseResult) -> str:
    match result:
        case ClausePassed():
            return f"passed   {_examples(result.examples)}"
        case ClauseUnfinished():
            return f"NOT FINISHED  {_examples(result.examples)}"
        case ClauseSkipped():
            return f"skipped  {result.reason}"
        case ClauseFailure():
            message = result.message.splitlines()[0]
            if result.deviation is not None:
                return f"deviates {result.deviation}: {message}"
            return f"FAILED   {message}"


def _examples(count: int) -> str:
    return f"{count} example{'' if count == 1 else 's'}"


def report_of(
    results: Iterable[ClauseResult],
    *,
    seed: int,
    seconds: float,
    settings: CheckSettings,
    interrupted: bool = False,
) -> ConformanceReport:
    """The report that has these results, in their order."""
    results = list(results)
    failures = [result for result in results if isinstance(result, ClauseFailure)]
    return ConformanceReport(
        passed=tuple(result for result in results if isinstance(result, ClausePassed)),
        failures=tuple(failure for failure in failures if failure.deviation is None),
        deviations=tuple(failure for failure in failures if failure.deviation is not None),
        unfinished=tuple(result for result in results if isinstance(result, ClauseUnfinished)),
        skipped=tuple(result for result in results if isinstance(result, ClauseSkipped)),
        seed=seed,
        seconds=seconds,
        settings=settings,
        interrupted=interrupted,
    )
