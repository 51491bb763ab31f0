"""Opening and closing a log. Floor 4: Trio."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Lock
from typing import Final

import trio

from trio_eventlog._answers import ask_last_seq
from trio_eventlog._declared import check_methods, log_id_of, max_batch_of, survives_of, sync_of
from trio_eventlog._engine._policy import RetryPolicy
from trio_eventlog._ki import ki_protected
from trio_eventlog._log._event_log import EventLog
from trio_eventlog._log._settings import (
    DEFAULT_MAX_EVENT_BYTES,
    DEFAULT_MAX_PENDING_BYTES,
    DEFAULT_MAX_SPILL_BYTES,
    DEFAULT_RETRY,
    Filter,
    OnFailure,
    Settings,
    Transform,
)
from trio_eventlog._log._spill_file import Keep, SpillFile
from trio_eventlog._log._spill_queue import close_unused, open_spill_file
from trio_eventlog._model._errors import LogBusy
from trio_eventlog.abc import EventStore

_stores_in_use: Final[dict[int, EventStore]] = {}
"""Stores with an open log, by identity: not every store is hashable."""

_stores_in_use_lock: Final = Lock()


# Longer than a function should be: it is the public documentation of every argument.
@ki_protected
@asynccontextmanager
async def open_event_log(
    store: EventStore,
    *,
    filter: Filter | None = None,  # noqa: A002 - the word that a caller expects
    transform: Transform | None = None,
    batch_size: int = 64,
    flush_interval: float = 1.0,
    retry_buffer_cap: int = 4096,
    max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES,
    max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
    append_timeout: float = 30.0,
    grace_period: float = 5.0,
    retry: RetryPolicy = DEFAULT_RETRY,
    on_failure: OnFailure | None = None,
    spill: str | os.PathLike[str] | None = None,
    max_spill_bytes: int = DEFAULT_MAX_SPILL_BYTES,
) -> AsyncIterator[EventLog]:
    """Open an event log on a store, for the length of an ``async with`` block.

    ::

        async with SqliteStore.open("events.db") as store, open_event_log(store) as log:
            log.ingest(AgentEvent("worker-7", "run_started", {"run_id": "r-1"}))

    Tasks: the log owns a nursery with two tasks. One writes to the store, one append at a time, in the order
    of seqs; the other reports losses. With ``spill``, a third writes to the spill file, and if the store's
    appends alone do not survive a loss of power, a fourth calls its ``sync``. Like everything that owns a
    nursery, the block must not be yielded out of in an async generator (unless that is a context manager
    itself).

    Entering is a checkpoint, and cancellable. It asks the store once for its last seq, which can be cancelled
    as far as the store can. With ``spill`` it then opens the spill file in a thread. If that is cancelled
    because the disk hangs, the thread stays behind, and the file stays locked (:class:`LogBusy`) until the
    disk answers. Events that an earlier run left in the file get the next seqs, in their order and with their
    ids, before the body starts, and are stored before all others. If the spill file knows that the store once
    had more than it has now, a :class:`RevertReport` says so, and the new seqs start above all that the file
    knows.

    Leaving drains: it goes on until all events are stored or ``grace_period`` is over, counted from the end
    of the body, shielded from cancellation outside. What is not stored by then is lost, and reported. With
    ``spill`` it is written to the spill file instead, which takes 5 s at most, together with a last ``sync``
    of the store, and up to 5 s more for closing the file.

    Error handling: an exception of the body leaves the block as it is, never in a group; what was lost is
    added as a note. A store that fails in passing is not an error here. Events lost in the drain are, and so
    is a store that became unusable. KeyboardInterrupt ends the drain at once if Trio raises it in the task of
    the block, which is so if that is the main task.

    Args:
      store: where events go. The log does not close it. One log at a time for each store.
      filter: called by ``ingest`` with the bare event; false keeps the event out.
      transform: called by ``ingest`` with the bare event that passed the filter; a plain function. Returns
        the bare event to keep, of either kind, or None to keep it out. Nothing else of what it was given is
        checked, encoded, stored or spilled. See :mod:`trio_eventlog.masking` for ready ones.
      batch_size: how many events make a flush due. All that wait by then go out together. 0 counts as 1.
      flush_interval: seconds after which a flush is due for even a single event. 0 counts as a millisecond.
      retry_buffer_cap: most events that wait, in addition to the batch in flight; beyond it the oldest are
        lost. At least 1, and at least ``batch_size``.
      max_pending_bytes: most bytes that these events have together, counted as for ``max_event_bytes``;
        beyond it the oldest are lost as well. An eighth of it makes a flush due. At least
        ``max_event_bytes``.
      max_event_bytes: most bytes of one event: its payload as JSON, its id, its agent or module and its type,
        in UTF-8. ``ingest`` refuses larger ones. At least 1.
      append_timeout: seconds after which an append is cancelled and counts as failed, its outcome unknown;
        more than 0, ``math.inf`` for never.
      grace_period: seconds that the drain may take; 0 for no drain at all.
      retry: how long to wait after failed appends.
      on_failure: a plain function, called with an :class:`AppendFailureReport` for every failed append, and
        with a :class:`LossReport` for lost events, each of which is reported once. Losses to
        ``retry_buffer_cap`` and ``max_pending_bytes`` are reported together, after a second or 1,024 events.
        It runs where the failure happened, with the books of the log in order, and must be quick; for async
        work, let it send into a channel of yours. An :exc:`Exception` that it raises is logged and changes
        nothing. Any other exception, such as ``SystemExit``, cancels the body, ends the drain and is raised
        from the block. Without ``on_failure``, reports go to the logger ``trio_eventlog``: the first of each
        kind at once, then at most one every 30 seconds, the rest summed up with the next and at the end. With
        ``spill`` there also are :class:`SpillFailureReport`, :class:`SpillDamageReport` and
        :class:`SpillReport`; with a store that went back to an older state, :class:`RevertReport`.
      spill: path of the spill file, created with mode 0600 if it does not exist and removed when nothing is
        left in it. While the store fails or takes long, events beyond half of ``retry_buffer_cap`` go there;
        so does what would otherwise be lost to an unusable store or at the end. What a store acknowledges
        without making it survive a loss of power (``survives``) stays there until ``sync`` has done so. One
        log at a time for each file.
      max_spill_bytes: most bytes of that file, at least 4,096. Beyond it events are lost as without a file.

    Raises:
      TypeError: an argument or an attribute of the store is of the wrong type, ``store`` is not open, or its
        methods are not async.
      ValueError: an argument or an attribute of the store is out of range; the message names it.
      LogBusy: another log is open on the same store object, or has the spill file open.
      SpillError: the spill file has events of another log, is not a spill file, or cannot be opened, on
        entering.
      StoreError: the store could not say its last seq, on entering; :class:`StoreUnusable` if it is
        read-only.
      EventsLost: on leaving, the body succeeded but events that were pending when it ended are lost, or the
        store went back after that.
      StoreUnusable: on leaving, the body succeeded but the store became unusable: the error of the store
        itself.
      EventLogBroken: on leaving, the log failed by a defect of its own, and the body was cancelled for it.
    """
    settings = Settings(
        filter=filter,
        transform=transform,
        batch_size=batch_size,
        flush_interval=flush_interval,
        retry_buffer_cap=retry_buffer_cap,
        max_pending_bytes=max_pending_bytes,
        max_event_bytes=max_event_bytes,
        append_timeout=append_timeout,
        grace_period=grace_period,
        retry=retry,
        on_failure=on_failure,
        spill=spill,
        max_spill_bytes=max_spill_bytes,
    )
    log_id, keep = _check_declarations(store)
    with _reserve(store):
        await check_methods(store)
        last_seq = await ask_last_seq(store)
        after = last_seq
        spill_file: SpillFile | None = None
        if settings.spill is not None:
            spill_file = await open_spill_file(
                settings.spill, log_id, settings.max_spill_bytes, keep=keep, last_seq=last_seq
            )
            after = spill_file.number_after(last_seq)
        try:
            log = EventLog._create(store, settings, after, spill_file)
        except BaseException:
            # For instance an error of the store, which is asked here what it declares.
            if spill_file is not None:
                await close_unused(spill_file)  # noqa: ASYNC102, ASYNC120 - it is shielded, with a deadline
            raise
        core = log._core
        body_error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                core.start(nursery, last_seq)
                try:
                    yield log
                except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, outside of the nursery
                    body_error = exc
                account = log._close()
                await core.drain(nursery)
            core.conclude()
            core.outcome.raise_it(body_error, account)
        finally:
            # A local variable that holds an exception whose traceback holds this frame is a cycle.
            del body_error


@contextmanager
def _reserve(store: EventStore) -> Iterator[None]:
    """Keep other logs off ``store`` for the length of the block."""
    with _stores_in_use_lock:
        is_in_use = id(store) in _stores_in_use
        _stores_in_use[id(store)] = store
    if is_in_use:
        # Not while holding the lock: the repr is code of the store.
        raise LogBusy(f"another event log is open on {store!r}")
    try:
        yield
    finally:
        del _stores_in_use[id(store)]


def _check_declarations(store: EventStore) -> tuple[str | None, Keep]:
    """Check what a store declares. Returns its log id, and how long a spill file keeps events for it."""
    max_batch_of(store)
    log_id = log_id_of(store)
    if survives_of(store) == "power":
        return log_id, Keep.NOT
    return log_id, Keep.UNTIL_FULL if sync_of(store) is None else Keep.UNTIL_TOLD
