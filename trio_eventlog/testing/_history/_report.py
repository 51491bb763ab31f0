"""What is wrong with a history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from trio_eventlog.testing._history._operations import MAX_SHOWN, Operation

LOST: Final = "lost write"
ABORTED: Final = "aborted read"
INTERMEDIATE: Final = "intermediate read"
DUPLICATE: Final = "duplicate"
TWO_EVENTS: Final = "one seq with two events"
NON_MONOTONIC: Final = "non-monotonic reader"
REAL_TIME: Final = "real-time violation"
STALE: Final = "stale last_seq"
PHANTOM: Final = "phantom"

ANOMALIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        LOST: "An event that was certainly stored is not found any more.",
        ABORTED: "A query found an event of an append that certainly failed.",
        INTERMEDIATE: "A query found a part of a batch.",
        DUPLICATE: "An event has two seqs, or was found twice by one query.",
        TWO_EVENTS: "A seq has two events.",
        NON_MONOTONIC: "An instance no longer sees what it had seen before.",
        REAL_TIME: "A query missed an event that was stored before, or found one before it was appended.",
        STALE: "last_seq was lower than the seq of an event that was stored before.",
        PHANTOM: "An event, or a last_seq, that nobody appended.",
    }
)
"""What :func:`check_history` finds: the names, by which Jepsen knows most of them, each with a sentence."""

_MAX_PRINTED_OPERATIONS: Final = 6


@attrs.frozen(kw_only=True)
class Anomaly:
    """Something in a history that no store may do.

    Attributes:
      name: one of :data:`ANOMALIES`.
      message: what happened, with times in seconds since the history began.
      expected: what should have.
      seqs: the seqs of the events concerned, in order, the first five at most.
      operations: those concerned, in the order in which they began.
      start: when the history began, by the clock of the operations.
    """

    name: str
    message: str
    expected: str
    seqs: tuple[int, ...]
    operations: tuple[Operation, ...]
    start: float

    def __str__(self) -> str:
        shown = self.operations[:_MAX_PRINTED_OPERATIONS]
        lines = [f"{self.name}: {self.message}; {self.expected}"]
        lines += [f"  {operation.describe(self.start)}" for operation in shown]
        if len(self.operations) > len(shown):
            lines.append(f"  and {len(self.operations) - len(shown)} more")
        return "\n".join(lines)


class HistoryError(AssertionError):
    """A history has anomalies. Raised by :meth:`HistoryReport.raise_if_failed`.

    Attributes:
      report: the whole report.
    """

    def __init__(self, report: HistoryReport) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return str(self.report)


@attrs.frozen(kw_only=True)
class HistoryReport:
    """What :func:`check_history` found.

    Attributes:
      operations: how many operations were judged.
      events: how many different events they appended, or tried to.
      anomalies: what is wrong: the first of each name, a hundred at most, in the order of :data:`ANOMALIES`.
      counts: how many there are of each name that occurs, those that were left out included.
      unjudged: queries of which only the events that they found were judged, not those that they may have
        missed, since the history has too many different filters.
    """

    operations: int
    events: int
    anomalies: tuple[Anomaly, ...]
    counts: Mapping[str, int]
    unjudged: int = 0

    def raise_if_failed(self) -> None:
        """Do nothing if there is no anomaly.

        Raises:
          HistoryError: there is one; its message has the first of each name.
        """
        __tracebackhide__ = True  # for pytest
        if self.anomalies:
            raise HistoryError(self)

    def __str__(self) -> str:
        lines = [f"{self.operations} operations on {self.events} events: {self._verdict()}"]
        if self.unjudged:
            lines.append(f"{self.unjudged} queries with rare filters were judged in part")
        shown: set[str] = set()
        for anomaly in self.anomalies:
            if anomaly.name not in shown:
                lines.append(str(anomaly))
            shown.add(anomaly.name)
        return "\n".join(lines)

    def _verdict(self) -> str:
        counted = [f"{name} ({count})" for name, count in self.counts.items()]
        return ", ".join(counted) if counted else "no anomaly"


_MAX_KEPT: Final = 100


class Findings:
    """Collects anomalies, of each name a hundred at most."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._kept: dict[str, list[Anomaly]] = {name: [] for name in ANOMALIES}
        self._counts: Counter[str] = Counter()

    def add(
        self, name: str, message: str, expected: str, seqs: list[int], operations: list[Operation]
    ) -> None:
        """Note an anomaly."""
        self._counts[name] += 1
        if not self.are_wanted(name):
            return
        concerned = {id(operation): operation for operation in operations}
        self._kept[name].append(
            Anomaly(
                name=name,
                message=message,
                expected=expected,
                seqs=tuple(sorted(set(seqs))[:MAX_SHOWN]),
                operations=tuple(sorted(concerned.values(), key=lambda operation: operation.began)),
                start=self._start,
            )
        )

    def are_wanted(self, name: str) -> bool:
        """Whether another anomaly of this name would be kept."""
        return len(self._kept[name]) < _MAX_KEPT

    def when(self, seconds: float) -> str:
        """A time, for a message."""
        return f"{seconds - self._start:.6f} s"

    def anomalies(self) -> tuple[Anomaly, ...]:
        """All that are kept."""
        return tuple(anomaly for kept in self._kept.values() for anomaly in kept)

    def counts(self) -> Mapping[str, int]:
        """How many there are by name, in the order of the names."""
        return MappingProxyType({name: self._counts[name] for name in ANOMALIES if self._counts[name]})
