"""Stores that break S4 or S10 while several operations run at once: one for each anomaly of a history."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from tests._helpers.broken_stores._broken import ANY, Broken, memory, reader
from tests._helpers.correct_stores import CorrectFileReader, CorrectMemoryStore, Held
from trio_eventlog import EventQuery, PersistedEvent

WHILE = 0.002
"""How long what takes a while takes, in seconds: longer than an operation of the others."""


class LostBesideAQuery(CorrectMemoryStore):
    """An append that finds a query running is acknowledged, and forgotten."""

    queries = 0

    async def _select(self, query: EventQuery) -> list[Held]:
        self.queries += 1
        try:
            await trio.sleep(WHILE)
            return await super()._select(query)
        finally:
            self.queries -= 1

    async def _commit(self, new: Sequence[Held]) -> None:
        if not self.queries or len(new) > 1:
            await super()._commit(new)


class ShownBeforeItIsRefused(CorrectMemoryStore):
    """What is new in a batch shows until it turns out that another of its seqs is taken."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        batch = await self._hold_all(tuple(events))
        async with self.lock:
            self._check_usable()
            new, _ = self._sort_out(batch)
            taken = self._taken(new)
            shown = [held for held in new if held.event.seq not in taken] if taken else []
            for held in shown:
                self.by_seq[held.event.seq] = held
            try:
                await trio.sleep(WHILE if shown else 0)
            finally:
                for held in shown:
                    del self.by_seq[held.event.seq]
        return await super().append_batch(events)


class CursorSeesUncommitted(CorrectMemoryStore):
    """A query with a cursor goes by an index, which has each event of a batch as soon as it was written."""

    written: tuple[Held, ...] = ()

    async def _commit(self, new: Sequence[Held]) -> None:
        try:
            for held in new[:20]:
                self.written = (*self.written, held)
                await trio.sleep(WHILE / 4)
        finally:
            self.written = ()
        await super()._commit(new)

    def _candidates(self, query: EventQuery) -> list[Held]:
        return [*super()._candidates(query), *(self.written if query.after_seq else ())]


class TwiceWhileItMoves(CorrectMemoryStore):
    """A query looks into a buffer and into the store; what moves to the store is in both for a while."""

    buffer: tuple[Held, ...] = ()

    async def _commit(self, new: Sequence[Held]) -> None:
        await super()._commit(new)
        self.buffer = tuple(new)
        try:
            await trio.sleep(WHILE)
        finally:
            self.buffer = ()

    def _candidates(self, query: EventQuery) -> list[Held]:
        return [*super()._candidates(query), *(self.buffer if query.after_seq else ())]


class ReaderGoesBackIfBusy(CorrectFileReader):
    """Queries that overlap are spread over replicas, one of which has not heard of anything lately."""

    queries = 0
    since_open = 0
    replica: tuple[Held, ...] = ()

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        self.queries += 1
        try:
            return await super().query(query)
        finally:
            self.queries -= 1

    def _candidates(self, query: EventQuery) -> list[Held]:
        self.since_open += 1
        if self.since_open == 4:
            self.replica = tuple(super()._candidates(query))
        if self.queries > 1 and self.since_open > 4:
            return list(self.replica)
        return super()._candidates(query)


class QueriesShareAResult(CorrectMemoryStore):
    """A query that comes while the same one runs is given the result of that."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.running: dict[EventQuery, trio.Event] = {}
        self.results: dict[EventQuery, list[Held]] = {}

    async def _select(self, query: EventQuery) -> list[Held]:
        running = self.running.get(query)
        if running is not None:
            await running.wait()
            if query in self.results:
                return self.results[query]
        done = self.running[query] = trio.Event()
        try:
            self.results[query] = await super()._select(query)
            await trio.sleep(WHILE)
            return self.results[query]
        finally:
            self.running.pop(query, None)
            done.set()


class LastSeqFromBefore(CorrectMemoryStore):
    """While an append runs, last_seq says what it said when none did."""

    said = 0

    async def _commit(self, new: Sequence[Held]) -> None:
        await trio.sleep(WHILE / 4)
        await super()._commit(new)

    async def last_seq(self) -> int:
        answer = await super().last_seq()
        if not self.lock.locked():
            self.said = answer
        return min(self.said, answer)


class PlaceholderWhileItIsWritten(CorrectMemoryStore):
    """A row is there before its columns are: for a while a query finds an event without an id."""

    async def _commit(self, new: Sequence[Held]) -> None:
        event = attrs.evolve(new[0].event, id="")
        self.by_seq[event.seq] = self._hold(event)
        try:
            await trio.sleep(WHILE if len(new) == 1 else 0)
        finally:
            del self.by_seq[event.seq]
        await super()._commit(new)


class TakenSeqsUnguarded(CorrectMemoryStore):
    """Whether a seq is taken is looked up before the turn of an append comes."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        batch = await self._hold_all(tuple(events))
        new, elsewhere = self._sort_out(batch)
        self._refuse_taken(new)
        await trio.sleep(WHILE)
        async with self.lock:
            await self._commit(new)
        return elsewhere


@asynccontextmanager
async def opened_unguarded(location: Path):
    """Not found by a clause, since a log makes one append at a time; by a history of two."""
    await trio.lowlevel.checkpoint()
    yield TakenSeqsUnguarded(location)


BY_ANOMALY: dict[str, Broken] = {
    "lost write": memory("S10", "lost beside a query", LostBesideAQuery, *ANY),
    "aborted read": memory("S4", "shown before it is refused", ShownBeforeItIsRefused),
    "intermediate read": memory("S4", "a cursor sees what is not committed", CursorSeesUncommitted, "S10"),
    "duplicate": memory("S10", "found twice while it moves", TwiceWhileItMoves),
    "non-monotonic reader": reader("S10", "a busy reader goes back", ReaderGoesBackIfBusy),
    "real-time violation": memory("S10", "queries share a result", QueriesShareAResult, *ANY),
    "stale last_seq": memory("S10", "last_seq from before the append", LastSeqFromBefore, *ANY),
    "phantom": memory("S10", "a placeholder while it is written", PlaceholderWhileItIsWritten, *ANY),
}
"""Stores whose anomaly the harness finds, by its name."""

BROKEN: tuple[Broken, ...] = tuple(BY_ANOMALY.values())
