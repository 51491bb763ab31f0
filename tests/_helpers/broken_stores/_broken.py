"""What is said of a broken store, and what their lists share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import attrs

from tests._helpers.correct_stores import (
    CorrectFileReader,
    CorrectFileStore,
    CorrectMemoryStore,
    open_file,
    open_memory,
    opened_file,
    opened_file_reader,
    opened_memory,
)
from trio_eventlog import (
    EventStore,
)

WHILE = 0.01
"""How long an append takes whose fault shows when it is cancelled meanwhile, in seconds."""

StoreOpener = Callable[[Path], AbstractAsyncContextManager[EventStore]]


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
      correct: opens the store without the fault.
      is_slow: whether it takes long to find out, so that the test suite leaves it to ``deep_harness``.
    """

    name: str
    clause: str
    open_store: StoreOpener
    durable: bool = False
    open_reader: StoreOpener | None = None
    also: frozenset[str] = frozenset()
    correct: StoreOpener = open_memory
    is_slow: bool = False


def memory(clause: str, name: str, cls: type[CorrectMemoryStore], *also: str) -> Broken:
    return Broken(name, clause, partial(opened_memory, cls), also=frozenset(also))


def file(clause: str, name: str, cls: type[CorrectFileStore], *also: str) -> Broken:
    return Broken(
        name, clause, partial(opened_file, cls), durable=True, also=frozenset(also), correct=open_file
    )


def reader(clause: str, name: str, cls: type[CorrectFileReader], *also: str) -> Broken:
    return Broken(
        name,
        clause,
        partial(opened_file, CorrectFileStore),
        durable=True,
        open_reader=partial(opened_file_reader, cls),
        also=frozenset(also),
        correct=open_file,
    )


# Whatever looks again after a reopen.
REOPENED = ("S1", "S5", "S6", "S7", "S9", "S13", "S15")
# Whatever reads more than once, or more than one event, may notice.
ANY = tuple(f"S{number}" for number in range(1, 16))
