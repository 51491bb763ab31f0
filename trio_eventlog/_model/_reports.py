"""What is reported: failures and losses, the state and the numbers of a log, and what a store holds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from trio_eventlog._model._errors import LossReason
from trio_eventlog._model._events import PersistedEvent

# --- to on_failure --------------------------------------------------------------------------------


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


# --- by a log about itself ------------------------------------------------------------------------


class LogState(StrEnum):
    """What a log is doing."""

    OPEN = "open"
    """It accepts events and writes them."""

    DRAINING = "draining"
    """Its body has ended; it accepts no more events and writes what is left."""

    CLOSED = "closed"
    """It has ended; every event is stored, was reported lost, or is left in the spill file."""

    UNUSABLE = "unusable"
    """Its store can no longer be written to; further events are lost, or spilled."""

    BROKEN = "broken"
    """It failed because of a defect of its own; further events are lost."""


@attrs.frozen(kw_only=True)
class LogStatistics:
    """A snapshot of the counters of a log, from :meth:`EventLog.statistics`.

    At every moment ``ingested == persisted + duplicate + pending + lost_total``.
    """

    ingested: int
    """Events that were given a seq since the log was opened, including those left by an earlier run."""

    recovered: int
    """Ingested events that an earlier run had left in the spill file."""

    filtered: int
    """Events that the filter refused; they have no seq."""

    persisted: int
    """Events that are durable in the store. Falls when the store goes back (:class:`RevertReport`)."""

    duplicate: int
    """Events whose id the store already held, under another seq."""

    lost: Mapping[LossReason, int]
    """Events lost, per reason; reasons without a loss are absent. Read-only."""

    pending: int
    """Events that are in the channel, in the buffer, in flight or in the spill file."""

    pending_bytes: int
    """Bytes of the pending events that are in memory, counted as for ``max_event_bytes``."""

    spilled: int
    """Pending events that are in the spill file."""

    spill_bytes: int
    """Size of the spill file in bytes; 0 without one."""

    appends: int
    """Calls of the store's ``append_batch`` that have begun."""

    failures: int
    """Calls of the store's ``append_batch`` that did not succeed."""

    last_assigned_seq: int
    """Highest seq given to an event; before the first, the store's last seq when the log was opened."""

    last_durable_seq: int
    """Highest seq known to be in the store."""

    peak_pending: int
    """Highest number of events in the buffer, in flight and spilled at once, since the log was opened."""

    peak_batch: int
    """Highest number of events that were offered to the store in one append."""

    state: LogState
    """What the log is doing."""

    @property
    def lost_total(self) -> int:
        """Events lost, for all reasons together."""
        return sum(self.lost.values())


# --- by a store about a log -----------------------------------------------------------------------

GAPS_SHOWN: Final = 10
"""Highest number of gaps that a description lists."""


@attrs.frozen(kw_only=True)
class Finding:
    """Something that is wrong with a log."""

    seq: int | None
    """Seq of the event; None if the problem is not about one event."""

    problem: str
    """What is wrong."""


@attrs.frozen(kw_only=True)
class StoreVerification:
    """The result of checking a log, from the ``verify`` of a store that has one."""

    events: int
    """Events checked."""

    first_seq: int | None
    """Lowest seq among them; None if there is none."""

    last_seq: int | None
    """Highest seq among them."""

    problems: int
    """Number of problems; 0 for a log that is sound."""

    findings: tuple[Finding, ...]
    """The first problems, at most as many as were asked for."""

    gaps: int
    """Number of runs of missing seqs (events lost, duplicate or pruned). Not a problem in itself."""

    missing: int
    """Missing seqs in all of these runs together."""

    first_gaps: tuple[tuple[int, int], ...]
    """The first of these runs, at most 10, each as its first and last missing seq."""


@attrs.frozen(kw_only=True)
class StoreDescription:
    """What a log holds, in numbers, from the ``describe`` of a store that has one."""

    events: int
    """Events held."""

    first_seq: int | None
    """Lowest seq held; None if the log is empty."""

    last_seq: int | None
    """Highest seq held; None if the log is empty."""

    highest_seq: int
    """Highest seq ever stored, which pruning does not lower; 0 before the first event."""

    first_timestamp_ms: int | None
    """Earliest ``timestamp_ms`` held, milliseconds since 1970-01-01 UTC; None if the log is empty."""

    last_timestamp_ms: int | None
    """Latest ``timestamp_ms`` held; None if the log is empty."""

    distinct_event_types: int
    """How many different event types occur."""

    event_types: tuple[tuple[str, int], ...]
    """The most frequent event types, each with its number of events, most frequent first."""

    distinct_members: int
    """How many different members occur."""

    members: tuple[tuple[str, int], ...]
    """The members with the most events, each with its number of events, most events first."""

    gaps: int
    """Number of runs of missing seqs between ``first_seq`` and ``last_seq``, whose events were lost or
    duplicates."""

    missing: int
    """Missing seqs in all of these runs together."""

    first_gaps: tuple[tuple[int, int], ...]
    """The first of these runs, at most 10, each as its first and last missing seq."""

    size_bytes: int | None
    """Bytes on disk of the whole database, which may hold other logs too; None for a store in memory."""

    wal_bytes: int | None = None
    """The part of ``size_bytes`` in SQLite's write-ahead log, which grows during long reads; None for other
    stores."""

    schema_version: int | None
    """Version of the database schema; None for a store in memory."""
