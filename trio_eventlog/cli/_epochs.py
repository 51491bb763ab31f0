"""The epochs of a log, and the seqs between them, which no event ever had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import attrs

from trio_eventlog import EventQuery, EventStore
from trio_eventlog.abc import StoreDescription, StoreVerification
from trio_eventlog.cli._terminal import time_text
from trio_eventlog.reading import Epoch, list_epochs

Found = TypeVar("Found", StoreDescription, StoreVerification)


async def without_skipped(store: EventStore, found: Found) -> tuple[Found, list[Epoch]]:
    """What was found of a log, without the seqs that were skipped where epochs begin; and the epochs.

    Raises:
      StoreError: the store failed.
    """
    epochs = await list_epochs(store)
    gaps, missing, first_gaps = found.gaps, found.missing, list(found.first_gaps)
    for epoch in epochs:
        skipped = (epoch.after_seq + 1, epoch.seq - 1)
        if found.first_seq is None or found.first_seq > epoch.after_seq:
            # What there was before it was pruned.
            continue
        missing -= skipped[1] - skipped[0] + 1
        before = await store.query(EventQuery(after_seq=epoch.after_seq - 1, limit=1))
        if before and before[0].seq == epoch.after_seq:
            gaps -= 1
        first_gaps = list(_without(first_gaps, skipped))
    return attrs.evolve(found, gaps=gaps, missing=missing, first_gaps=tuple(first_gaps)), epochs


def _without(gaps: Sequence[tuple[int, int]], skipped: tuple[int, int]) -> Iterator[tuple[int, int]]:
    for first, last in gaps:
        end = skipped[0] - 1 if last == skipped[1] else last
        if first <= end:
            yield first, end


def epoch_lines(epochs: Sequence[Epoch]) -> list[str]:
    """A line for each epoch."""
    return [
        f"seq {epoch.seq}, after {epoch.after_seq}: {time_text(epoch.timestamp_ms)}, {epoch.reason}"
        for epoch in epochs
    ]
