"""The state of a log, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

from trio_eventlog._model._errors import LossReason


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
    """Events accepted and not yet stored or lost: in the channel, in the buffer, in flight, or spilled."""

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
