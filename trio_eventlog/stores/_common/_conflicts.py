"""Which events of a batch are new, known, or in conflict (clauses S1 and S3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from trio_eventlog._model._events import PersistedEvent


def new_seqs(events: Iterable[PersistedEvent], known_ids: Container[str]) -> list[int]:
    """The seqs of events whose id is not known, for each id that of its first event."""
    seen: set[str] = set()
    seqs: list[int] = []
    for event in events:
        if event.id not in known_ids and event.id not in seen:
            seen.add(event.id)
            seqs.append(event.seq)
    return seqs


def conflicting_seqs(seqs: Sequence[int], taken: Iterable[int]) -> list[int]:
    """Those of the :func:`new_seqs` that cannot be stored, ascending; the store holds the ``taken`` ones."""
    conflicts = set(taken)
    conflicts.update(seq for seq, times in Counter(seqs).items() if times > 1)
    return sorted(conflicts)


def duplicate_seqs(events: Iterable[PersistedEvent], held: Mapping[str, int]) -> tuple[int, ...]:
    """The seqs of events whose id is ``held``, by id, under another seq: what ``append_batch`` returns."""
    return tuple(event.seq for event in events if held.get(event.id, event.seq) != event.seq)
