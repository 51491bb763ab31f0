"""What a wrapper is that breaks a store, and the register of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio

from trio_eventlog import EventQuery, EventStore, PersistedEvent

__all__ = ["MUTANTS", "Mutant", "Passing", "mutant"]

M = TypeVar("M", bound="type[Passing]")

_DECLARATIONS: Final = ("max_batch", "has_lock", "lock_timeout", "survives")


class Passing:
    """A wrapper that breaks nothing: what the others are derived from.

    Attributes:
      inner: the store that is wrapped.
      location: where it is opened.
      last: its last seq when it was opened.
    """

    def __init__(self, inner: EventStore, location: Path) -> None:
        self.inner = inner
        self.location = location
        self.last = 0
        for name in _DECLARATIONS:
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Pass the batch on."""
        return await self.inner.append_batch(events)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """Pass the query on, and give what :meth:`shown` makes of the events."""
        return self.shown(await self.inner.query(query))

    async def last_seq(self) -> int:
        """Pass the question on."""
        return await self.inner.last_seq()

    def shown(self, found: list[PersistedEvent]) -> list[PersistedEvent]:
        """What a reader is given."""
        return found

    async def leave(self) -> None:
        """What is done before the store is left."""
        await trio.lowlevel.checkpoint()


@attrs.frozen(kw_only=True)
class Mutant:
    """A way to break a store.

    Attributes:
      name: what is wrong, in a few words.
      clause: the clause that should catch it.
      needs: what a store must have for that: ``durable``, ``lock`` or ``children``.
      wraps: the class of the wrapper.
    """

    name: str
    clause: str
    needs: frozenset[str]
    wraps: type[Passing]


MUTANTS: dict[str, Mutant] = {}
"""All of them by name, in the order of the clauses."""


def mutant(clause: str, name: str, *needs: str) -> Callable[[M], M]:
    """Register a class as a way to break a store."""

    def register(kind: M) -> M:
        MUTANTS[name] = Mutant(name=name, clause=clause, needs=frozenset(needs), wraps=kind)
        return kind

    return register
