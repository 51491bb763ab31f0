"""Wrappers that break any store, each in one way that real stores are broken in.

They judge the harness: what it does not catch here it would not catch in the store that is wrapped either.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs
import trio

from trio_eventlog import EventQuery, EventStore, LogBusy, PersistedEvent, SequenceConflict, StoreUnusable
from trio_eventlog.testing._mutant import MUTANTS, Mutant, Passing, mutant
from trio_eventlog.testing._subject import StoreOpener

__all__ = ["MUTANTS", "Mutant", "open_mutant"]

_LEAVE_TIMEOUT: Final = 5.0


@asynccontextmanager
async def open_mutant(name: str | None, open_store: StoreOpener, location: Path) -> AsyncIterator[EventStore]:
    """Open the store that ``open_store`` opens, and break it; with None for a name, only wrap it."""
    kind = Passing if name is None else MUTANTS[name].wraps
    async with AsyncExitStack() as stack:
        try:
            inner = await stack.enter_async_context(open_store(location))
        except LogBusy:
            if kind is not NoLock:
                raise
            # Only in this process: that is enough for the check.
            yield NoLock.open_at[location]
            return
        store = kind(inner, location)
        if name is not None and MUTANTS[name].needs:
            store.last = await inner.last_seq()
        if isinstance(store, NoLock):
            NoLock.open_at[location] = store
        try:
            yield store
        finally:
            NoLock.open_at.pop(location, None)
            with trio.move_on_after(_LEAVE_TIMEOUT, shield=True):
                await store.leave()


# --- S1 to S4: appending --------------------------------------------------------------------------


@mutant("S1", "the last write of an id wins")
class LastWriteWins(Passing):
    """Shows what was appended last under an id."""

    def __init__(self, inner: EventStore, location: Path) -> None:
        super().__init__(inner, location)
        self._latest: dict[str, PersistedEvent] = {}

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        elsewhere = await super().append_batch(events)
        self._latest.update((event.id, event) for event in events)
        return elsewhere

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        return [attrs.evolve(self._latest.get(event.id, event), seq=event.seq) for event in found]


@mutant("S1", "repeats are not told")
class TellsNoRepeats(Passing):
    """Never says that an id is held under another seq."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        await super().append_batch(events)
        return ()


@mutant("S2", "seqs are 53 bits")
class RoundsSeqs(Passing):
    """Keeps seqs as floats."""

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        return [attrs.evolve(event, seq=min(int(float(event.seq)), 2**63 - 1)) for event in found]


@mutant("S3", "a conflict is not raised")
class NoConflict(Passing):
    """Drops a batch that meets others on their seqs."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except SequenceConflict:
            return ()


@mutant("S3", "the rest of a batch is stored on a conflict")
class PartOnConflict(Passing):
    """Stores what it can."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except SequenceConflict as exc:
            rest = [event for event in events if event.seq not in exc.seqs]
            await super().append_batch(rest)  # noqa: ASYNC120 - a wrapper that breaks the contract
            raise


@mutant("S4", "readers see half a batch")
class HalfVisible(Passing):
    """Appends in two halves."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        half = len(events) // 2
        first = await super().append_batch(events[:half])
        await trio.sleep(0.01)
        return {*first, *await super().append_batch(events[half:])}


@mutant("S4", "the append after a conflict is lost")
class LosesAfterConflict(Passing):
    """As with a transaction that was never rolled back."""

    _is_aborted = False

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        if self._is_aborted:
            self._is_aborted = False
            await trio.lowlevel.checkpoint()
            return ()
        try:
            return await super().append_batch(events)
        except SequenceConflict:
            self._is_aborted = True
            raise


# --- S5 and S6: filters ---------------------------------------------------------------------------


@mutant("S5", "two events are swapped")
class SwapsTwo(Passing):
    """Gives the last two in the wrong order."""

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        return [*found[:-2], *reversed(found[-2:])]


@mutant("S5", "a filter is ignored")
class IgnoresRun(Passing):
    """Does not look at ``run_id``."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        return await super().query(attrs.evolve(query, run_id=None))


@mutant("S5", "only the first event type counts")
class FirstTypeOnly(Passing):
    """Does not look at the other types."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        return await super().query(attrs.evolve(query, event_types=query.event_types[:1]))


@mutant("S5", "the limit is off by one")
class LimitOffByOne(Passing):
    """Gives one event more."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        limit = None if query.limit is None else query.limit + 1
        return await super().query(attrs.evolve(query, limit=limit))


@mutant("S5", "the cursor is inclusive")
class InclusiveCursor(Passing):
    """Gives the event on the cursor once more."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        after = query.after_seq
        return await super().query(attrs.evolve(query, after_seq=after - 1 if after else after))


@mutant("S5", "until_ms is inclusive")
class InclusiveUntil(Passing):
    """Gives the events of the last millisecond as well."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        until = query.until_ms
        later = None if until is None else min(until + 1, 2**63 - 1)
        return await super().query(attrs.evolve(query, until_ms=later))


@mutant("S5", "a result ends after 1,000 events")
class EndsAtThousand(Passing):
    """As a driver does that gives one page."""

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        return found[:1000]


@mutant("S6", "case does not count")
class FoldsCase(Passing):
    """Finds the members whose names differ in case."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        if query.member_id is None:
            return await super().query(query)
        wide = await super().query(attrs.evolve(query, member_id=None, limit=None))
        wanted = query.member_id.casefold()
        found = [event for event in wide if event.member_id and event.member_id.casefold() == wanted]
        return found[: query.limit]


# --- S7 and S8: values ----------------------------------------------------------------------------


class _Altering(Passing):
    """Gives payloads in which :meth:`altered` has taken the place of each value."""

    def altered(self, value: Any) -> Any:
        """What becomes of a value that is neither a list nor a dict."""
        return value

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        return [attrs.evolve(event, event=self._event(event.event)) for event in found]

    def _event(self, event: Any) -> Any:
        return attrs.evolve(event, payload=self._value(event.payload))

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(item) for item in value]
        return self.altered(value)


@mutant("S7", "large integers are rounded")
class RoundsIntegers(_Altering):
    """Keeps numbers as floats."""

    def altered(self, value: Any) -> Any:
        return int(float(value)) if type(value) is int and abs(value) < 2**1000 else value


@mutant("S7", "true becomes 1")
class TrueIsOne(_Altering):
    """Has no booleans."""

    def altered(self, value: Any) -> Any:
        return int(value) if type(value) is bool else value


@mutant("S7", "texts are normalized")
class Normalizes(_Altering):
    """Gives the composed form of accents."""

    def altered(self, value: Any) -> Any:
        return unicodedata.normalize("NFC", value) if type(value) is str else value


@mutant("S8", "objects are shared")
class SharesObjects(Passing):
    """Gives the very events that it was given."""

    def __init__(self, inner: EventStore, location: Path) -> None:
        super().__init__(inner, location)
        self._given: dict[str, PersistedEvent] = {}

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        elsewhere = await super().append_batch(events)
        for event in events:
            self._given.setdefault(event.id, event)
        return elsewhere

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        return [self._given.get(event.id, event) for event in found]


# --- S9 and S10: the end of the log, durability ---------------------------------------------------


@mutant("S9", "last_seq is too low")
class LowLastSeq(Passing):
    """Is one behind."""

    async def last_seq(self) -> int:
        return max(0, await super().last_seq() - 1)


@mutant("S10", "the last event of a batch is dropped")
class DropsLast(Passing):
    """Stores all but one."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        return await super().append_batch(events[:-1] if len(events) > 1 else events)


class _Late(Passing):
    """Keeps the last batch for itself until :meth:`flush`."""

    def __init__(self, inner: EventStore, location: Path) -> None:
        super().__init__(inner, location)
        self._held: Sequence[PersistedEvent] = ()

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        await self.flush()
        self._held = list(events)
        await trio.lowlevel.checkpoint()
        return ()

    async def flush(self) -> None:
        """Store what was kept."""
        held, self._held = self._held, ()
        if held:
            await super().append_batch(held)
        else:
            await trio.lowlevel.checkpoint()

    async def leave(self) -> None:
        await self.flush()


@mutant("S10", "an append is answered one append late")
class OneLate(_Late):
    """Shows what was appended after the next append."""


@mutant("S10", "an append returns before it is stored", "durable", "children")
class ReturnsEarly(_Late):
    """Stores what was appended before anybody looks: only a kill can tell."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        await self.flush()
        return await super().query(query)

    async def last_seq(self) -> int:
        await self.flush()
        return await super().last_seq()


@mutant("S10", "an event is repeated after reopening", "durable")
class RepeatsAfterReopening(Passing):
    """Gives twice what was there last when it was opened."""

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        twice = [event for event in found if event.seq == self.last]
        return sorted([*found, *twice], key=lambda event: event.seq)


@mutant("S10", "an event is forgotten on reopening", "durable")
class ForgetsOnReopening(Passing):
    """Does not give what was there last when it was opened."""

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        return [event for event in found if event.seq != self.last]


# --- S11 to S15: cancellation, errors, and other logs ---------------------------------------------


@mutant("S11", "Cancelled is swallowed")
class SwallowsCancelled(Passing):
    """Returns as if it had not been cancelled."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except trio.Cancelled:  # noqa: ASYNC103 - that is the defect
            return ()  # noqa: ASYNC104 - as above


@mutant("S11", "the event loop is blocked")
class BlocksLoop(Passing):
    """Waits without Trio."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        if len(events) >= (getattr(self, "max_batch", None) or 1_000):
            time.sleep(0.2)  # noqa: ASYNC251 - that is the defect
        return await super().append_batch(events)


@mutant("S11", "last_seq is no checkpoint")
class NoCheckpoint(Passing):
    """Answers from memory."""

    _known: int | None = None

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        elsewhere = await super().append_batch(events)
        self._known = await super().last_seq()
        return elsewhere

    async def last_seq(self) -> int:
        if self._known is not None:
            return self._known
        return await super().last_seq()


@mutant("S12", "the driver's error comes out")
class DriversError(Passing):
    """Raises what a driver might raise, once it is closed."""

    _is_closed = False

    async def last_seq(self) -> int:
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            raise ConnectionError("the connection is closed")
        return await super().last_seq()

    async def leave(self) -> None:
        self._is_closed = True
        await super().leave()


@mutant("S13", "there is no lock", "durable", "lock")
class NoLock(Passing):
    """Lets a second appender in."""

    open_at: ClassVar[dict[Path, Passing]] = {}


@mutant("S14", "another log's events leak")
class LeaksOtherLog(Passing):
    """Gives events of the logs beside it as well."""

    _open: ClassVar[list[Passing]] = []

    def __init__(self, inner: EventStore, location: Path) -> None:
        super().__init__(inner, location)
        self._open.append(self)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        found = await super().query(query)
        for other in [*self._open]:
            if other is not self and other.location != self.location:
                found += await other.inner.query(query)
        return found

    async def leave(self) -> None:
        self._open.remove(self)
        await super().leave()


@mutant("S15", "a file is left open")
class LeavesFileOpen(Passing):
    """Never closes what it opened."""

    def __init__(self, inner: EventStore, location: Path) -> None:
        super().__init__(inner, location)
        os.open(os.devnull, os.O_RDONLY)


@mutant("S15", "an error on leaving")
class FailsOnLeaving(Passing):
    """Raises when it is left after an append."""

    _has_appended = False

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        elsewhere = await super().append_batch(events)
        self._has_appended = True
        return elsewhere

    async def leave(self) -> None:
        await super().leave()
        if self._has_appended:
            raise StoreUnusable("the connection was lost while closing")
