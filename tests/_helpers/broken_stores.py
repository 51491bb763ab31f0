"""Stores that break one clause of the contract each, by a fault that real stores have.

What checks stores must find every one of them. Derived from the correct stores, so that the lines of a
class are its fault.
"""

from __future__ import annotations

import copy
import fcntl
import os
import re
import sqlite3
import threading
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
import trio

from tests._helpers.correct_stores import (
    TOP,
    CorrectFileReader,
    CorrectFileStore,
    CorrectMemoryStore,
    Held,
    opened_file,
    opened_file_reader,
    opened_memory,
)
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventQuery,
    EventRejected,
    EventStore,
    LogBusy,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
    StoreError,
)

F = TypeVar("F", bound=CorrectFileStore)

# How long an append takes whose fault shows when it is cancelled in the midst, seconds.
WHILE = 0.01


# --- S1: a repeat changes nothing -----------------------------------------------------------------


class OnlyWithinABatch(CorrectMemoryStore):
    def _known(self, event: PersistedEvent) -> Held | None:
        return None


class OnlyBetweenBatches(CorrectMemoryStore):
    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        new = [held for held in batch if self._known(held.event) is None]
        return new, super()._sort_out([held for held in batch if self._known(held.event)])[1]


class DuplicateDropsBatch(CorrectMemoryStore):
    repeats = False

    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        new, elsewhere = super()._sort_out(batch)
        self.repeats = len(new) < len(batch)
        return new, elsewhere

    async def _commit(self, new: Sequence[Held]) -> None:
        if not self.repeats:
            await super()._commit(new)


class LastWriteWins(CorrectMemoryStore):
    def _known(self, event: PersistedEvent) -> Held | None:
        known = super()._known(event)
        return known if known and known.event.seq != event.seq else None

    def _taken(self, new: Sequence[Held]) -> set[int]:
        return super()._taken([held for held in new if held.event.id not in self.by_id])


class WindowInCount(CorrectMemoryStore):
    """Knows the latest 1,000 events."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.numbers: dict[str, int] = {}

    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        for held in new:
            self.numbers[held.event.id] = len(self.numbers)

    def _known(self, event: PersistedEvent) -> Held | None:
        known = super()._known(event)
        return known if known and len(self.numbers) - self.numbers[event.id] <= 1_000 else None


class WindowInTime(CorrectMemoryStore):
    """Knows the events of the last 0.1 s."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.times: dict[str, float] = {}

    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        self.times.update((held.event.id, time.monotonic()) for held in new)

    def _known(self, event: PersistedEvent) -> Held | None:
        known = super()._known(event)
        return known if known and time.monotonic() - self.times[event.id] <= 0.1 else None


class IdsForgottenOnReopen(CorrectFileStore):
    async def _open(self) -> None:
        await super()._open()
        self.by_id.clear()


class RepeatIsAnError(CorrectMemoryStore):
    def _known(self, event: PersistedEvent) -> Held | None:
        if super()._known(event):
            raise StoreError("UNIQUE constraint failed")
        return None


class ElsewhereNotReturned(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        await super().append_batch(events)
        return []


class AllRepeatsReturned(CorrectMemoryStore):
    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        new, _ = super()._sort_out(batch)
        return new, [held.event.seq for held in set(batch) - set(new)]


# --- S2: any order, and gaps ----------------------------------------------------------------------


class LowerSeqsRefused(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        if any(held.event.seq < self.highest for held in new):
            raise StoreError("out of order")
        await super()._commit(new)


class LowerSeqsDropped(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        await super()._commit([held for held in new if held.event.seq > self.highest])


class GapsClosed(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        last = self.highest
        renumbered: list[Held] = []
        for held in self._ordered(list(new)):
            last = max(last, min(held.event.seq, last + 1))
            moved = held.event.seq > last
            renumbered.append(self._hold(attrs.evolve(held.event, seq=last)) if moved else held)
        await super()._commit(renumbered)


class BatchMustBeSorted(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        if list(new) != self._ordered(list(new)):
            raise StoreError("batch not in order")
        await super()._commit(new)


# --- S3: a seq that is taken ----------------------------------------------------------------------


class TakenSeqOverwritten(CorrectMemoryStore):
    def _taken(self, new: Sequence[Held]) -> set[int]:
        return set()


class TakenSeqIgnored(CorrectMemoryStore):
    def _taken(self, new: Sequence[Held]) -> set[int]:
        return set()

    def _store(self, new: Sequence[Held]) -> None:
        for held in new:
            if held.event.seq not in self.by_seq:
                super()._store([held])


class ConflictStoresTheRest(CorrectMemoryStore):
    def _refuse_taken(self, new: Sequence[Held]) -> None:
        if taken := self._taken(new):
            self._store([held for held in new if held.event.seq not in taken])
            raise SequenceConflict(sorted(taken))


class ConflictBeforeIds(CorrectMemoryStore):
    """A known event is set aside only if it comes with the seq that it has."""

    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        self._refuse_taken([held for held in batch if self._is_elsewhere(held.event)])
        return super()._sort_out(batch)

    def _is_elsewhere(self, event: PersistedEvent) -> bool:
        known = self._known(event)
        return known is not None and known.event.seq != event.seq


class ConflictWithinBatchUnnoticed(CorrectMemoryStore):
    def _taken(self, new: Sequence[Held]) -> set[int]:
        return {held.event.seq for held in new if held.event.seq in self.by_seq}


class ConflictIsAPlainError(CorrectMemoryStore):
    def _refuse_taken(self, new: Sequence[Held]) -> None:
        try:
            super()._refuse_taken(new)
        except SequenceConflict as exc:
            raise StoreError(str(exc)) from exc


# --- S4: all or nothing ---------------------------------------------------------------------------


class EventByEvent(CorrectMemoryStore):
    size = 1

    async def _commit(self, new: Sequence[Held]) -> None:
        for start in range(0, len(new), self.size):
            await super()._commit(new[start : start + self.size])
            await trio.lowlevel.checkpoint()


class ChunkByChunk(EventByEvent):
    size = 100


class PartStoredIfCancelled(CorrectMemoryStore):
    """No reader sees a part of a batch, unless it stays at that."""

    async def _commit(self, new: Sequence[Held]) -> None:
        done: list[Held] = []
        try:
            for held in new:
                done.append(held)
                await trio.lowlevel.checkpoint()
        finally:
            await super()._commit(done)  # noqa: ASYNC102 - has no checkpoint


class AbortedForEver(CorrectMemoryStore):
    aborted = False

    def _refuse_taken(self, new: Sequence[Held]) -> None:
        if self.aborted:
            raise StoreError("current transaction is aborted")
        self.aborted = bool(self._taken(new))
        super()._refuse_taken(new)


class CancelledAppendLandsLater(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        try:
            await trio.sleep(WHILE)
        except trio.Cancelled:
            # Whoever opened the store need not know of a nursery: a driver has threads.
            trio.lowlevel.spawn_system_task(self._land, new)
            raise
        await super()._commit(new)

    async def _land(self, new: Sequence[Held]) -> None:
        await trio.sleep(0.03)
        # It is late, and still clever enough to do nothing else wrong.
        if not self.closed:
            new, _ = self._sort_out(new)
            self._store([held for held in new if held.event.seq not in self.by_seq])


class CancelledAppendKeepsLock(CorrectMemoryStore):
    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.connection = trio.Semaphore(1)

    async def _commit(self, new: Sequence[Held]) -> None:
        await self.connection.acquire()
        try:
            await trio.sleep(WHILE)
            await super()._commit(new)
        except Exception:
            # Cancelled is no Exception.
            self.connection.release()
            raise
        self.connection.release()


# --- S5: filters, order, limit --------------------------------------------------------------------


class InclusiveCursor(CorrectMemoryStore):
    def _after(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.after_seq is None or event.seq >= query.after_seq


class ExclusiveSince(CorrectMemoryStore):
    def _since(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.since_ms is None or event.timestamp_ms > query.since_ms


class InclusiveUntil(CorrectMemoryStore):
    def _until(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.until_ms is None or event.timestamp_ms <= query.until_ms


class LimitBeforeFilter(CorrectMemoryStore):
    def _candidates(self, query: EventQuery) -> list[Held]:
        return self._limited(self._ordered(super()._candidates(query)), query.limit)


class FalsyLimit(CorrectMemoryStore):
    def _limited(self, found: list[Held], limit: int | None) -> list[Held]:
        return super()._limited(found, limit or None)


class FalsyUntil(CorrectMemoryStore):
    def _until(self, event: PersistedEvent, query: EventQuery) -> bool:
        return not query.until_ms or event.timestamp_ms < query.until_ms


class TypesOfModulesOnly(CorrectMemoryStore):
    def _of_type(self, event: PersistedEvent, types: frozenset[str]) -> bool:
        return isinstance(event.event, AgentEvent) or super()._of_type(event, types)


class RunIdOfAgentsOnly(CorrectMemoryStore):
    def _in_scopes(self, event: PersistedEvent, query: EventQuery) -> bool:
        if query.run_id is not None and isinstance(event.event, ModuleEvent):
            return False
        return super()._in_scopes(event, query)


class OrForAnd(CorrectMemoryStore):
    def _matches(self, event: PersistedEvent, query: EventQuery, types: frozenset[str]) -> bool:
        given = attrs.asdict(query, filter=lambda field, value: value not in (None, ()), recurse=False)
        given.pop("limit", None)
        parts = [EventQuery(**{name: value}) for name, value in given.items()]
        match = super()._matches
        return not parts or any(match(event, part, frozenset(part.event_types)) for part in parts)


class AtMost999Types(CorrectMemoryStore):
    def _types(self, query: EventQuery) -> tuple[str, ...]:
        if len(query.event_types) > 999:
            raise StoreError("too many SQL variables")
        return super()._types(query)


class PageSize(CorrectMemoryStore):
    def _limited(self, found: list[Held], limit: int | None) -> list[Held]:
        return super()._limited(found, limit)[:1_000]


class OrderOfInsertion(CorrectMemoryStore):
    def _ordered(self, found: list[Held]) -> list[Held]:
        return found


class Descending(CorrectMemoryStore):
    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        return (await super().query(query))[::-1]


class FirstTypeOnly(CorrectMemoryStore):
    def _types(self, query: EventQuery) -> tuple[str, ...]:
        return query.event_types[:1]


class LimitKeepsHighest(CorrectMemoryStore):
    def _limited(self, found: list[Held], limit: int | None) -> list[Held]:
        return found if limit is None else found[max(0, len(found) - limit) :]


# --- S6: strings compare exactly ------------------------------------------------------------------


class CaseInsensitive(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return text.casefold()


class PrefixMatch(CorrectMemoryStore):
    def _same(self, wanted: str, found: object) -> bool:
        return isinstance(found, str) and found.startswith(wanted)


class LikePatterns(CorrectMemoryStore):
    def _same(self, wanted: str, found: object) -> bool:
        pattern = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in wanted)
        return isinstance(found, str) and re.fullmatch(pattern, found, re.DOTALL) is not None


class TrailingSpaceTrimmed(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return text.rstrip()


class EmptyIsNoFilter(CorrectMemoryStore):
    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        names = ("member_id", "identity", "mob_id", "run_id", "step_id")
        filters = {name: getattr(query, name) or None for name in names}
        return await super().query(attrs.evolve(query, **filters))


class Normalised(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return unicodedata.normalize("NFC", text)


class CaseInsensitiveIds(CorrectMemoryStore):
    def _identity(self, event: PersistedEvent) -> str:
        return event.id.casefold()


class NumbersAsStrings(CorrectMemoryStore):
    def _same(self, wanted: str, found: object) -> bool:
        return super()._same(wanted, str(found) if type(found) is int else found)


class AccentsFolded(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))


# --- S7: what is read equals what was written -----------------------------------------------------


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with everything in it changed, from the inside out; keys stay as they are."""
    if isinstance(value, list):
        value = [mapped(item, change) for item in value]
    elif isinstance(value, dict):
        value = {key: mapped(item, change) for key, item in value.items()}
    return change(value)


class DamagedPayload(CorrectMemoryStore):
    """Filters see the payload undamaged, as if they had columns of their own."""

    def _give(self, held: Held) -> PersistedEvent:
        event = super()._give(held)
        payload = mapped(event.event.payload, self._damaged)
        return attrs.evolve(event, event=attrs.evolve(event.event, payload=payload))

    def _damaged(self, value: Any) -> Any:
        raise NotImplementedError


class TextCutAtNul(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return value.split("\0")[0] if isinstance(value, str) else value


class IntegersThroughFloats(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return int(float(value)) if type(value) is int else value


class TrueIsOne(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return int(value) if type(value) is bool else value


class FloatsAreIntegers(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return int(value) if type(value) is float and value.is_integer() else value


class EmptyIsNone(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return None if value == "" else value


class NoneDropped(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None}


class IntegersClamped(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return min(value, TOP) if type(value) is int else value


class BeyondTheBmp(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return re.sub("[\U00010000-\U0010ffff]", "\ufffd", value) if isinstance(value, str) else value


class SeqThroughFloat(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        event = super()._give(held)
        return attrs.evolve(event, seq=int(float(event.seq)))


class TimeInSeconds(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        event = super()._give(held)
        return attrs.evolve(event, timestamp_ms=event.timestamp_ms // 1_000 * 1_000)


class MemberIsTheAgent(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        event = super()._give(held)
        return attrs.evolve(event, member_id=getattr(event.event, "agent_id", None))


class BoundsOverflow(CorrectMemoryStore):
    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        bounds = (query.since_ms, query.until_ms, query.limit, query.after_seq)
        if any(bound is not None and bound > TOP for bound in bounds):
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return await super().query(query)


# --- S8: nothing is shared ------------------------------------------------------------------------


class KeepsGivenObjects(CorrectMemoryStore):
    def _hold(self, event: PersistedEvent) -> Held:
        return attrs.evolve(super()._hold(event), event=event)

    def _give(self, held: Held) -> PersistedEvent:
        return copy.deepcopy(held.event)


class KeepsShallowCopies(KeepsGivenObjects):
    def _hold(self, event: PersistedEvent) -> Held:
        held = super()._hold(event)
        return attrs.evolve(held, event=with_shallow_copy(held.event))


class GivesItsOwnObjects(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        return held.event


class GivesShallowCopies(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        return with_shallow_copy(held.event)


def with_shallow_copy(event: PersistedEvent) -> PersistedEvent:
    return attrs.evolve(event, event=attrs.evolve(event.event, payload=copy.copy(event.event.payload)))


class GivesItsOwnList(CorrectMemoryStore):
    """The events in the list are the reader's own; only the list is not."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.results: dict[tuple[EventQuery, int], list[PersistedEvent]] = {}

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        found = await super().query(query)
        # A log only grows: as many events are the same events.
        result = self.results.setdefault((query, len(found)), found)
        # What a reader has cleared stays empty, what a reader has added stays there.
        result[:] = [*found[: len(result)], *result[len(found) :]]
        return result


# --- S9: last_seq ---------------------------------------------------------------------------------


class LastSeqIsACount(CorrectMemoryStore):
    async def last_seq(self) -> int:
        await super().last_seq()
        return len(self.by_seq)


class LastSeqIsTheLatest(CorrectMemoryStore):
    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        self.highest = new[-1].event.seq


class LastSeqCountsRepeats(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        elsewhere = await super().append_batch(events)
        self.highest = max([self.highest, *elsewhere])
        return elsewhere


class LastSeqForgottenOnReopen(CorrectFileStore):
    async def _open(self) -> None:
        await super()._open()
        self.highest = 0


# --- S10: readable and kept -----------------------------------------------------------------------


class FirstReadCached(CorrectMemoryStore):
    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.cache: dict[EventQuery, list[Held]] = {}

    async def _select(self, query: EventQuery) -> list[Held]:
        if query not in self.cache:
            self.cache[query] = await super()._select(query)
        return self.cache[query]


class SeenOneAppendLater(CorrectMemoryStore):
    latest: Sequence[Held] = ()

    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        self.latest = new

    def _candidates(self, query: EventQuery) -> list[Held]:
        latest = set(self.latest)
        return [held for held in super()._candidates(query) if held not in latest]


class LostOnClose(CorrectFileStore):
    """A batch is written when the next one comes."""

    pending = b""

    def _write(self, line: bytes) -> None:
        written, self.pending = self.pending, line
        super()._write(written)


class LostOnKill(LostOnClose):
    def _free(self) -> None:
        if self.pending:
            self._write(b"")
        super()._free()


class FirstBatchSurvives(CorrectFileStore):
    def _new_lines(self) -> list[bytes]:
        return super()._new_lines()[:1]


class ReaderGoesBack(CorrectFileReader):
    """Every third query is answered from a backup, which has the first batch."""

    backup: list[Held] | None = None
    queries = 0

    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        if self.backup is None:
            self.backup = list(new)

    def _candidates(self, query: EventQuery) -> list[Held]:
        self.queries += 1
        return super()._candidates(query) if self.queries % 3 else self.backup or []


class ReaderSeesHalf(CorrectFileReader):
    """The second half of a batch is seen with the next query."""

    late: Sequence[Held] = ()

    def _store(self, new: Sequence[Held]) -> None:
        half = (len(new) + 1) // 2
        super()._store([*self.late, *new[:half]])
        self.late = new[half:]

    async def _refresh(self) -> None:
        late, self.late = self.late, ()
        super()._store(late)
        await super()._refresh()


# --- S11: checkpoints, cancellation, blocking -----------------------------------------------------


class EmptyBatchIsNoCheckpoint(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        self._check_usable()
        return await super().append_batch(events) if events else []


class LimitZeroIsNoCheckpoint(CorrectMemoryStore):
    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        self._check_usable()
        return [] if query.limit == 0 else await super().query(query)


class LastSeqIsNoCheckpoint(CorrectMemoryStore):
    async def last_seq(self) -> int:
        self._check_usable()
        return self.highest


class ShieldedAppend(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        with trio.CancelScope(shield=True):
            return await super().append_batch(events)


class SwallowsCancelled(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        try:
            await trio.sleep(WHILE)
        except trio.Cancelled:  # noqa: ASYNC103 - the fault
            return  # noqa: ASYNC104 - the fault
        await super()._commit(new)


class CancelledIsAnError(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except trio.Cancelled as exc:
            raise StoreError("aborted") from exc  # noqa: ASYNC104 - the fault


class BlocksAsleep(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        if len(events) >= 1_000:
            time.sleep(0.3)  # noqa: ASYNC251 - the fault
        return await super().append_batch(events)


class BlocksAtWork(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        end = time.thread_time() + 0.3
        while len(events) >= 1_000 and time.thread_time() < end:
            pass
        return await super().append_batch(events)


class SlowToCancel(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)
            raise

    async def _commit(self, new: Sequence[Held]) -> None:
        await trio.sleep(WHILE)
        await super()._commit(new)


class OneCallAtATime(CorrectMemoryStore):
    busy = False

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        return await self._alone(partial(super().append_batch, events))

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        return await self._alone(partial(super().query, query))

    async def _alone(self, call: Callable[[], Any]) -> Any:
        if self.busy:
            raise trio.BusyResourceError("another task uses this connection")
        self.busy = True
        try:
            return await call()
        finally:
            self.busy = False


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


# --- S13: one appender ----------------------------------------------------------------------------


class NoLock(CorrectFileStore):
    def _acquire_lock(self) -> None:
        pass


LOCKED: set[Path] = set()


class LockWithinProcess(CorrectFileStore):
    locked = False

    def _acquire_lock(self) -> None:
        if self.location in LOCKED:
            raise LogBusy("somebody else appends to this log")
        LOCKED.add(self.location)
        self.locked = True

    def _release_lock(self) -> None:
        if self.locked:
            LOCKED.remove(self.location)


class LockOutlivesProcess(CorrectFileStore):
    def _acquire_lock(self) -> None:
        try:
            self.lock_fd = os.open(self.location / "lock", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        except FileExistsError:
            raise LogBusy("somebody else appends to this log") from None

    def _release_lock(self) -> None:
        if self.lock_fd is not None:
            (self.location / "lock").unlink()
        super()._release_lock()


class LockOfTheProcess(CorrectFileStore):
    """POSIX locks belong to the process: to itself it grants any number."""

    def _acquire_lock(self) -> None:
        self.lock_fd = os.open(self.location / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.lockf(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LogBusy("somebody else appends to this log") from None


class BusyIsAPlainError(CorrectFileStore):
    def _acquire_lock(self) -> None:
        try:
            super()._acquire_lock()
        except LogBusy:
            raise StoreError("database is locked") from None


# --- S14: logs do not see each other --------------------------------------------------------------

# What is open, by the directory that the locations are in: one run of a check knows nothing of another.
DATABASES: dict[Path, list[OneDatabase]] = {}


class OneDatabase(CorrectMemoryStore):
    """Knows the other logs that are open. Correct as long as it makes nothing of that."""

    async def _open(self) -> None:
        await super()._open()
        self.siblings.append(self)

    def _free(self) -> None:
        if self in self.siblings:
            self.siblings.remove(self)

    @property
    def siblings(self) -> list[OneDatabase]:
        return DATABASES.setdefault(self.location.parent, [])


class IdsShared(OneDatabase):
    def _known(self, event: PersistedEvent) -> Held | None:
        found = (log.by_id.get(event.id) for log in self.siblings)
        return next((held for held in found if held is not None), None)


class QueriesShared(OneDatabase):
    def _candidates(self, query: EventQuery) -> list[Held]:
        return [held for log in self.siblings for held in log.by_seq.values()]


class LastSeqShared(OneDatabase):
    async def last_seq(self) -> int:
        await super().last_seq()
        return max(log.highest for log in self.siblings)


# --- S15: leaving frees everything ----------------------------------------------------------------


@asynccontextmanager
async def opened_without_finally(cls: type[F], location: Path) -> AsyncIterator[F]:
    store = cls(location)
    await store._open()
    yield store
    await store._leave()


class CancelledLeavingKeepsLock(CorrectFileStore):
    async def _leave(self) -> None:
        await trio.lowlevel.checkpoint()
        await super()._leave()


class LeavesAThread(CorrectMemoryStore):
    async def _open(self) -> None:
        await super()._open()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class LeavesADescriptor(CorrectMemoryStore):
    async def _open(self) -> None:
        await super()._open()
        os.open(os.devnull, os.O_RDONLY)  # noqa: ASYNC230 - opens no disk


# --- all of them ----------------------------------------------------------------------------------

OpenStore = Callable[[Path], AbstractAsyncContextManager[EventStore]]


@attrs.frozen
class Broken:
    """A store that breaks a clause.

    Attributes:
      name: what is wrong with it.
      clause: the clause that it breaks.
      open_store: opens it, in a child process, too.
      durable: whether it claims to be.
      open_reader: opens it read-only.
      also: clauses that it cannot help breaking as well.
    """

    name: str
    clause: str
    open_store: OpenStore
    durable: bool = False
    open_reader: OpenStore | None = None
    also: frozenset[str] = frozenset()


def memory(clause: str, name: str, cls: type[CorrectMemoryStore], *also: str) -> Broken:
    return Broken(name, clause, partial(opened_memory, cls), also=frozenset(also))


def file(clause: str, name: str, cls: type[CorrectFileStore], *also: str) -> Broken:
    return Broken(name, clause, partial(opened_file, cls), durable=True, also=frozenset(also))


def reader(clause: str, name: str, cls: type[CorrectFileReader], *also: str) -> Broken:
    return Broken(
        name,
        clause,
        partial(opened_file, CorrectFileStore),
        durable=True,
        open_reader=partial(opened_file_reader, cls),
        also=frozenset(also),
    )


# Whatever looks again after a reopen.
REOPENED = ("S1", "S5", "S6", "S7", "S9", "S13", "S15")
# Whatever reads more than once, or more than one event, may notice.
ANY = tuple(f"S{number}" for number in range(1, 16))

BROKEN: tuple[Broken, ...] = (
    memory("S1", "idempotent only within a batch", OnlyWithinABatch, "S3", "S4", "S9", "S11"),
    memory("S1", "idempotent only between batches", OnlyBetweenBatches, "S3"),
    memory("S1", "a duplicate drops its whole batch", DuplicateDropsBatch),
    memory("S1", "last write wins", LastWriteWins),
    memory("S1", "ids known for 1,000 newer events", WindowInCount, "S11"),
    memory("S1", "ids known for 0.1 s", WindowInTime, "S11"),
    file("S1", "ids forgotten on reopen", IdsForgottenOnReopen),
    memory("S1", "a repeat is an error", RepeatIsAnError, "S3", "S4", "S9", "S11"),
    memory("S1", "repeats on another seq not returned", ElsewhereNotReturned),
    memory("S1", "all repeats returned", AllRepeatsReturned),
    memory("S2", "lower seqs refused", LowerSeqsRefused, "S5", "S9"),
    memory("S2", "lower seqs dropped", LowerSeqsDropped, "S5", "S9"),
    memory("S2", "gaps closed", GapsClosed, "S1", "S3", "S4", "S5", "S7", "S9", "S14"),
    memory("S2", "a batch must be sorted", BatchMustBeSorted, "S5", "S9"),
    memory("S3", "a taken seq is overwritten", TakenSeqOverwritten),
    memory("S3", "a newcomer on a taken seq is ignored", TakenSeqIgnored),
    memory("S3", "a conflict stores the rest of the batch", ConflictStoresTheRest, "S4", "S9"),
    memory("S3", "conflicts looked for before known ids are set aside", ConflictBeforeIds, "S1"),
    memory("S3", "conflicts within a batch unnoticed", ConflictWithinBatchUnnoticed),
    memory("S3", "a conflict is a plain StoreError", ConflictIsAPlainError),
    memory("S4", "committed event by event", EventByEvent),
    memory("S4", "committed in chunks of 100", ChunkByChunk),
    memory("S4", "part stored if cancelled", PartStoredIfCancelled),
    memory("S4", "aborted for ever by a conflict", AbortedForEver),
    memory("S4", "a cancelled append lands later", CancelledAppendLandsLater),
    memory("S4", "a cancelled append keeps the inner lock", CancelledAppendKeepsLock, "S11"),
    memory("S5", "inclusive cursor", InclusiveCursor),
    memory("S5", "exclusive since_ms", ExclusiveSince),
    memory("S5", "inclusive until_ms", InclusiveUntil),
    memory("S5", "limit before filter", LimitBeforeFilter),
    memory("S5", "limit 0 is no limit", FalsyLimit),
    memory("S5", "until_ms 0 is no filter", FalsyUntil),
    memory("S5", "event_types filter module events only", TypesOfModulesOnly, "S6"),
    memory("S5", "run_id finds agent events only", RunIdOfAgentsOnly, "S6", "S7", "S8", "S14"),
    memory("S5", "OR for AND", OrForAnd),
    memory("S5", "at most 999 event types", AtMost999Types),
    memory("S5", "hidden page size of 1,000", PageSize),
    memory("S5", "order of insertion", OrderOfInsertion, "S2"),
    memory("S5", "descending", Descending, *ANY),
    memory("S5", "first of event_types only", FirstTypeOnly),
    memory("S5", "limit keeps the highest seqs", LimitKeepsHighest),
    memory("S6", "case-insensitive", CaseInsensitive),
    memory("S6", "prefixes match", PrefixMatch),
    memory("S6", "LIKE wildcards", LikePatterns),
    memory("S6", "trailing white space trimmed", TrailingSpaceTrimmed),
    memory("S6", "an empty string is no filter", EmptyIsNoFilter),
    memory("S6", "normalised to NFC", Normalised),
    memory("S6", "ids case-insensitive", CaseInsensitiveIds, "S1", "S7"),
    memory("S6", "numbers found as strings", NumbersAsStrings),
    memory("S6", "accents folded", AccentsFolded),
    memory("S7", "text cut at NUL", TextCutAtNul),
    memory("S7", "integers through floats", IntegersThroughFloats),
    memory("S7", "seq through float", SeqThroughFloat, "S2"),
    memory("S7", "time in seconds", TimeInSeconds, "S14"),
    memory("S7", "true is 1", TrueIsOne),
    memory("S7", "1.0 is 1", FloatsAreIntegers),
    memory("S7", "bounds overflow", BoundsOverflow, "S5", "S11", "S12"),
    memory("S7", "an empty string is None", EmptyIsNone),
    memory("S7", "the member is the agent", MemberIsTheAgent),
    memory("S7", "None dropped from dicts", NoneDropped),
    memory("S7", "integers clamped", IntegersClamped),
    memory("S7", "characters beyond the BMP damaged", BeyondTheBmp),
    memory("S8", "keeps the given objects", KeepsGivenObjects),
    memory("S8", "keeps shallow copies", KeepsShallowCopies),
    memory("S8", "gives its own objects", GivesItsOwnObjects),
    memory("S8", "gives shallow copies", GivesShallowCopies),
    memory("S8", "gives its own list", GivesItsOwnList),
    memory("S9", "last_seq is a count", LastSeqIsACount, "S14"),
    memory("S9", "last_seq is the latest, not the highest", LastSeqIsTheLatest),
    memory("S9", "last_seq counts repeats", LastSeqCountsRepeats),
    file("S9", "last_seq forgotten on reopen", LastSeqForgottenOnReopen),
    memory("S10", "first read cached for ever", FirstReadCached, *ANY),
    memory("S10", "seen one append later", SeenOneAppendLater, *ANY),
    file("S10", "last batch lost on close", LostOnClose, *REOPENED),
    file("S10", "last batch lost on a kill", LostOnKill),
    file("S10", "first batch alone survives a reopen", FirstBatchSurvives, *REOPENED),
    reader("S10", "a reader goes back", ReaderGoesBack),
    reader("S10", "a reader sees half a batch", ReaderSeesHalf, "S4"),
    memory("S11", "an empty batch is no checkpoint", EmptyBatchIsNoCheckpoint),
    memory("S11", "limit 0 is no checkpoint", LimitZeroIsNoCheckpoint),
    memory("S11", "last_seq is no checkpoint", LastSeqIsNoCheckpoint),
    memory("S11", "a cancelled append stores and returns", ShieldedAppend),
    memory("S11", "swallows Cancelled", SwallowsCancelled, "S4", "S10"),
    memory("S11", "Cancelled becomes a StoreError", CancelledIsAnError, "S15"),
    memory("S11", "blocks the loop asleep", BlocksAsleep),
    memory("S11", "blocks the loop at work", BlocksAtWork),
    memory("S11", "slow to be cancelled", SlowToCancel, "S4"),
    memory("S11", "one call at a time", OneCallAtATime, "S4", "S12"),
    memory("S12", "a driver's error after closing", DriverErrorAfterClose),
    memory("S12", "first of the rejected events only", FirstRejectedOnly),
    memory("S12", "a driver's error for a large event", TooLargeIsADriverError),
    memory("S12", "a rejected batch is stored in part", RejectedStoresTheRest, "S4"),
    memory("S12", "the whole batch is rejected", WholeBatchRejected),
    reader("S12", "a driver's error for an append to a reader", ReaderDriverError),
    file("S13", "no lock", NoLock),
    file("S13", "lock within the process", LockWithinProcess),
    file("S13", "lock outlives its process", LockOutlivesProcess, "S10"),
    file("S13", "lock of the process", LockOfTheProcess),
    file("S13", "busy is a plain StoreError", BusyIsAPlainError),
    memory("S14", "ids shared", IdsShared),
    memory("S14", "queries shared", QueriesShared),
    memory("S14", "last_seq shared", LastSeqShared),
    Broken(
        "lock kept after an error", "S15", partial(opened_without_finally, CorrectFileStore), durable=True
    ),
    file("S15", "lock kept if left cancelled", CancelledLeavingKeepsLock),
    memory("S15", "a thread left behind", LeavesAThread),
    memory("S15", "a file descriptor left behind", LeavesADescriptor),
)
