"""S10: what append_batch has returned from is read back, and kept."""

from __future__ import annotations

from collections.abc import Sequence

from trio_eventlog import PersistedEvent
from trio_eventlog.testing._checks._common import DURABLE, batch_sizes, plain_batches
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._open_store import opened
from trio_eventlog.testing._search import Check


def _prefixes(batches: Sequence[Sequence[PersistedEvent]]) -> list[list[int]]:
    """The seqs that may be stored: of none of the batches, the first, the first two and so on."""
    return [[event.seq for batch in batches[:count] for event in batch] for count in range(len(batches) + 1)]


async def _try_read_back(example: Example, sizes: list[int]) -> None:
    async with opened(example) as store:
        await store.query()
        for batch in plain_batches(sizes):
            await store.append(batch)
            await store.query()


async def _try_reopened(example: Example, sizes: list[int]) -> None:
    for batch in plain_batches(sizes):
        async with opened(example) as store:
            await store.query()
            await store.append(batch)
    async with opened(example) as store:
        await store.query()


async def _try_readers(example: Example, sizes: list[int]) -> None:
    batches = plain_batches(sizes)
    prefixes = _prefixes(batches)
    ends = [0, *(batch[-1].seq for batch in batches)]
    async with opened(example) as store, opened(example, name="reader", reader=True) as reader:
        seen = 0
        for number, batch in enumerate(batches, start=1):
            await store.append(batch)
            # Twice, since going back shows in the second.
            for _ in range(2):
                found = [event.seq for event in await reader.found()]
                example.check(
                    "[event.seq for event in found] in $0",
                    f"after {number} appends of {sizes} events a reader found seqs {found}: not a prefix",
                    prefixes[: number + 1],
                )
                example.check(
                    "len(found) >= $0", f"a reader found {seen} events, and then {len(found)}", seen
                )
                seen = len(found)
                last_seq = await reader.call("last_seq", result="last_seq")
                example.check(
                    "last_seq in $0", f"a reader has last_seq {last_seq!r}, expected one of {ends}", ends
                )


CHECKS: tuple[Check, ...] = (
    Check(clause="S10", name="reading what was appended", cases=batch_sizes, run=_try_read_back, share=0.3),
    Check(clause="S10", name="opening again", cases=batch_sizes, run=_try_reopened, share=0.2, needs=DURABLE),
    Check(
        clause="S10",
        name="readers",
        cases=batch_sizes,
        run=_try_readers,
        share=0.2,
        needs=frozenset({"reader"}),
    ),
)
