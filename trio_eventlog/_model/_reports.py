"""What a log reports to ``on_failure``."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import attrs

from trio_eventlog._model._descriptions import GAPS_SHOWN, Finding, StoreDescription, StoreVerification
from trio_eventlog._model._errors import LossReason
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._statistics import LogState, LogStatistics

# Those of the other modules are here until every user imports them from there.
__all__ = [
    "GAPS_SHOWN",
    "AppendFailureReport",
    "Finding",
    "LogState",
    "LogStatistics",
    "LossReason",
    "LossReport",
    "Report",
    "RevertReport",
    "SpillDamageReport",
    "SpillFailureReport",
    "SpillReport",
    "StoreDescription",
    "StoreVerification",
]


@attrs.frozen(kw_only=True)
class AppendFailureReport:
    """An append that did not succeed.

    Usually its events are kept and the log tries again after ``retry_in`` seconds. Events that are lost are
    reported in a :class:`LossReport` of their own.

    Attributes:
      error: what the store raised (an :class:`EventRejected` says why it rejects events, a
        :class:`StoreUnusable` why there will be no further append), or a ``TimeoutError`` if the append
        took longer than ``append_timeout`` or was cut off by the end of the grace period.
      events: how many events the batch held.
      first_seq: lowest seq of the batch.
      last_seq: highest seq of the batch.
      failures: failures in a row, this one included; 1 or more.
      retry_in: seconds until the next attempt; 0 for at once, infinite if there will be none.
    """

    error: BaseException
    events: int
    first_seq: int
    last_seq: int
    failures: int
    retry_in: float


def _count(loss: LossReport) -> int:
    return len(loss.events)


def _first_seq(loss: LossReport) -> int:
    return loss.events[0].seq


def _last_seq(loss: LossReport) -> int:
    return loss.events[-1].seq


@attrs.frozen(kw_only=True)
class LossReport:
    """Events that the log gave up. Every lost event is in exactly one of these.

    Attributes:
      reason: why they were lost.
      events: the events, ascending by seq.
      count: how many: ``len(events)``.
      first_seq: lowest seq among them.
      last_seq: highest seq among them.
      in_doubt: True if they were offered to the store and the outcome is unknown, so that they may be stored
        after all. False if they certainly are not.
    """

    reason: LossReason
    events: tuple[PersistedEvent, ...] = attrs.field(repr=False)
    in_doubt: bool
    count: int = attrs.field(init=False, default=attrs.Factory(_count, takes_self=True))
    first_seq: int = attrs.field(init=False, default=attrs.Factory(_first_seq, takes_self=True))
    last_seq: int = attrs.field(init=False, default=attrs.Factory(_last_seq, takes_self=True))


@attrs.frozen(kw_only=True)
class SpillFailureReport:
    """A write or a read of the spill file that did not succeed, or a ``sync`` of the store, without which the
    file cannot drop the events that the store has. The log tries again.

    The events stay in memory, or in the file. Events that are then lost to the cap are reported in a
    :class:`LossReport`.

    Attributes:
      path: of the spill file.
      error: the error of the operating system, one that says that ``max_spill_bytes`` is reached, or what
        ``sync`` raised (a ``TimeoutError`` if it was cancelled).
      events: how many events were to be written; 0 for a read or a ``sync``.
      retry_in: seconds until the next attempt; infinite if there will be none.
    """

    path: Path
    error: Exception
    events: int
    retry_in: float


@attrs.frozen(kw_only=True)
class SpillDamageReport:
    """Lines of the spill file that could not be read back. The events in them are lost.

    Attributes:
      path: of the spill file. Once the rest of it is delivered, the damaged file is kept in the same
        directory, under its name followed by ``.damaged-`` and the time.
      events: how many events are lost; 0 if the file did not begin like a spill file and was put aside on
        opening. What could be read of it is delivered; whether anything is missing is unknown.
      first_seq: lowest seq that they can have had.
      last_seq: ``first_seq + events - 1``.
    """

    path: Path
    events: int
    first_seq: int
    last_seq: int


@attrs.frozen(kw_only=True)
class SpillReport:
    """Events that a log left in its spill file when it closed: not lost, and not yet in the store. The next
    log that is opened with that file delivers them first.

    Attributes:
      path: of the spill file.
      events: how many events.
    """

    path: Path
    events: int


@attrs.frozen(kw_only=True)
class RevertReport:
    """The store went back to an older state, and no longer has events that it had acknowledged.

    Attributes:
      last_seq: the last seq that the store had when this was noticed.
      expected_seq: the highest seq that it had acknowledged before.
      again: how many events of this run are offered to the store again, because the log still had them. Those
        that were immediately lost to the cap are not counted; they are in a :class:`LossReport`.
      lost: how many events of this run are lost, with ``LossReason.REVERTED``. Exact, unless the seqs of
        this run have more than a thousand gaps; then it may be too high.
      earlier: lowest and highest seq of the events of earlier runs that the store no longer has; how many
        there are is unknown. None if it has all of them.
    """

    last_seq: int
    expected_seq: int
    again: int
    lost: int
    earlier: tuple[int, int] | None


Report: TypeAlias = (
    AppendFailureReport | LossReport | SpillFailureReport | SpillDamageReport | SpillReport | RevertReport
)
"""The types of the argument of ``on_failure``."""
