"""Events and questions about them, drawn from a seed; the answers are those of MemoryStore."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import attrs

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent, SequenceConflict
from trio_eventlog.abc import FACETS
from trio_eventlog.stores import MemoryStore


class Questions:
    """Fills a store and a :class:`MemoryStore` alike, and asks both the same."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a test
        self.memory = MemoryStore()
        self.next_seq = 1

    def event(self, seq: int) -> PersistedEvent:
        """Times mostly ascend with seqs."""
        chance = self.chance
        keys = ("identity", "mob_id", "run_id", "step_id")
        payload: dict[str, Any] = {
            key: f"{key[0]}{chance.randrange(5)}" for key in keys if chance.random() < 0.7
        }
        payload["k"] = chance.choice([1, 1.0, True, [1], {"a": 1}])
        timestamp_ms = max(0, seq * 10 + chance.randrange(-30, 30))
        if chance.random() < 0.02:
            timestamp_ms = chance.randrange(30_000)
        event_type = f"t{chance.randrange(6)}"
        if chance.random() < 0.4:
            return PersistedEvent(
                f"id-{seq}",
                seq,
                timestamp_ms,
                None,
                ModuleEvent(f"m{chance.randrange(3)}", event_type, payload),
            )
        agent = f"a{chance.randrange(9)}"
        return PersistedEvent(f"id-{seq}", seq, timestamp_ms, agent, AgentEvent(agent, event_type, payload))

    async def append(self, store: Any) -> None:
        """A batch of any size: ascending or not, perhaps with a repeat, a gap, or lower seqs."""
        chance = self.chance
        first = self.next_seq + (chance.randrange(1, 30) if chance.random() < 0.3 else 0)
        self.next_seq = first + chance.choice([1, 3, 100, 700, 1_500])
        batch = [self.event(seq) for seq in range(first, self.next_seq)]
        if chance.random() < 0.3:
            chance.shuffle(batch)
        if chance.random() < 0.3:
            batch.append(attrs.evolve(self.event(chance.randrange(1, self.next_seq)), id="id-1"))
        await self._give(store, batch)
        if chance.random() < 0.2:
            lower = range(max(1, self.next_seq - 1_000), self.next_seq, 97)
            await self._give(store, [attrs.evolve(self.event(seq), id=f"other-{seq}") for seq in lower])

    async def _give(self, store: Any, batch: list[PersistedEvent]) -> None:
        for one in (store, self.memory):
            with suppress(SequenceConflict):
                await one.append_batch(batch)

    async def prune(self, store: Any) -> None:
        """By number or by time."""
        chance = self.chance
        by: dict[str, int] = {"keep": chance.randrange(2_000)}
        if chance.random() < 0.5:
            by = {"before_ms": chance.randrange(10 * self.next_seq)}
        assert await store.prune(**by) == await self.memory.prune(**by)

    def query(self) -> EventQuery:
        """With few filters, or none."""
        chance = self.chance
        filters: dict[str, Any] = {
            "since_ms": chance.randrange(10 * self.next_seq),
            "until_ms": chance.randrange(10 * self.next_seq),
            "event_types": tuple(f"t{chance.randrange(7)}" for _ in range(chance.randrange(1, 3))),
            "member_id": f"a{chance.randrange(9)}",
            "module": f"m{chance.randrange(3)}",
            "run_id": f"r{chance.randrange(5)}",
            "fields": {"k": chance.choice([1, 1.0, [1]])},
            "after_seq": chance.randrange(self.next_seq),
        }
        names = chance.sample(list(filters), chance.choice([0, 0, 1, 1, 2, 3]))
        return EventQuery(**{name: filters[name] for name in names})

    async def compare(self, store: Any, times: int) -> None:
        """Ask for everything that a store can be asked for."""
        chance, memory = self.chance, self.memory
        for _ in range(times):
            query = self.query()
            bucket_ms = chance.choice([1, 7, 100, 5_000, 10**6])
            assert await store.histogram(query, bucket_ms=bucket_ms) == await memory.histogram(
                query, bucket_ms=bucket_ms
            ), (query, bucket_ms)
            field, top = chance.choice(FACETS), chance.randrange(4)
            assert await store.facets(query, field, top=top) == await memory.facets(query, field, top=top), (
                query,
                field,
            )
            at_most = chance.choice([0, 1, 10, 5_000, 2**64 - 1])
            assert await store.count(query, at_most=at_most) == await memory.count(query, at_most=at_most), (
                query
            )
            before = chance.choice([None, None, 0, 5, chance.randrange(self.next_seq + 9), 2**64 - 1])
            limit = chance.choice([0, 1, 10, 3_000])
            assert await store.latest(query, before_seq=before, limit=limit) == await memory.latest(
                query, before_seq=before, limit=limit
            ), (query, before, limit)
