"""Stores that break S12: errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import NoReturn

import trio

from tests._helpers.broken_stores._broken import Broken, memory, reader
from tests._helpers.correct_stores import (
    CorrectFileReader,
    CorrectMemoryStore,
    Held,
)
from trio_eventlog import (
    CodecError,
    EventRejected,
    PersistedEvent,
)

# --- S12: errors ----------------------------------------------------------------------------------


class DriverErrorAfterClose(CorrectMemoryStore):
    def _check_usable(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


class Limited(CorrectMemoryStore):
    """Rejects events of more than 100 kB, as it may."""

    def _hold(self, event: PersistedEvent) -> Held:
        held = super()._hold(event)
        if len(held.text) > 100_000:
            raise CodecError("event", "too large")
        return held


class FirstRejectedOnly(Limited):
    def _reject(self, bad: Sequence[PersistedEvent], batch: Sequence[PersistedEvent], why: str) -> NoReturn:
        raise EventRejected(bad[:1], why)


class WholeBatchRejected(Limited):
    def _reject(self, bad: Sequence[PersistedEvent], batch: Sequence[PersistedEvent], why: str) -> NoReturn:
        raise EventRejected(batch, why)


class RejectedStoresTheRest(Limited):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except EventRejected as exc:
            rest = [event for event in events if event not in exc.events]
            await super().append_batch(rest)  # noqa: ASYNC120 - the fault is another
            raise


class TooLargeIsADriverError(Limited):
    def _hold(self, event: PersistedEvent) -> Held:
        try:
            return super()._hold(event)
        except CodecError:
            raise sqlite3.DataError("string or blob too big") from None


class ReaderDriverError(CorrectFileReader):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        await trio.lowlevel.checkpoint()
        raise sqlite3.OperationalError("attempt to write a readonly database")


BROKEN: tuple[Broken, ...] = (
    memory("S12", "a driver's error after closing", DriverErrorAfterClose),
    memory("S12", "first of the rejected events only", FirstRejectedOnly),
    memory("S12", "a driver's error for a large event", TooLargeIsADriverError),
    memory("S12", "a rejected batch is stored in part", RejectedStoresTheRest, "S4"),
    memory("S12", "the whole batch is rejected", WholeBatchRejected),
    reader("S12", "a driver's error for an append to a reader", ReaderDriverError),
)
