"""What a log says of itself: statistics, failures and losses.

Floor 0: attrs and the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from trio_eventlog._model._events import PersistedEvent


class LossReason(StrEnum):
    """Why events were lost."""

    CAP = "cap"
    """More events waited than ``retry_buffer_cap`` or ``max_pending_bytes`` allows; the oldest went."""

    REJECTED = "rejected"
    """The store said that it can never hold them."""

    UNUSABLE = "unusable"
    """The store became unusable while they waited, or before they came."""

    SHUTDOWN = "shutdown"
    """They were not stored when the grace period was over."""

    BROKEN = "broken"
    """The log itself failed (:class:`EventLogBroken`)."""

    DAMAGED = "damaged"
    """Their lines in the spill file could not be read back. What they were is unknown, so that a
    :class:`SpillDamageReport` reports them, and no :class:`LossReport`."""

    REVERTED = "reverted"
    """The store had acknowledged them, went back to an older state (:class:`StoreWentBack`), and the log no
    longer had them at hand. A :class:`RevertReport` reports them, and no :class:`LossReport`."""


class LogState(StrEnum):
    """What a log is doing."""

    OPEN = "open"
    """It takes events and writes them."""

    DRAINING = "draining"
    """Its body has ended; it takes no more events and writes what is left."""

    CLOSED = "closed"
    """It is over; every event is stored, or was reported lost."""

    UNUSABLE = "unusable"
    """Its store can no longer be written to; every further event is lost, or spilled."""

    BROKEN = "broken"
    """It failed by a defect of its own; every further event is lost."""


@attrs.frozen(kw_only=True)
class AppendFailureReport:
    """One append that did not succeed, whatever then became of its events.

    As a rule they are kept and tried again, after ``retry_in`` seconds. What is lost is reported in an
    :class:`LossReport` of its own.

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
    """Events that the log gave up. Every lost event stands in exactly one of these.

    Attributes:
      reason: why they were lost.
      events: the events, ascending by seq.
      count: how many: ``len(events)``.
      first_seq: lowest seq among them.
      last_seq: highest seq among them.
      in_doubt: True if they were offered to the store and the outcome is unknown: they may be
        stored all the same. False if they certainly are not.
    """

    reason: LossReason
    events: tuple[PersistedEvent, ...] = attrs.field(repr=False)
    in_doubt: bool
    count: int = attrs.field(init=False, default=attrs.Factory(_count, takes_self=True))
    first_seq: int = attrs.field(init=False, default=attrs.Factory(_first_seq, takes_self=True))
    last_seq: int = attrs.field(init=False, default=attrs.Factory(_last_seq, takes_self=True))


@attrs.frozen(kw_only=True)
class SpillFailureReport:
    """A write or a read of the spill file that did not succeed, or a ``sync`` of the store without which the
    file cannot give up what the store has. It is tried again.

    Its events stay in memory, or in the file; what the cap then takes is reported in an
    :class:`LossReport`.

    Attributes:
      path: of the spill file.
      error: what the operating system said, that ``max_spill_bytes`` is reached, or what ``sync`` raised (a
        ``TimeoutError`` if it was cancelled).
      events: how many events were to be written; 0 for a read and a ``sync``.
      retry_in: seconds until the next attempt; infinite if there will be none.
    """

    path: Path
    error: Exception
    events: int
    retry_in: float


@attrs.frozen(kw_only=True)
class SpillDamageReport:
    """Lines of the spill file that could not be read back. What they held is lost.

    Attributes:
      path: of the spill file. Once the rest of it is delivered, the file is kept beside it under a name
        that goes on with ``.damaged-``.
      events: how many events are lost; 0 if the file did not even begin as a spill file and was put aside on
        opening, what could be read of it being delivered: then nobody knows whether anything is missing.
      first_seq: lowest seq that they can have had.
      last_seq: ``first_seq + events - 1``.
    """

    path: Path
    events: int
    first_seq: int
    last_seq: int


@attrs.frozen(kw_only=True)
class SpillReport:
    """What a log left in its spill file when it closed: not lost, and not yet in the store. The next log
    that is opened with that file delivers it first.

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
      last_seq: the last seq that the store had when that was noticed.
      expected_seq: the highest seq that it had acknowledged before.
      again: how many events of this run are offered to the store again, since the log still had them. What
        the cap took of these at once is in a :class:`LossReport`.
      lost: how many events of this run are lost, with :attr:`LossReason.REVERTED`. Exact, unless seqs were
        left out in more than a thousand places; then it may be too high.
      earlier: lowest and highest seq of what the store no longer has from earlier runs; how many events that
        are is not known. None if it has all of those.
    """

    last_seq: int
    expected_seq: int
    again: int
    lost: int
    earlier: tuple[int, int] | None


Report: TypeAlias = (
    AppendFailureReport | LossReport | SpillFailureReport | SpillDamageReport | SpillReport | RevertReport
)
"""What ``on_failure`` is called with."""


@attrs.frozen(kw_only=True)
class LogStatistics:
    """A snapshot of a log's books, from :meth:`EventLog.statistics`.

    At every moment ``ingested == persisted + duplicate + pending + lost_total``.
    """

    ingested: int
    """Events that were given a seq since the log was opened, those of an earlier run included."""

    recovered: int
    """Those of them that an earlier run had left in the spill file."""

    filtered: int
    """Events that the filter kept out; they have no seq."""

    persisted: int
    """Events that are durable in the store. Falls when the store goes back (:class:`RevertReport`)."""

    duplicate: int
    """Events that the store already held, by their id, under another seq."""

    lost: Mapping[LossReason, int]
    """Events lost, per reason; reasons without a loss are left out. Read-only."""

    pending: int
    """Events accepted and not yet settled; they are in the channel, in the buffer, in flight, or spilled."""

    pending_bytes: int
    """Bytes of those of them that are in memory, counted as for ``max_event_bytes``."""

    spilled: int
    """Those of them that are in the spill file."""

    spill_bytes: int
    """Size of the spill file in bytes; 0 without one."""

    appends: int
    """Calls of the store's ``append_batch`` that have begun."""

    failures: int
    """Calls of the store's ``append_batch`` that did not succeed."""

    last_assigned_seq: int
    """Highest seq given out; the store's last seq when the log was opened, if none was."""

    last_durable_seq: int
    """Highest seq known to be in the store."""

    peak_pending: int
    """Most events that were pending at once, as seen when a batch was taken or an event lost."""

    peak_batch: int
    """Most events that were offered to the store in one append."""

    state: LogState
    """What the log is doing."""

    @property
    def lost_total(self) -> int:
        """Events lost, for whatever reason."""
        return sum(self.lost.values())


GAPS_SHOWN: Final = 10
"""Most gaps that a description names."""


@attrs.frozen(kw_only=True)
class Finding:
    """Something that is wrong with a log."""

    seq: int | None
    """Of the event; None if it is not about one."""

    problem: str
    """What is wrong."""


@attrs.frozen(kw_only=True)
class StoreVerification:
    """What was found when a log was looked over, from the ``verify`` of a store that has one."""

    events: int
    """Events looked at."""

    first_seq: int | None
    """Lowest seq among them; None if there is none."""

    last_seq: int | None
    """Highest seq among them."""

    problems: int
    """Things that are wrong; 0 for a log that is sound."""

    findings: tuple[Finding, ...]
    """The first of them."""

    gaps: int
    """Runs of seqs that hold no event, because it was lost, a duplicate, or pruned. No problem in itself."""

    missing: int
    """Seqs in all of these runs together."""

    first_gaps: tuple[tuple[int, int], ...]
    """The lowest of these runs, at most 10, each as first and last missing seq."""


@attrs.frozen(kw_only=True)
class StoreDescription:
    """What one log of a store holds, in numbers, from the ``describe`` of a store that has one."""

    events: int
    """Events held."""

    first_seq: int | None
    """Lowest seq held; None if the log is empty."""

    last_seq: int | None
    """Highest seq held; None if the log is empty."""

    highest_seq: int
    """Highest seq ever stored, which pruning does not lower; 0 before the first."""

    first_timestamp_ms: int | None
    """Earliest ``timestamp_ms`` held, milliseconds since 1970-01-01 UTC; None if the log is empty."""

    last_timestamp_ms: int | None
    """Latest ``timestamp_ms`` held; None if the log is empty."""

    distinct_event_types: int
    """How many event types occur."""

    event_types: tuple[tuple[str, int], ...]
    """The most frequent event types with the number of their events, most frequent first."""

    distinct_members: int
    """How many members occur."""

    members: tuple[tuple[str, int], ...]
    """The members with the most events, with that number, most first."""

    gaps: int
    """Runs of seqs between ``first_seq`` and ``last_seq`` that hold no event, because it was lost or a
    duplicate."""

    missing: int
    """Seqs in all of these runs together."""

    first_gaps: tuple[tuple[int, int], ...]
    """The lowest of these runs, at most 10, each as first and last missing seq."""

    size_bytes: int | None
    """Bytes on disk of the whole database, which may hold other logs too; None in memory."""

    wal_bytes: int | None = None
    """Bytes of them in SQLite's write-ahead log, which grows while others read; None in other stores."""

    schema_version: int | None
    """Version of the layout of the database; None in memory."""
