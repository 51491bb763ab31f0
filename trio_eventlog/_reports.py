"""What a log says of itself: statistics, failures and losses.

Floor 0: attrs and the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import attrs

from trio_eventlog._events import PersistedEvent


class LossReason(StrEnum):
    """Why events were lost."""

    CAP = "cap"
    """More events waited than ``retry_buffer_cap`` allows; the oldest went."""

    REJECTED = "rejected"
    """The store said that it can never hold them."""

    UNUSABLE = "unusable"
    """The store became unusable while they waited, or before they came."""

    SHUTDOWN = "shutdown"
    """They were not stored when the grace period was over."""

    BROKEN = "broken"
    """The log itself failed (:class:`EventLogBroken`)."""


class LogState(StrEnum):
    """What a log is doing."""

    OPEN = "open"
    """It takes events and writes them."""

    DRAINING = "draining"
    """Its body has ended; it takes no more events and writes what is left."""

    CLOSED = "closed"
    """It is over; every event is stored, or was reported lost."""

    UNUSABLE = "unusable"
    """Its store can no longer be written to; every further event is lost."""

    BROKEN = "broken"
    """It failed by a defect of its own; every further event is lost."""


@attrs.frozen(kw_only=True)
class AppendFailure:
    """One append that did not succeed, whatever then became of its events.

    As a rule they are kept and tried again, after ``retry_in`` seconds. What is lost is reported in an
    :class:`EventLoss` of its own.

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


def _count(loss: EventLoss) -> int:
    return len(loss.events)


def _first_seq(loss: EventLoss) -> int:
    return loss.events[0].seq


def _last_seq(loss: EventLoss) -> int:
    return loss.events[-1].seq


@attrs.frozen(kw_only=True)
class EventLoss:
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
class LogStatistics:
    """A snapshot of a log's books, from :meth:`EventLog.statistics`.

    At every moment ``ingested == persisted + duplicate + pending + lost_total``.
    """

    ingested: int
    """Events that were given a seq since the log was opened."""

    filtered: int
    """Events that the filter kept out; they have no seq."""

    persisted: int
    """Events that are durable in the store."""

    duplicate: int
    """Events that the store already held, by their id, under another seq."""

    lost: Mapping[LossReason, int]
    """Events lost, per reason; reasons without a loss are left out. Read-only."""

    pending: int
    """Events accepted and not yet settled; they are in the channel, in the buffer, or in flight."""

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

    schema_version: int | None
    """Version of the layout of the database; None in memory."""
