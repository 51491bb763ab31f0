"""Beginning an epoch of a log. Floor 3: Trio."""

from __future__ import annotations

import time

from trio_eventlog._answers import ask_last_seq
from trio_eventlog._declared import check_store
from trio_eventlog._model._epochs import Epoch, epoch_of, first_event
from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._events import PersistedEvent, new_event_id
from trio_eventlog._model._sealed import SealedEvents, seal_persisted
from trio_eventlog.abc import EventStore


def next_first_event(last_seq: int, reason: str) -> PersistedEvent:
    """The event that begins an epoch now, sealed; StoreUnusable if there is no seq for it."""
    now_us = time.time_ns() // 1000
    try:
        event = first_event(last_seq, now_us=now_us, event_id=new_event_id(), reason=reason)
    except ValueError as exc:
        raise StoreUnusable(str(exc)) from exc
    return seal_persisted(event)


async def begin_epoch(store: EventStore, *, reason: str = "adopted") -> Epoch:
    """Let a log that went back to an older state go on without giving out seqs a second time.

    For a copy that some other tool has made or restored; ``trio-eventlog adopt`` calls this. Appends an event
    of the type ``"trio_eventlog.epoch_began"``, whose seq is the time in microseconds since 1970. The log
    goes on after that seq, which no earlier epoch can have reached. Readers whose cursor was given out by the
    state that is gone get :exc:`StaleCursor`; cursors up to the last seq that is still there stay valid.

    Call it once, before the log is opened. Readers may be open. A checkpoint; cancelled, the epoch has begun
    or not.

    Args:
      store: the log, open for appending.
      reason: why it begins, for the event.

    Returns:
      The epoch that has begun.

    Raises:
      TypeError: an argument is of the wrong type.
      ValueError: ``reason`` has a lone surrogate.
      StoreError: the store could not be asked, or the event not be appended.
      StoreUnusable: the store is read-only, does not work any more, or there are no more seqs.
    """
    check_store(store)
    if not isinstance(reason, str):
        raise TypeError(f"reason: expected a str, got {type(reason).__name__}")
    event = next_first_event(await ask_last_seq(store), reason)
    await store.append_batch(SealedEvents([event]))
    epoch = epoch_of(event)
    assert epoch is not None, "it was made as one"
    return epoch
