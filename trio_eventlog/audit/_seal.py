"""Sealing a log at rest. Trio."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from trio_eventlog import EventQuery, EventsPruned, EventStore, PersistedEvent
from trio_eventlog.audit._arguments import checked_events
from trio_eventlog.audit._keys import Signer
from trio_eventlog.audit._work import CheckpointRecorder, Work, logger, opened_work
from trio_eventlog.reading import EventStream, iter_events


async def seal(
    store: EventStore,
    signer: Signer,
    path: str | os.PathLike[str],
    *,
    every_events: int = 10_000,
    origin: str | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> CheckpointRecorder:
    """Seal a log at rest: do once what :func:`record_checkpoints` does all the time.

    Goes on where the file ends, and seals all events that are stored. Does nothing if there are no others. A
    checkpoint of Trio; cancelled, it stops, and another call goes on after the last checkpoint.

    Args:
      store: the store of the log.
      signer: the keys.
      path: the file that checkpoints are appended to; created if it does not exist.
      every_events: make a checkpoint after this many events each time, 1 or more, and after the last one. The
        smaller the intervals, the less a proof has to read, and the larger the file.
      origin: the id of the log in the notes; by default the ``log_id`` of the store, and if it has
        none, that in the file.
      on_progress: called with a seq every now and then; all events up to it were read.

    Returns:
      What is sealed now. Its ``last`` is None if the log is empty.

    Raises:
      TypeError, ValueError: an argument is not as described, or the id of the log is not known.
      AuditError: as :func:`record_checkpoints` on entering, or a checkpoint cannot be written.
      StoreError: the store failed.
      CodecError: the store is damaged: a payload is no JSON.
    """
    checked_events("every_events", every_events)
    async with opened_work(store, signer, path, origin) as work:
        start = 0 if work.record is None else work.record.last_seq
        await _seal_all(work, iter_events(store, EventQuery(after_seq=start)), every_events, on_progress)
        return CheckpointRecorder(work)


async def _seal_all(
    work: Work, events: EventStream, every_events: int, on_progress: Callable[[int], object] | None
) -> None:
    while True:
        try:
            page: Sequence[PersistedEvent] = await anext(events.pages(), [])
        except EventsPruned as exc:
            logger.warning("no checkpoint covers some events: %s", exc)
            continue
        if not page:
            break
        while page:
            page = work.take(page, every_events)
            if work.sealer.unsealed >= every_events:
                await work.seal()
        if on_progress is not None:
            on_progress(work.sealer.last_seq)
    if work.sealer.unsealed:
        await work.seal()
