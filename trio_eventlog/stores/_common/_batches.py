"""What the stores have in common: taking a batch in, and letting other tasks run meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final

import trio

from trio_eventlog._model._codec import is_sealed, seal_persisted
from trio_eventlog._model._errors import CodecError, EventRejected
from trio_eventlog._model._events import MAX_STORED, PersistedEvent

_STEP_SECONDS: Final = 0.01
"""How long a step may take; far below the 100 ms for which a store may block the loop."""


class Steps:
    """Cuts a long computation into steps, by the clock: what an event costs, nobody knows before."""

    def __init__(self) -> None:
        self._end = perf_counter() + _STEP_SECONDS

    def is_over(self) -> bool:
        """Whether it is time for :meth:`rest`."""
        return perf_counter() >= self._end

    async def rest(self) -> None:
        """Let other tasks run. A checkpoint."""
        await trio.lowlevel.checkpoint()
        self._end = perf_counter() + _STEP_SECONDS


async def sealed_copies(events: Sequence[PersistedEvent]) -> list[PersistedEvent]:
    """Copies of ``events`` that share nothing mutable with them but decoded payloads, in the same order.

    Done in the caller's task before anything else happens to the batch, so that a program which
    changes a payload during the append, or after cancelling it, changes nothing that is stored.

    A checkpoint at the start and then as often as it takes not to block the loop.

    Raises:
      EventRejected: some events can never be stored. Names all of them.
    """
    await trio.lowlevel.checkpoint()
    sealed: list[PersistedEvent] = []
    flawed: list[PersistedEvent] = []
    reasons: dict[str, None] = {}
    steps = Steps()
    for event in tuple(events):
        # What the event in it was sealed with was checked then, and nobody can change it: no store looks at
        # the decoded payload, which is all that somebody could. It costs next to nothing.
        if is_sealed(event):
            sealed.append(event)
            continue
        if steps.is_over():
            await steps.rest()
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


def _sealed(event: PersistedEvent) -> PersistedEvent:
    copy = seal_persisted(event)
    if not 1 <= copy.seq <= MAX_STORED:
        raise CodecError("seq", f"expected 1 to 2**63 - 1, got {copy.seq}")
    if copy.timestamp_ms > MAX_STORED:
        raise CodecError("timestamp_ms", f"expected 0 to 2**63 - 1, got {copy.timestamp_ms}")
    return copy
