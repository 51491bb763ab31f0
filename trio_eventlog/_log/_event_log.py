"""What a program sees of an open log. Floor 4: Trio."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from threading import get_ident
from types import MappingProxyType

import trio

from trio_eventlog._answers import ask_query
from trio_eventlog._engine._losses import LossAccount
from trio_eventlog._log._core import Core
from trio_eventlog._log._ingress import Prepared, check_home
from trio_eventlog._log._outcome import events_lost, renewed
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._spill_file import SpillFile
from trio_eventlog._model._errors import StaleCursor
from trio_eventlog._model._events import (
    EventEnvelope,
    PersistedEvent,
    UnifiedEvent,
)
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import LogStatistics
from trio_eventlog._reading._pages import checked_start
from trio_eventlog._reading._subscription import Subscription
from trio_eventlog._util import Forks, NoPublicConstructor
from trio_eventlog.abc import EventStore


# Over 300 lines, more than half of which document its public methods.
class EventLog(metaclass=NoPublicConstructor):
    """An open event log, as :func:`open_event_log` yields it.

    Its methods belong to the thread and the Trio run that opened it. From another thread, use
    ``trio.from_thread.run_sync(log.ingest, event)``. In a process forked by ``os.fork`` they raise
    ``RuntimeError``: the store, its lock and the spill file still belong to the parent.
    """

    _made_by = "async with open_event_log(store) as log"

    def __init__(
        self, store: EventStore, settings: Settings, last_seq: int, spill_file: SpillFile | None
    ) -> None:
        self._store = store
        self._settings = settings
        self._thread, self._forks = get_ident(), Forks.count
        self._first_seq = last_seq + 1
        self._recovered = 0 if spill_file is None else spill_file.recovered
        self._core = Core(store, settings, last_seq, spill_file, log=self)
        self._ingress = self._core.backlog.ingress
        # The call on the way costs a fifth of what the core in C takes.
        vars(self)["ingest"] = self._ingress.ingest
        self._feed = self._core.feed

    @property
    def store(self) -> EventStore:
        """The store that this log writes to. Also available after the log is closed."""
        return self._store

    def statistics(self) -> LogStatistics:
        """The current numbers of this log. Not a checkpoint. Also available after the log is closed."""
        core, backlog, buffer = self._core, self._core.backlog, self._core.backlog.buffer
        return LogStatistics(
            ingested=self._ingress.last_seq - self._first_seq + 1,
            recovered=self._recovered,
            filtered=self._ingress.filtered,
            persisted=buffer.persisted,
            duplicate=buffer.duplicate,
            lost=MappingProxyType(dict(buffer.losses.by_reason)),
            pending=backlog.pending,
            pending_bytes=backlog.bytes_in_memory,
            spilled=buffer.spilled,
            spill_bytes=0 if core.spiller is None else core.spiller.queue.size_bytes,
            appends=core.sender.begun,
            failures=core.sender.failed,
            last_assigned_seq=self._ingress.last_seq,
            last_durable_seq=max(buffer.last_durable_seq, core.publisher.found_through),
            peak_pending=max(buffer.peak_pending, backlog.pending),
            peak_batch=core.sender.peak_batch,
            state=core.outcome.state,
        )

    def ingest(self, event: EventEnvelope | UnifiedEvent) -> int | None:
        """Hand an event to the log. Never blocks, and is not a checkpoint.

        The filter runs first, on the bare event, and then ``transform``. Then the event is checked and its
        payload encoded: later changes to it have no effect. Then it gets the next seq and waits for the
        store. If more than ``retry_buffer_cap`` events or ``max_pending_bytes`` wait, the oldest of them are
        lost, and reported.

        Do not call it from a signal handler or a finalizer (``__del__``), which can interrupt the log in the
        middle of its own work. Use ``trio.lowlevel.TrioToken.run_sync_soon`` there.

        Args:
          event: an envelope, or a bare event, which gets a new id (UUIDv7) and the current time.

        Returns:
          Its seq, or None if the filter or ``transform`` kept it out (then no seq is spent). The seq is final
          once the event is durable; see :meth:`flush`.

        Raises:
          trio.ClosedResourceError: the block of :func:`open_event_log` has ended.
          CodecError: the event is malformed, its payload is not JSON, or it is larger than
            ``max_event_bytes``; the message names the field.
          TypeError: ``event`` is neither an envelope nor an event, or what ``transform`` returned is not an
            event.
          RuntimeError: called from another thread or process than the log's.
          EventLogError: the log has given out its last seq, 2**63 - 1.
          Exception: whatever the filter or ``transform`` raises. The log goes on.
        """
        return self._ingress.ingest(event)

    async def ingest_wait(self, event: EventEnvelope | UnifiedEvent) -> int | None:
        """Like :meth:`ingest`, but wait for room while the log holds ``retry_buffer_cap`` events or too many
        bytes, so that no other event is lost for this one.

        Waiting tasks are served in the order of their calls. Waiting makes a flush due. The filter,
        ``transform`` and the encoding come before the wait, the seq after it. A checkpoint, unless it raises
        one of the errors below. If it is cancelled, the event was not accepted.

        Raises:
          trio.ClosedResourceError: the block of :func:`open_event_log` has ended, or ended while waiting.
          CodecError, TypeError, RuntimeError, Exception: as :meth:`ingest`.
        """
        prepared = self._ingress.prepare(event)
        if prepared is None:
            await trio.lowlevel.checkpoint()
            return None
        return await self._accept_when_there_is_room(prepared)

    @trio.lowlevel.enable_ki_protection
    async def flush(self, through: int | None = None) -> None:
        """Wait until events are durable. A checkpoint.

        Starts an append at once instead of waiting for a full batch. It also cuts the wait after a failure
        short, once per wait, so that a program that flushes often calls a failing store often. It waits as
        long as the store fails: put a bound on it with ``trio.move_on_after`` or ``trio.fail_after``.
        Cancelling it changes nothing else.

        Args:
          through: the last seq to wait for; by default, that of the last event ingested before this call.

        Raises:
          EventsLost: some of those events were lost, and no flush that returned before this call has raised
            them. All others are durable.
          TypeError: ``through`` is not an integer.
          ValueError: ``through`` is higher than any seq given out, or negative.
          trio.ClosedResourceError: the log is closed. A flush that is waiting when the body ends gets the
            result of the drain, or this error if some of those events are left in the spill file.
          StoreUnusable: with a spill file, the store can no longer take those events; they are spilled.
        """
        through = _checked_through(through, self._ingress.last_seq)
        self._require_running("flush")
        await trio.lowlevel.checkpoint_if_cancelled()
        ticket = await self._core.writer.flush(through)
        store_error = self._core.outcome.store_error
        if ticket.outcome is None:
            # Only a spill file leaves tickets open: what they wait for is in it.
            if store_error is not None:
                raise renewed(store_error) from store_error
            raise trio.ClosedResourceError(
                "flush: the event log was closed before all was stored; the rest is in its spill file"
            )
        if ticket.outcome.count:
            raise events_lost(ticket.outcome) from store_error

    async def query(self, query: EventQuery | None = None) -> list[PersistedEvent]:
        """The durable events that match, ascending by seq. A checkpoint, and cancellable.

        This asks the store, so it does not find events that still wait. Call :meth:`flush` first if they
        matter.

        Args:
          query: what to look for; by default, every event.

        Raises:
          StoreError: the store failed, and may answer later.
          StoreUnusable: the store failed, and will not answer any more.
          TypeError: ``query`` is not an :class:`EventQuery`.
          trio.ClosedResourceError: the log is closed. Its ``store`` can be asked as long as that is open.
        """
        if query is None:
            query = EventQuery()
        elif not isinstance(query, EventQuery):
            raise TypeError(f"query: expected an EventQuery, got {type(query).__name__}")
        self._require_running("query")
        return await ask_query(self._store, query)

    def subscribe(
        self, query: EventQuery | None = None, *, after_seq: int | None = None
    ) -> AbstractAsyncContextManager[Subscription]:
        """Follow the log for the length of an ``async with`` block.

        ::

            async with log.subscribe(EventQuery(run_id="r-1"), after_seq=0) as events:
                async for event in events:
                    print(event)

        Delivers every stored event that matches, in order and once: those after the cursor that are there
        already, then those that become durable, even if the store goes back to an older state meanwhile.
        Lost events and duplicates are not delivered. A slow subscriber delays nothing. Only the newest
        events are kept in memory, once for all subscribers; older ones are read from the store.

        The iteration ends after the last durable event once the log is closed. So a subscriber in a nursery
        *inside* the block of :func:`open_event_log` must be cancelled: that nursery waits for the subscriber,
        and the log for the nursery. One in a nursery around the block ends by itself.

        Entering is a checkpoint. Leaving is not, and never waits.

        Args:
          query: which events; by default, all. Its ``limit`` ends the iteration after this many.
          after_seq: the cursor to resume from; 0 for the first event on; by default, the last durable seq.
            Replaces the ``after_seq`` of the query.

        Raises:
          StaleCursor: ``after_seq`` is beyond the last seq that the log has given out. One from before the
            log was restored is noticed by the first step of the iteration.
          TypeError, ValueError: an argument is not as described.
          trio.ClosedResourceError: the log is closed.
          RuntimeError: called from another thread or process than the log's.
        """
        wanted, after = checked_start(query, after_seq)
        is_from_first = after == 0
        self._require_running("subscribe")
        if after is None:
            after = self._feed.recent.durable_seq
        elif after > self._ingress.last_seq:
            raise StaleCursor(after, self._ingress.last_seq)
        return self._feed.subscribe(wanted, after, is_from_first=is_from_first)

    def is_own_work(self) -> bool:
        """Whether the caller works for this log: in an append, that is in its store or in a task or thread
        that was started there, or in ``on_failure``.

        For code that turns what the program does into events, such as a handler of log records. An event for
        each append, or for each report, would go on for ever. Also true in an append of another log if
        appends of this log have led to events of that one. Ask only before ingesting, and ingest if this is
        False: from then on, the append that the caller works for counts as one that leads to this log.

        Appends are told by the context (:mod:`contextvars`), which Trio's tasks and
        ``trio.to_thread.run_sync`` inherit. A store with threads of its own passes it on with
        ``contextvars.copy_context().run(work)``.
        """
        return self._core.reporter.is_calling or self._core.own_work.meet_caller()

    def owns_task(self, task: trio.lowlevel.Task) -> bool:
        """Whether ``task`` is one of the log's own, or was started by one, for example in the store.

        For code that turns the life of tasks into events, which must leave out those of the log. A task that
        an append of another log has started counts as for :meth:`is_own_work`.
        """
        return self._core.tasks.include(task) or self._core.own_work.meet_task(task)

    def __repr__(self) -> str:
        return f"<EventLog {self._core.outcome.state} on {self._store!r}, last seq {self._ingress.last_seq}>"

    # --- accepting events -------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _accept_when_there_is_room(self, prepared: Prepared) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        room = self._core.backlog.room
        *_, size = prepared
        if room.is_free(size):
            seq = self._ingress.accept(prepared)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return seq
        return await room.wait(size, partial(self._ingress.accept, prepared), self._core.writer.wake)

    def _close(self) -> LossAccount:
        """The body has ended; see :meth:`Core.close`."""
        self._ingress.is_closed = True
        return self._core.close()

    # --- whether a call is allowed ----------------------------------------------------------------

    def _require_running(self, what: str) -> None:
        check_home(self._thread, self._forks, what)
        if self._core.is_done:
            raise trio.ClosedResourceError(f"{what}: the event log is closed")


def _checked_through(through: object, last_seq: int) -> int:
    if through is None:
        return last_seq
    if type(through) is not int:
        raise TypeError(f"through: expected a seq, got {type(through).__name__}")
    if not 0 <= through <= last_seq:
        raise ValueError(f"through: expected a seq of 0 to {last_seq}, the last one given out, got {through}")
    return through
