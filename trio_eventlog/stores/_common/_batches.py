"""Sealing a batch, and letting other tasks run during long loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from trio_eventlog._model._errors import CodecError, EventRejected
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._sealed import SealedEvents, is_sealed, seal_persisted

_SLICE_SECONDS: Final = 0.01
"""Length of a slice; far below the 100 ms for which a store may block the loop."""


class TimeSlice:
    """Cuts a long loop into slices by the clock, since the cost of an event varies.

    Await :meth:`checkpoint_if_over` for each event. By Trio's clock: in virtual time a loop is not cut, so
    that it does the same each time.
    """

    def __init__(self) -> None:
        self._end = trio.current_time() + _SLICE_SECONDS

    async def checkpoint_if_over(self) -> None:
        """Let other tasks run if the slice is over, and begin the next one. A checkpoint only then."""
        if trio.current_time() >= self._end:
            await trio.lowlevel.checkpoint()
            self._end = trio.current_time() + _SLICE_SECONDS


async def sealed_batch(events: Sequence[PersistedEvent]) -> Sequence[PersistedEvent]:
    """``events`` in the same order, each sealed: checked, and with its payload encoded.

    Comes before anything else is done with a batch, so that changing a payload during the append, or after
    cancelling it, changes nothing that is stored. A checkpoint only as often as it takes not to block the
    loop, and before it raises.

    Raises:
      EventRejected: some events can never be stored. Names all of them.
    """
    if type(events) is SealedEvents:
        return events
    sealed: list[PersistedEvent] = []
    rejected: list[PersistedEvent] = []
    reasons: dict[str, None] = {}
    time_slice = TimeSlice()
    for event in tuple(events):
        if not isinstance(event, PersistedEvent):
            await trio.lowlevel.checkpoint()
            raise TypeError(f"events: expected PersistedEvents, got {type(event).__name__}")
        # What it was sealed with was checked then and cannot change. No store looks at the decoded payload,
        # which can.
        if is_sealed(event):
            sealed.append(event)
            continue
        await time_slice.checkpoint_if_over()
        try:
            sealed.append(_sealed(event))
        except CodecError as exc:
            rejected.append(event)
            reasons[str(exc)] = None
    if rejected:
        await trio.lowlevel.checkpoint()
        raise EventRejected(rejected, _joined(list(reasons)))
    return sealed


def _joined(reasons: Sequence[str]) -> str:
    return reasons[0] + (f"; and {len(reasons) - 1} other reasons" if len(reasons) > 1 else "")


def _sealed(event: PersistedEvent) -> PersistedEvent:
    sealed = seal_persisted(event)
    if not 1 <= sealed.seq <= MAX_STORED:
        raise CodecError("seq", f"expected 1 to 2**63 - 1, got {sealed.seq}")
    if sealed.timestamp_ms > MAX_STORED:
        raise CodecError("timestamp_ms", f"expected 0 to 2**63 - 1, got {sealed.timestamp_ms}")
    return sealed
