"""What every store does first with a batch: copy it in, and find what it can never hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from trio_eventlog._codec import seal_persisted
from trio_eventlog._errors import CodecError, EventRejected
from trio_eventlog._events import MAX_STORED, PersistedEvent

# A step stays well below the 100 ms for which a store may block the loop: an event that the log has
# sealed takes 2 us, one to be encoded 5 us to 1 ms (64 KiB). Not more steps than that, because beside
# busy tasks each costs a turn of the loop.
_STEP: Final = 5_000
_COST_SEALED: Final = 1
_COST_ENCODED: Final = 100


async def sealed_copies(events: Sequence[PersistedEvent]) -> list[PersistedEvent]:
    """Copies of ``events`` that share nothing mutable with them, in the same order.

    Done in the caller's task before anything else happens to the batch, so that a program which
    changes a payload during the append, or after cancelling it, changes nothing that is stored.

    A checkpoint at the start and then as often as it takes not to block the loop: every 50 events, or
    every 5,000 if they were sealed before, as those from a log are.

    Raises:
      EventRejected: some events can never be stored. Names all of them.
    """
    await trio.lowlevel.checkpoint()
    sealed: list[PersistedEvent] = []
    flawed: list[PersistedEvent] = []
    reasons: dict[str, None] = {}
    cost = 0
    for event in tuple(events):
        if cost >= _STEP:
            await trio.lowlevel.checkpoint()
            cost = 0
        cost += _COST_SEALED if _is_sealed(event) else _COST_ENCODED
        try:
            sealed.append(_sealed(event))
        except CodecError as exc:
            flawed.append(event)
            reasons[str(exc)] = None
    if flawed:
        raise EventRejected(flawed, _joined(list(reasons)))
    return sealed


def _joined(reasons: Sequence[str]) -> str:
    return reasons[0] + (f"; and {len(reasons) - 1} other reasons" if len(reasons) > 1 else "")


def _is_sealed(event: PersistedEvent) -> bool:
    return getattr(event.event, "_encoded", None) is not None


def _sealed(event: PersistedEvent) -> PersistedEvent:
    copy = seal_persisted(event)
    if not 1 <= copy.seq <= MAX_STORED:
        raise CodecError("seq", f"expected 1 to 2**63 - 1, got {copy.seq}")
    if copy.timestamp_ms > MAX_STORED:
        raise CodecError("timestamp_ms", f"expected 0 to 2**63 - 1, got {copy.timestamp_ms}")
    return copy
