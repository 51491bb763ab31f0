"""The event log: a nursery, a channel, and the one task that writes to the store. Floor 3: Trio.

Theory of operation
===================

``ingest`` numbers an event and puts it into a memory channel. The flush task is not parked on that channel,
since every event would wake it. It sleeps in a cancel scope, the *alarm*, and whoever has reason to wake it
earlier moves the deadline of the alarm: the first event after a batch, the event that fills a batch, a
flush, the end of the body. An idle log therefore has no timer at all, and a busy one two wake-ups per batch
at most.

Between the channel and the store stands the :class:`RetryBuffer`, which knows order, cap and losses, and
beside it the :class:`Scheduler`, which knows when; both are pure. Everything here that touches them is
synchronous code, so that between two checkpoints the books are always right. It runs with
KeyboardInterrupt held back, which arrives at the next checkpoint of the main task instead.

The channel belongs to what waits: whenever channel and buffer together would exceed the cap, ``ingest``
itself moves the channel's content on, and the buffer drops its oldest. So the channel never refuses an
event, and its capacity bounds nothing but how often that happens.

A second task reports losses in time even while an append takes long. With a spill file there is a third, the
spiller: once more events wait than the low mark while the store is slow or down, it writes the oldest to the
file, and at the end whatever is left. It alone writes there, and the writer alone reads. If what the store
acknowledges does not survive a loss of power, there is a fourth, the syncer: it has the store make sure of
what was delivered from the file, before the file gives that up.

The tasks are shielded for all their life, because events may still come while the body is being cancelled;
the writer's scope gets a deadline when the body ends, and the others end after it. The body's own
exception is kept in a local and raised after the nursery is gone, so that it is never wrapped in a group of
ours, and nobody has to search groups for it.
"""

from __future__ import annotations

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count
from threading import Lock, get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio

from trio_eventlog._declared import awaitable, check_methods, log_id_of, most_offered_to, survives_of, sync_of
from trio_eventlog._engine._policy import RetryPolicy
from trio_eventlog._engine._retry_buffer import FlushTicket, LossAccount, RetryBuffer
from trio_eventlog._engine._scheduler import Scheduler
from trio_eventlog._handover import giving_way
from trio_eventlog._ki import ki_protected
from trio_eventlog._log._failure_log import FailureLog, write_record
from trio_eventlog._log._settings import (
    DEFAULT_MAX_EVENT_BYTES,
    DEFAULT_MAX_PENDING_BYTES,
    DEFAULT_MAX_SPILL_BYTES,
    DEFAULT_RETRY,
    Filter,
    OnFailure,
    Settings,
    check_settings,
)
from trio_eventlog._log._spill_file import Keep, SpillFile
from trio_eventlog._model._codec import check_envelope, give_seq, prepare_event, too_large
from trio_eventlog._model._errors import (
    CodecError,
    EventLogBroken,
    EventLogError,
    EventRejected,
    EventsLost,
    LogBusy,
    SequenceConflict,
    SpillError,
    StaleCursor,
    StoreError,
    StoreUnusable,
    StoreWentBack,
)
from trio_eventlog._model._events import (
    MAX_STORED,
    AgentEvent,
    EventEnvelope,
    ModuleEvent,
    PersistedEvent,
    UnifiedEvent,
    new_event_id,
    wall_clock_ms,
)
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import (
    AppendFailureReport,
    LogState,
    LogStatistics,
    LossReason,
    Report,
    RevertReport,
    SpillDamageReport,
    SpillFailureReport,
    SpillReport,
)
from trio_eventlog._reading._subscription import Feed, Subscription, checked_start
from trio_eventlog._util import SOME_LOG, NoPublicConstructor, at_work, fork_count
from trio_eventlog.abc import EventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

T = TypeVar("T")

_LOSSES_TOGETHER: Final = 1024
"""So many losses are reported at once,"""

_LOSS_DELAY: Final = 1.0
"""and fewer after so many seconds."""

_EVENTS: Final = (AgentEvent, ModuleEvent)

_BATCHES_IN_BUFFER: Final = 8
"""A share of ``max_pending_bytes`` as large as this is due at once, as ``batch_size`` events are."""

_SPILLED_TOGETHER: Final = 1024
"""Most events of one write to the spill file."""

_SPILLED_BYTES: Final = 8 * 1024 * 1024
"""Bytes after which a write to the spill file, or a batch from it, is large enough; less if less may wait."""

_SPILL_SECONDS: Final = 5.0
"""For the last write to the spill file and the last sync of the store; again for leaving it in order."""

_UNSYNCED_BYTES: Final = 4 * 1024 * 1024
"""Bytes in the spill file that wait for nothing but a sync of the store until there is one; a quarter of
``max_spill_bytes`` if that is less."""


@attrs.define(eq=False)
class _Waiter:
    """A task in ``ingest_wait``, and what it waits to hand in."""

    task: trio.lowlevel.Task
    event: PersistedEvent
    size: int
    seq: int | None = None
    error: Exception | None = None


class _Alarm:
    """Something to sleep until, which others can set earlier. It costs no wake-up to set."""

    def __init__(self) -> None:
        self._scope: trio.CancelScope | None = None  # that of the sleeper, while there is one

    def ring_by(self, deadline: float) -> None:
        """Wake the sleeper at ``deadline`` at the latest. Nobody sleeps: nothing happens."""
        if self._scope is not None and deadline < self._scope.deadline:
            self._scope.deadline = deadline

    async def sleep_until(self, deadline: float) -> None:
        """Sleep. Who decides on ``deadline`` without a checkpoint before the call misses no ring."""
        self._scope = trio.CancelScope(deadline=deadline)
        try:
            with self._scope:
                await trio.sleep_forever()
        finally:
            self._scope = None


class EventLog(metaclass=NoPublicConstructor):
    """An open event log; what :func:`open_event_log` yields.

    Its methods belong to the thread and the Trio run that opened it. From another thread use
    ``trio.from_thread.run_sync(log.ingest, event)``. In a child by ``os.fork`` they raise ``RuntimeError``;
    store, lock and spill file go on belonging to the parent.
    """

    _made_by = "async with open_event_log(store) as log"

    _led_here: frozenset[int] = frozenset()
    """The logs from whose appends something has come into this one."""

    def __init__(  # noqa: PLR0915 - one line for each thing that there is to know
        self,
        store: EventStore,
        settings: Settings,
        last_seq: int,
        most_offered: int,
        spill_file: SpillFile | None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._number = next(_numbers)
        self._thread, self._forks = get_ident(), fork_count()
        self._state = LogState.OPEN
        self._is_closed = False  # to ingest: the body has ended
        self._fatal: StoreUnusable | None = None
        self._doom: LossReason | None = None  # why every event from now on is lost
        self._bug: Exception | None = None
        self._interrupt: BaseException | None = None

        self._first_seq = last_seq + 1
        self._recovered = 0 if spill_file is None else spill_file.recovered
        self._last_seq = last_seq + self._recovered
        self._found_through = last_seq  # of what earlier runs stored, the highest that is still there
        self._highest_durable = last_seq  # also if it is no longer there
        self._went_back_at = -1  # where that was when the store went back,
        self._went_back_to = self._went_back_with = -1  # to which seq, and with which append
        self._filtered = 0
        self._appends = self._failed_appends = self._peak_batch = 0

        self._capacity = max(4 * settings.batch_size, 4)
        self._send, self._receive = trio.open_memory_channel[tuple[PersistedEvent, int]](self._capacity)
        self._staged = self._staged_bytes = 0  # events in the channel
        # So many events in the channel, or bytes, are a reason to look up.
        self._attention = self._attention_bytes = 1
        self._buffer = RetryBuffer(
            settings.retry_buffer_cap,
            max_bytes=settings.max_pending_bytes,
            first_seq=self._first_seq,
            spilled=self._recovered,
        )
        # So many bytes are due at once, or else they might meet their bound beside a store that is well.
        self._batch_bytes = max(settings.max_pending_bytes // _BATCHES_IN_BUFFER, 1)
        self._scheduler = Scheduler(
            batch_size=settings.batch_size, flush_interval=settings.flush_interval, retry=settings.retry
        )
        self._most_offered = most_offered
        self._feed = Feed(store, last_seq)

        self._flush_alarm, self._report_alarm = _Alarm(), _Alarm()
        self._writer_scope = trio.CancelScope(shield=True)
        self._reporter_scope = trio.CancelScope(shield=True)
        self._append_scope: trio.CancelScope | None = None
        self._running = 2 if spill_file is None else 3  # the tasks of the log
        self._nursery: trio.Nursery | None = None  # theirs
        self._is_done = trio.Event()
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._flushes: dict[FlushTicket, trio.lowlevel.Task] = {}

        self._spill_file = spill_file
        # So many events in memory, or bytes, are a reason to write some to the spill file.
        divisor = 1 if spill_file is None else 2
        self._low_mark = settings.retry_buffer_cap // divisor
        self._low_mark_bytes = settings.max_pending_bytes // divisor
        self._spilled_bytes = min(_SPILLED_BYTES, settings.max_pending_bytes)
        self._spill_alarm = _Alarm()
        self._spiller_scope = trio.CancelScope(shield=True)
        self._spill_the_rest = False
        self._spiller_is_done = trio.Event()
        self._spill_failures = 0  # in a row
        self._spill_retry_at = -math.inf
        self._spill_read_given_up = False
        self._spill_is_dirty = bool(self._recovered)  # it has events, be they settled
        self._prepare_sync(spill_file)

        self._failure_log, self._report_at = FailureLog(), math.inf
        self._is_reporting = self._is_in_on_failure = False
        self._logged_foreign_error = False

    def _prepare_sync(self, spill_file: SpillFile | None) -> None:
        self._left_in_spill = 0  # events
        # Positions in the file: what was written, where the batch that was read last begins and ends, and
        # what the file was told to forget.
        self._filed_to = 0 if spill_file is None else spill_file.end
        self._batch_from = self._batch_to = self._forgotten_to = 0 if spill_file is None else spill_file.start
        self._sync = None if spill_file is None else sync_of(self._store)
        self._unsynced_bytes = min(_UNSYNCED_BYTES, self._settings.max_spill_bytes // 4)
        self._sync_alarm = _Alarm()
        self._syncer_scope = trio.CancelScope(shield=True)
        self._syncer_is_done = trio.Event()
        self._sync_failures = 0  # in a row
        self._sync_retry_at = -math.inf
        if self._sync is None:
            self._syncer_is_done.set()
        else:
            self._running += 1

    # --- the public face --------------------------------------------------------------------------

    @property
    def store(self) -> EventStore:
        """The store that this log writes to. Available after the log is closed, too."""
        return self._store

    @property
    def is_in_on_failure(self) -> bool:
        """Whether ``on_failure`` is being called just now, in the thread of the log.

        For what turns something that the program does into events, such as a handler of log records: a report
        that leads to an event, which is lost, which is reported, would go on for ever.
        """
        return self._is_in_on_failure

    def statistics(self) -> LogStatistics:
        """The books of this log, now. Not a checkpoint. Available after the log is closed, too."""
        buffer = self._buffer
        pending = self._staged + buffer.pending
        return LogStatistics(
            ingested=self._last_seq - self._first_seq + 1,
            recovered=self._recovered,
            filtered=self._filtered,
            persisted=buffer.persisted,
            duplicate=buffer.duplicate,
            lost=MappingProxyType(dict(buffer.lost)),
            pending=pending,
            pending_bytes=self._staged_bytes + buffer.bytes_in_memory,
            spilled=buffer.spilled,
            spill_bytes=0 if self._spill_file is None else self._spill_file.size_bytes,
            appends=self._appends,
            failures=self._failed_appends,
            last_assigned_seq=self._last_seq,
            last_durable_seq=max(buffer.last_durable_seq, self._found_through),
            peak_pending=max(buffer.peak_pending, pending),
            peak_batch=self._peak_batch,
            state=self._state,
        )

    def ingest(self, event: EventEnvelope | UnifiedEvent) -> int | None:
        """Hand an event to the log. Never blocks, and is not a checkpoint.

        Not to be called from a signal handler or a finalizer (``__del__``), which can interrupt the log in
        the middle of its own work: these go through ``trio.lowlevel.TrioToken.run_sync_soon``.

        The filter runs first, on the bare event. Then the event is checked and its payload encoded: what
        the caller changes later changes nothing here. Then it gets the next seq and waits for the store. If
        more than ``retry_buffer_cap`` events or ``max_pending_bytes`` wait, the oldest of them are lost,
        and reported.

        Args:
          event: an envelope, or a bare event, which gets a new id (UUIDv7) and the time of the wall clock.

        Returns:
          Its seq, or None if the filter kept it out (no seq is spent then). The seq is final once the event
          is durable: see :meth:`flush`.

        Raises:
          trio.ClosedResourceError: the block of :func:`open_event_log` has ended.
          CodecError: the event is malformed, its payload is no JSON, or it is larger than
            ``max_event_bytes``; the message names the field.
          TypeError: ``event`` is neither an envelope nor an event.
          RuntimeError: called from another thread than the log's, or in a process that was forked from the
            log's.
          EventLogError: the log has given out its last seq, 2**63 - 1.
          Exception: whatever the filter raises. The log goes on.
        """
        prepared = self._prepare(event)
        return None if prepared is None else self._accept(*prepared)

    async def ingest_wait(self, event: EventEnvelope | UnifiedEvent) -> int | None:
        """Like :meth:`ingest`, but wait while the log holds ``retry_buffer_cap`` events, or too many bytes
        to take this one, so that it makes no other one fall.

        Waiting tasks are served in the order of their calls. Filter and encoding come before the wait, the
        seq after it. Always a checkpoint, unless it raises one of the errors below. If it is cancelled, the
        event was not accepted.

        Raises:
          trio.ClosedResourceError: the block of :func:`open_event_log` has ended, or ended while waiting.
          CodecError, TypeError, RuntimeError, Exception: as :meth:`ingest`.
        """
        prepared = self._prepare(event)
        if prepared is None:
            await trio.lowlevel.checkpoint()
            return None
        return await self._accept_when_there_is_room(*prepared)

    @trio.lowlevel.enable_ki_protection
    async def flush(self, through: int | None = None) -> None:
        """Wait until events are durable.

        Starts an append at once instead of waiting for a full batch, and once per wait it cuts the wait after
        a failure short, so that a program which flushes often calls a failing store often. It waits as long
        as the store fails: bound it with ``trio.move_on_after`` or ``trio.fail_after``. Always a checkpoint.
        Cancelling it changes nothing but the hurry.

        Args:
          through: the last seq that matters; by default all that was ingested before this call.

        Raises:
          EventsLost: some of those events were lost, and no flush that was done before this one began has
            raised them. All others are durable.
          TypeError: ``through`` is no integer.
          ValueError: ``through`` is higher than any seq given out, or negative.
          trio.ClosedResourceError: the log is closed. A flush that waits when the body ends gets the
            result of the drain; this error if some of those events are left in the spill file.
          StoreUnusable: with a spill file, the store can no longer take those events; they are spilled.
        """
        if through is None:
            through = self._last_seq
        elif type(through) is not int:
            msg = f"through: expected a seq, got {type(through).__name__}"
            raise TypeError(msg)
        elif not 0 <= through <= self._last_seq:
            msg = f"through: expected a seq of 0 to {self._last_seq}, the last one given out, got {through}"
            raise ValueError(msg)
        self._require_running("flush")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._absorb()
        ticket = self._buffer.issue_ticket(through)
        self._settle_flushes()
        if ticket.outcome is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif self._fatal is not None:
            self._buffer.withdraw_ticket(ticket)
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            self._scheduler.hurry()
            self._flush_alarm.ring_by(-math.inf)
            await self._wait_for_flush(ticket)
        if ticket.outcome is None:
            # Only a spill file leaves tickets open: what they wait for is in it.
            if self._fatal is not None:
                raise self._fatal
            msg = "flush: the event log was closed before all was stored; the rest is in its spill file"
            raise trio.ClosedResourceError(msg)
        self._buffer.raised(ticket)
        if ticket.outcome.count:
            raise _events_lost(ticket.outcome) from self._fatal

    async def query(self, query: EventQuery | None = None) -> list[PersistedEvent]:
        """Durable events that match, ascending by seq. A checkpoint, and cancellable.

        Asks the store itself, so that events that still wait are not found; :meth:`flush` first if they
        matter.

        Args:
          query: what to look for; by default every event.

        Raises:
          StoreError: the store failed, and may answer later.
          StoreUnusable: the store failed, and will not answer any more.
          trio.ClosedResourceError: the log is closed. Its ``store`` can be asked as long as that is open.
        """
        if query is None:
            query = EventQuery()
        elif not isinstance(query, EventQuery):
            msg = f"query: expected an EventQuery, got {type(query).__name__}"
            raise TypeError(msg)
        self._require_running("query")
        return await awaitable(self._store, "query", self._store.query(query))

    def subscribe(
        self, query: EventQuery | None = None, *, after_seq: int | None = None
    ) -> AbstractAsyncContextManager[Subscription]:
        """Follow the log, for the length of an ``async with`` block.

        ::

            async with log.subscribe(EventQuery(run_id="r-1"), after_seq=0) as events:
                async for event in events:
                    print(event)

        Delivers every stored event that matches, in order and once: what is there behind the cursor, and then
        what becomes durable, also if the store goes back to an older state meanwhile. An event that is lost,
        or that the store holds already under another seq, is none. Nobody waits for a slow subscriber, and
        nothing is kept for it but the newest events, which all share; what it misses there it reads from the
        store.

        The iteration ends after the last durable event once the log is closed. A subscriber in a nursery
        *inside* the block of :func:`open_event_log` therefore has to be cancelled, or that nursery waits for
        it, and the log for the nursery; one in a nursery around the block ends by itself.

        Entering is a checkpoint. Leaving is none and never waits.

        Args:
          query: which events; by default all. Its ``limit`` ends the iteration after so many.
          after_seq: the cursor to resume from; 0 for the first event on; by default the last durable seq.
            Instead of the ``after_seq`` of the query.

        Raises:
          StaleCursor: ``after_seq`` is beyond the last seq that the log has given out.
          TypeError, ValueError: an argument is not as described.
          trio.ClosedResourceError: the log is closed.
          RuntimeError: this process was forked from that of the log.
        """
        wanted, after = checked_start(query, after_seq)
        is_from_first = after == 0
        self._require_running("subscribe")
        if after is None:
            after = self._feed.recent.durable_seq
        elif after > self._last_seq:
            raise StaleCursor(after, self._last_seq)
        return self._feed.subscribe(wanted, after, is_from_first=is_from_first)

    def is_own_work(self) -> bool:
        """Whether the caller works for an append of this log: in its store, or in a task or a thread that was
        started there.

        For what turns something that the program does into events, such as a handler of log records: one for
        each append would never end. Also true in an append of another log if that is what this log's appends
        have led to. Ask only before ingesting, and ingest if this is False: from then on, the append that the
        caller works for counts as one that leads to this log.

        Tells by the context (:mod:`contextvars`), which Trio's tasks and ``trio.to_thread.run_sync`` hand on.
        A store with threads of its own hands it on itself: ``contextvars.copy_context().run(work)``.
        """
        return self._is_work_of(at_work.get())

    def _is_work_of(self, logs: frozenset[int]) -> bool:
        if self._number in logs or logs is SOME_LOG:
            return True
        # In a circle, appends of this log would lead back to those.
        self._led_here |= logs
        return False

    def owns_task(self, task: trio.lowlevel.Task) -> bool:
        """Whether ``task`` is one of the log's own, or was started by one, in the store for example.

        For what turns the life of tasks into events: the log's own must bring about none. A task that an
        append of another log has started counts as for :meth:`is_own_work`.
        """
        nursery = task.parent_nursery
        while nursery is not None:
            if nursery is self._nursery:
                return True
            nursery = nursery.parent_task.parent_nursery
        return self._is_work_of(task.context.get(at_work, frozenset()))

    def __repr__(self) -> str:
        return f"<EventLog {self._state} on {self._store!r}, last seq {self._last_seq}>"

    # --- from the caller to the buffer ------------------------------------------------------------

    def _prepare(self, event: EventEnvelope | UnifiedEvent) -> tuple[PersistedEvent, int] | None:
        """Filter, check, seal and weigh; the seq comes later. The filter runs in the frame of the caller."""
        # This runs for every event: questions are asked here, and answered at length only if need be.
        if self._is_closed or fork_count() != self._forks or get_ident() != self._thread:
            self._require_own_process()
            self._require_own_thread("ingest")
            self._require_open()
        settings = self._settings
        envelope = event if isinstance(event, EventEnvelope) else None
        bare = event if envelope is None else envelope.event
        if not isinstance(bare, _EVENTS):
            msg = (
                f"expected an AgentEvent, a ModuleEvent or an EventEnvelope of one, got {_kind(event, bare)}"
            )
            raise TypeError(msg)
        if settings.filter is not None and not settings.filter(bare):
            self._filtered += 1
            return None
        if envelope is None:
            prepared = prepare_event(new_event_id(), wall_clock_ms(), bare, "", settings.max_event_bytes)
        else:
            check_envelope(envelope)
            prepared = prepare_event(
                envelope.event_id, envelope.timestamp_ms, bare, "event.", settings.max_event_bytes
            )
        size = prepared[1]
        if size > settings.max_event_bytes:
            raise CodecError("event", too_large(settings.max_event_bytes, size=size))
        return prepared

    @trio.lowlevel.enable_ki_protection
    def _accept(self, event: PersistedEvent, size: int) -> int:
        """Give out the next seq and hand the event over."""
        if self._is_closed:
            self._require_open()
        # Room comes before the number: making it can lead to a report, and whoever is told may ingest.
        while self._staged >= self._capacity:
            self._absorb()
        seq = self._last_seq + 1
        if seq > MAX_STORED:
            msg = f"the log has given out its last seq, {MAX_STORED}"
            raise EventLogError(msg)
        give_seq(event, seq)
        self._last_seq = seq
        if self._doom is not None:
            self._buffer.refuse(event, self._doom)
            self._note_losses()
            return seq
        self._send.send_nowait((event, size))
        self._staged += 1
        self._staged_bytes += size
        if self._staged >= self._attention or self._staged_bytes >= self._attention_bytes:
            self._look_up()
        return seq

    def _look_up(self) -> None:
        """The channel holds enough to do something about it."""
        settings = self._settings
        waiting, waiting_bytes = self._buffer.waiting, self._buffer.waiting_bytes
        if self._scheduler.is_idle:
            self._scheduler.arrived(trio.current_time())
        self._flush_alarm.ring_by(self._due())
        total, total_bytes = waiting + self._staged, waiting_bytes + self._staged_bytes
        self._spill_alarm.ring_by(self._spill_due())
        if total > settings.retry_buffer_cap or total_bytes > settings.max_pending_bytes:
            self._absorb()
            return
        # Next when a batch is full, the low mark passed, or the bound reached.
        marks = (settings.batch_size, self._low_mark + 1, settings.retry_buffer_cap + 1)
        self._attention = min(mark for mark in marks if mark > total) - waiting
        marks = (self._batch_bytes, self._low_mark_bytes + 1, settings.max_pending_bytes + 1)
        self._attention_bytes = min(mark for mark in marks if mark > total_bytes) - waiting_bytes

    def _absorb(self) -> None:
        """Move the content of the channel into the buffer, where the cap is kept."""
        if self._staged:
            receive = self._receive.receive_nowait
            self._buffer.put([receive() for _ in range(self._staged)])
        self._staged = self._staged_bytes = 0
        self._attention = self._attention_bytes = 1
        if self._buffer.unreported:
            self._settle_flushes()
            self._note_losses()

    @trio.lowlevel.enable_ki_protection
    async def _accept_when_there_is_room(self, prepared: PersistedEvent, size: int) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._waiters and self._has_room(size):
            seq = self._accept(prepared, size)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return seq
        waiter = _Waiter(trio.lowlevel.current_task(), prepared, size)
        self._waiters[waiter] = None

        # Who is cancelled leaves the queue at that moment, and not when its task runs again: in between it
        # could be served.
        def give_up(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiters[waiter]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        if waiter.error is not None:
            raise waiter.error
        if waiter.seq is None:
            msg = "the event log was closed while this event waited for room"
            raise trio.ClosedResourceError(msg)
        return waiter.seq

    def _has_room(self, size: int) -> bool:
        if self._doom is not None:
            return True
        size_then = self._staged_bytes + self._buffer.unfiled_bytes + size
        return (
            self._staged + self._buffer.unfiled < self._settings.retry_buffer_cap
            and size_then <= self._settings.max_pending_bytes
        )

    def _serve_waiters(self) -> None:
        while self._waiters and self._has_room(next(iter(self._waiters)).size):
            waiter, _ = self._waiters.popitem(last=False)
            try:
                waiter.seq = self._accept(waiter.event, waiter.size)
            except EventLogError as exc:  # no seq is left; its caller is to know
                waiter.error = exc
            trio.lowlevel.reschedule(waiter.task)

    async def _wait_for_flush(self, ticket: FlushTicket) -> None:
        self._flushes[ticket] = trio.lowlevel.current_task()

        # As in ingest_wait: a ticket that is settled belongs to somebody who will be told.
        def give_up(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._flushes[ticket]
            self._buffer.withdraw_ticket(ticket)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    def _settle_flushes(self) -> None:
        for ticket in self._buffer.settle():
            # None: its flush has not begun to wait, and need not.
            if (task := self._flushes.pop(ticket, None)) is not None:
                trio.lowlevel.reschedule(task)

    def _release_flushes(self) -> None:
        """Nothing more will settle these: what they wait for stays in the spill file."""
        while self._flushes:
            ticket, task = self._flushes.popitem()
            self._buffer.withdraw_ticket(ticket)
            trio.lowlevel.reschedule(task)

    def _require_own_process(self) -> None:
        if fork_count() != self._forks:
            msg = (
                "an event log belongs to the process that opened it, and this one was forked from that: open"
                " store and log anew in a trio.run of this process"
            )
            raise RuntimeError(msg)

    def _require_own_thread(self, what: str) -> None:
        if get_ident() != self._thread:
            how = "run_sync(log.ingest, event)" if what == "ingest" else f"run(log.{what})"
            msg = (
                "an event log belongs to the thread that opened it; from another one call"
                f" trio.from_thread.{how}"
            )
            raise RuntimeError(msg)

    def _require_open(self) -> None:
        if self._is_closed:
            msg = "the event log is closed: the block of open_event_log has ended"
            raise trio.ClosedResourceError(msg)

    def _require_running(self, what: str) -> None:
        self._require_own_process()
        self._require_own_thread(what)
        if self._is_done.is_set():
            msg = f"{what}: the event log is closed"
            raise trio.ClosedResourceError(msg)

    # --- from the buffer to the store -------------------------------------------------------------

    def _due(self) -> float:
        if self._fatal is not None:
            return math.inf
        available = self._buffer.available
        if self._buffer.is_filing and not available:
            # The oldest are on their way to the spill file; the spiller rings when they are there.
            return math.inf
        is_heavy = self._staged_bytes + self._buffer.bytes_in_memory >= self._batch_bytes
        return self._scheduler.due(
            self._staged + available, is_heavy=is_heavy, awaited=self._buffer.is_awaited
        )

    @trio.lowlevel.enable_ki_protection
    async def _run(  # noqa: ASYNC910 - a task of its own, awaited by nobody
        self, work: Callable[[], Awaitable[None]], nursery_scope: trio.CancelScope
    ) -> None:
        """One of the tasks of the log: nothing leaves it, whatever happens in it."""
        try:
            await work()
        except Exception as bug:  # noqa: BLE001 - kept, and raised from open_event_log
            self._bug = self._bug or bug
            self._state = LogState.BROKEN
            nursery_scope.cancel(reason="the event log broke")
            self._give_up_after_a_bug()
        except BaseException as interrupt:  # noqa: BLE001, ASYNC103 - kept, and raised from open_event_log
            # Not Cancelled, which ends at the scope in ``work``: KeyboardInterrupt and the like, raised by
            # the store or by on_failure.
            self._interrupt = interrupt
            nursery_scope.cancel(reason="the event log was interrupted")
            self._give_up(LossReason.SHUTDOWN)
        finally:
            self._stop("the event log is done")
            self._running -= 1
            if not self._running:
                self._is_done.set()
                self._feed.close()

    def _stop(self, reason: str) -> None:
        self._writer_scope.cancel(reason=reason)
        self._reporter_scope.cancel(reason=reason)

    async def _run_writer(self) -> None:
        try:
            with self._writer_scope:
                await self._write()
        finally:
            if self._spill_file is not None:
                self._spill_the_rest = True
                self._spill_alarm.ring_by(-math.inf)
                self._sync_alarm.ring_by(-math.inf)
                with trio.move_on_after(_SPILL_SECONDS, shield=True):
                    await self._spiller_is_done.wait()
                    await self._syncer_is_done.wait()
                self._spiller_scope.cancel(reason="the spill file took too long")
                self._syncer_scope.cancel(reason="the store took too long to sync")
                with trio.CancelScope(shield=True):
                    await self._spiller_is_done.wait()
                    await self._syncer_is_done.wait()
        self._give_up(LossReason.SHUTDOWN)

    async def _run_reporter(self) -> None:
        # A task of its own, since losses are reported in time even while an append takes long.
        with self._reporter_scope:
            while True:
                await self._report_alarm.sleep_until(self._report_at)
                if trio.current_time() >= self._report_at:
                    self._report_losses()

    def _give_up_after_a_bug(self) -> None:
        try:
            self._give_up(LossReason.BROKEN)
        except Exception as exc:  # noqa: BLE001 - logged; the first bug is raised
            # The books themselves may be what is broken.
            write_record(
                logging.ERROR, "the event log broke, and could not report all that it lost", error=exc
            )

    async def _write(self) -> None:  # noqa: ASYNC910 - awaited by the writer alone, which may be done at once
        while True:
            self._absorb()
            now = trio.current_time()
            due = self._due()
            is_over = due == math.inf and (self._fatal is not None or not self._buffer.is_filing)
            if self._is_closed and (is_over or self._writer_scope.cancel_called):
                # Nothing is left, or the last attempt was made, or there is no time for one.
                return  # noqa: ASYNC910 - as above
            if now < due:
                await self._flush_alarm.sleep_until(due)
            elif self._buffer.must_load:
                await self._load()
            else:
                await self._append()

    async def _append(self) -> None:  # noqa: ASYNC910 - the checkpoint is the store's
        batch = self._buffer.take(self._most_offered)
        started = trio.current_time()
        self._scheduler.taken(self._buffer.waiting, started)
        self._attention = 1
        self._spill_alarm.ring_by(self._spill_due())
        self._appends += 1
        self._peak_batch = max(self._peak_batch, len(batch))
        error: Exception | None = None
        duplicates: Collection[int] = ()
        # Foreign code from here to the end of this block: it may raise, hang or lie.
        scope = self._append_scope = trio.CancelScope(deadline=self._append_deadline())
        try:
            with scope:
                with self._at_work():
                    append = self._store.append_batch(batch)
                    returned = await awaitable(self._store, "append_batch", append)
                duplicates = _checked_duplicates(returned, batch)
            if scope.cancelled_caught:
                error = TimeoutError(f"the append was cancelled after {trio.current_time() - started:.3g} s")
        except Exception as exc:  # noqa: BLE001 - whatever a store raises is handled below
            error = exc
        except BaseException as exc:
            # Cancelled when the grace period is over, or KeyboardInterrupt raised by the store.
            self._buffer.failed()
            cancelled, other = _split_cancelled(exc)
            cut_off = TimeoutError("the append was cut off by the end of the grace period")
            self._tell_failure(other or cut_off, batch, math.inf)
            if cancelled is None or not isinstance(other, Exception):
                raise
            # What a store raises beside being cancelled is told, and is no error of the log.
            raise cancelled from None  # noqa: ASYNC104 - it is what was Cancelled
        finally:
            self._append_scope = None
        self._absorb()
        try:
            if error is None:
                size = self._buffer.batch_bytes
                self._publish(self._buffer.stored(duplicates), size)
                self._scheduler.succeeded(trio.current_time())
            else:
                self._handle(error, batch, timed_out=scope.cancelled_caught)
        finally:
            # The error holds this frame, and this frame must not hold the error: with it a whole batch would
            # wait for the collector of cycles.
            del error, batch
        self._settle_flushes()
        self._note_losses()
        self._serve_waiters()
        if self._spill_is_dirty and self._buffer.is_file_settled:
            await self._forget_spilled()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """For the length of the block, let what runs be known as work for this log."""
        token = at_work.set(self._led_here | {self._number})
        try:
            yield
        finally:
            at_work.reset(token)

    def _publish(self, stored: tuple[PersistedEvent, ...], size: int) -> None:
        if not stored:
            return
        self._highest_durable = max(self._highest_durable, stored[-1].seq)
        before = self._feed.recent.durable_seq
        is_seamless = stored[0].seq == before + 1 and stored[-1].seq - before == len(stored)
        # An event that was given up in doubt may have been stored after all, in between.
        is_complete = is_seamless or self._buffer.offered_through <= before
        self._feed.publish(stored, is_complete=is_complete, size=size)

    def _append_deadline(self) -> float:
        return self._scheduler.append_until(self._settings.append_timeout)

    def _handle(self, error: Exception, batch: tuple[PersistedEvent, ...], *, timed_out: bool) -> None:
        if isinstance(error, StoreUnusable):
            self._fatal = error
            self._state = LogState.UNUSABLE
            in_doubt = not isinstance(error, SequenceConflict)
            if self._spill_file is None:
                self._lose_everything(LossReason.UNUSABLE, in_doubt=in_doubt)
            else:
                self._buffer.failed(in_doubt=in_doubt)
                self._release_flushes()
                self._spill_alarm.ring_by(self._spill_due())
            self._tell_failure(error, batch, math.inf)
            self._report_losses()
            return
        rejected = _rejected(error, batch)
        if rejected:
            self._buffer.rejected(rejected)
            self._scheduler.rejected(len(batch) - len(rejected))
            self._tell_failure(error, batch, 0.0)
            self._report_losses()
            return
        if isinstance(error, StoreWentBack) and _is_plausible(error, self._last_seq):
            self._go_back(error, batch)
            return
        is_foreign = isinstance(error, EventRejected | StoreWentBack) or not isinstance(error, StoreError)
        if is_foreign and not timed_out:
            self._log_foreign(error)
        self._buffer.failed()
        retry_in = self._scheduler.failed(trio.current_time())
        self._spill_alarm.ring_by(self._spill_due())
        self._tell_failure(error, batch, retry_in, failures=self._scheduler.failures)

    def _go_back(self, error: StoreWentBack, batch: tuple[PersistedEvent, ...]) -> None:
        """The store has less than it had acknowledged: offer again what is at hand, and count the rest."""
        last_seq = error.last_seq
        # A store that does it again before it got any further may do it for ever: no hurry then.
        is_repeat = self._went_back_at == self._highest_durable
        if self._went_back_with == self._appends - 1 and last_seq >= self._went_back_to:
            self._log_foreign(error)  # once for each time, says the contract
        self._went_back_at, self._went_back_to = self._highest_durable, last_seq
        self._went_back_with = self._appends
        earlier = (last_seq + 1, self._found_through) if last_seq < self._found_through else None
        self._found_through = min(self._found_through, last_seq)
        again, lost = self._buffer.went_back(last_seq, self._feed.go_back(last_seq))
        if self._sync is not None and self._spill_file is not None:
            # It may have copies of what is gone, and not all of that need be at hand, or will find room: the
            # next run delivers them again.
            self._spill_file.keep = Keep.UNTIL_FULL
        if is_repeat:
            retry_in = self._scheduler.failed(trio.current_time())
        else:
            self._scheduler.rejected(self._buffer.available)
            retry_in = 0.0
        self._spill_alarm.ring_by(self._spill_due())
        self._tell_failure(error, batch, retry_in, failures=self._scheduler.failures if is_repeat else None)
        if again or lost or earlier or not is_repeat:
            self._tell(
                RevertReport(
                    last_seq=last_seq,
                    expected_seq=error.expected_seq,
                    again=again,
                    lost=lost,
                    earlier=earlier,
                )
            )

    def _tell_failure(
        self,
        error: BaseException,
        batch: tuple[PersistedEvent, ...],
        retry_in: float,
        *,
        failures: int | None = None,
    ) -> None:
        self._failed_appends += 1
        self._tell(
            AppendFailureReport(
                error=error,
                events=len(batch),
                first_seq=batch[0].seq,
                last_seq=batch[-1].seq,
                failures=self._scheduler.failures + 1 if failures is None else failures,
                retry_in=retry_in,
            )
        )

    def _log_foreign(self, error: Exception) -> None:
        """A store that breaks its contract has a defect: say so, once."""
        if not self._logged_foreign_error:
            self._logged_foreign_error = True
            write_record(
                logging.ERROR,
                "the store %r broke its contract; the append will be tried again",
                self._store,
                error=error,
            )

    # --- the spill file ---------------------------------------------------------------------------

    async def _run_spiller(self) -> None:
        try:
            with self._spiller_scope:
                await self._spill()
        finally:
            self._spiller_is_done.set()

    async def _spill(self) -> None:  # noqa: ASYNC910 - awaited by the spiller alone, which may be done at once
        while True:
            self._absorb()
            if self._spill_the_rest and not self._buffer.can_file:
                return  # noqa: ASYNC910 - as above
            due = self._spill_due()
            if trio.current_time() < due:
                await self._spill_alarm.sleep_until(due)
            else:
                await self._file()

    def _spill_due(self) -> float:
        """When the next write to the spill file may start."""
        if self._spill_file is None or self._buffer.is_filing:
            return math.inf
        if not (self._staged or self._buffer.can_file):
            return math.inf
        waiting = self._staged + self._buffer.waiting
        waiting_bytes = self._staged_bytes + self._buffer.waiting_bytes
        if self._spill_the_rest:
            wanted = True
        elif self._fatal is not None:
            wanted = waiting > 0
        else:
            # A store that is well takes them all with its next append.
            is_behind = (
                self._append_scope is not None or self._scheduler.failures > 0 or self._buffer.must_load
            )
            is_much = waiting > self._low_mark or waiting_bytes > self._low_mark_bytes
            wanted = is_behind and is_much
        return self._spill_retry_at if wanted else math.inf

    async def _file(self) -> None:  # noqa: ASYNC910 - the checkpoint is the thread's
        """Write the oldest events that are in memory alone."""
        assert self._spill_file is not None, "the spiller has a file"
        events = self._buffer.start_filing(_SPILLED_TOGETHER, self._spilled_bytes)
        self._spill_file.note_stored(self._buffer.last_durable_seq)
        self._spill_file.is_last_chance = self._spill_the_rest
        try:
            await _in_thread(partial(self._spill_file.append, events))
        except (OSError, RuntimeError) as exc:  # RuntimeError: no thread is to be had
            self._buffer.not_filed()
            self._spill_failures += 1
            retry_in = self._settings.retry.delay(self._spill_failures)
            self._spill_retry_at = trio.current_time() + retry_in
            self._tell_spill_failure(exc, len(events), retry_in)
        else:
            self._buffer.filed()
            self._filed_to = self._spill_file.end
            self._spill_is_dirty = True
            self._spill_failures = 0
            self._spill_retry_at = -math.inf
        self._absorb()
        self._settle_flushes()
        self._note_losses()
        self._serve_waiters()
        self._flush_alarm.ring_by(self._due())

    async def _load(self) -> None:
        """Read the next batch from the spill file."""
        assert self._spill_file is not None, "it has events"
        # Nothing that the spiller has not heard of: it would be counted as read before it counts as filed.
        through = self._filed_to
        read = partial(self._spill_file.read, self._most_offered, self._spilled_bytes, through=through)
        try:
            load = await _in_thread(read)
        except (OSError, RuntimeError) as exc:
            now = trio.current_time()
            self._scheduler.taken(self._buffer.available, now)
            self._tell_spill_failure(exc, 0, self._scheduler.failed(now))
            return  # noqa: ASYNC910 - the checkpoint is the thread's
        except trio.Cancelled:
            self._spill_read_given_up = True
            raise
        self._batch_from, self._batch_to = self._batch_to, load.end
        is_last = load.is_last and through == self._filed_to and not self._buffer.is_filing
        missing = self._buffer.loaded(load.events, is_last=is_last)
        if missing.count:
            self._tell(
                SpillDamageReport(
                    path=self._spill_file.path,
                    events=missing.count,
                    first_seq=missing.first_seq,
                    last_seq=missing.last_seq,
                )
            )
        self._settle_flushes()
        self._sync_alarm.ring_by(self._sync_due())

    async def _forget_spilled(self) -> None:  # noqa: ASYNC910 - as _file
        """All that the spill file has is settled: make it small again."""
        assert self._spill_file is not None, "it was written to"
        self._spill_is_dirty = False
        if self._spill_file.keep is Keep.UNTIL_TOLD:
            self._sync_alarm.ring_by(self._sync_due())
        else:
            await self._forget_through(self._filed_to)

    async def _forget_through(self, position: int) -> None:  # noqa: ASYNC910 - as _file
        assert self._spill_file is not None, "it was written to"
        self._forgotten_to = position
        self._spill_file.note_stored(self._buffer.last_durable_seq)
        try:
            await _in_thread(partial(self._spill_file.settle, position))
        except (OSError, RuntimeError) as exc:
            # It goes with the next write, or at the end.
            self._tell_spill_failure(exc, 0, math.inf)

    async def _run_syncer(self) -> None:
        try:
            with self._syncer_scope:
                await self._keep_in_sync()
        finally:
            self._syncer_is_done.set()

    async def _keep_in_sync(self) -> None:  # noqa: ASYNC910 - as _spill
        while True:
            due = self._sync_due()
            if self._spill_the_rest:
                if due < math.inf:
                    await self._sync_store()
                return  # noqa: ASYNC910 - as _spill
            if trio.current_time() < due:
                await self._sync_alarm.sleep_until(due)
            else:
                await self._sync_store()

    def _settled_in_file(self) -> int:
        """The position before which the spill file has nothing that is pending."""
        if self._buffer.is_file_settled:
            return self._filed_to
        return self._batch_to if self._buffer.must_load else self._batch_from

    def _sync_due(self) -> float:
        """When the store is to make sure of what was delivered from the spill file."""
        if self._sync is None or self._fatal is not None:
            return math.inf
        waiting = self._settled_in_file() - self._forgotten_to
        is_due = self._spill_the_rest or self._buffer.is_file_settled or waiting >= self._unsynced_bytes
        return self._sync_retry_at if waiting > 0 and is_due else math.inf

    async def _sync_store(self) -> None:  # noqa: ASYNC910 - the checkpoint is the store's
        """What is acknowledged now is to survive a loss of power, so that the spill file can give it up."""
        assert self._sync is not None, "asked by who has one"
        through = self._settled_in_file()
        error: Exception | None = None
        # Foreign code, as append_batch.
        scope = trio.CancelScope(deadline=trio.current_time() + self._settings.append_timeout)
        try:
            with scope:
                await self._sync()
            if scope.cancelled_caught:
                error = TimeoutError(
                    f"sync of the store was cancelled after {self._settings.append_timeout:.3g} s"
                )
        except Exception as exc:  # noqa: BLE001 - told, and tried again
            error = exc
        except BaseException as exc:
            cancelled, other = _split_cancelled(exc)
            cut_off = TimeoutError(f"sync of the store took longer than {_SPILL_SECONDS} s at the end")
            self._tell_spill_failure(other if isinstance(other, Exception) else cut_off, 0, math.inf)
            if cancelled is None or (other is not None and not isinstance(other, Exception)):
                raise
            raise cancelled from None  # noqa: ASYNC104 - it is what was Cancelled
        if error is None:
            self._sync_failures = 0
            self._sync_retry_at = -math.inf
            await self._forget_through(through)
            return
        self._sync_failures += 1
        is_last = self._spill_the_rest or isinstance(error, StoreUnusable)
        retry_in = math.inf if is_last else self._settings.retry.delay(self._sync_failures)
        self._sync_retry_at = trio.current_time() + retry_in
        self._tell_spill_failure(error, 0, retry_in)

    async def _close_spill(self) -> None:  # noqa: ASYNC910 - as _file
        """Leave the spill file to the next run, or remove it."""
        assert self._spill_file is not None, "asked by who has one"
        self._spill_file.note_stored(self._buffer.last_durable_seq)
        self._release_flushes()
        is_exact = not self._spill_read_given_up
        again = self._buffer.again if is_exact else ()
        close = partial(
            self._spill_file.close,
            self._buffer.read if self._buffer.spilled else None,
            again=again,
            is_exact=is_exact,
        )
        with trio.move_on_after(_SPILL_SECONDS, shield=True) as scope:  # noqa: ASYNC912 - as _file
            try:
                await _in_thread(close)
            except (OSError, RuntimeError) as exc:
                self._tell_spill_failure(exc, 0, math.inf)
            else:
                if again:
                    self._buffer.again_filed()
        if scope.cancelled_caught:
            late = TimeoutError(f"closing it took longer than {_SPILL_SECONDS} s")
            self._tell_spill_failure(late, 0, math.inf)
        self._buffer.again_not_filed(self._doom or LossReason.SHUTDOWN)
        self._left_in_spill = self._buffer.spilled
        if self._left_in_spill:
            self._tell(SpillReport(path=self._spill_file.path, events=self._left_in_spill))

    def _tell_what_was_found(self, last_seq: int) -> None:
        """Tell what the spill file says of the past; the store has ``last_seq``."""
        if self._spill_file is None:
            return
        if self._spill_file.was_damaged:
            first = self._first_seq
            self._tell(
                SpillDamageReport(path=self._spill_file.path, events=0, first_seq=first, last_seq=first - 1)
            )
        known = self._spill_file.known_seq
        if known > last_seq and self._first_seq > last_seq + 1:
            earlier = (last_seq + 1, known)
            self._tell(RevertReport(last_seq=last_seq, expected_seq=known, again=0, lost=0, earlier=earlier))

    def _tell_spill_failure(self, error: Exception, events: int, retry_in: float) -> None:
        assert self._spill_file is not None, "it failed"
        self._tell(
            SpillFailureReport(path=self._spill_file.path, error=error, events=events, retry_in=retry_in)
        )

    # --- losses and reports -----------------------------------------------------------------------

    def _lose_everything(self, reason: LossReason, *, in_doubt: bool = True) -> None:
        """All that is pending, and all that may still come."""
        self._doom = self._doom or reason
        self._absorb()
        self._buffer.abandon(reason, in_doubt=in_doubt, keep_again=self._spill_file is not None)
        self._settle_flushes()
        self._serve_waiters()

    def _give_up(self, reason: LossReason) -> None:
        self._lose_everything(reason)
        self._report_losses()

    def _note_losses(self) -> None:
        """See to it that losses are reported: now if they are many, otherwise soon."""
        if self._buffer.unreported >= _LOSSES_TOGETHER:
            self._report_losses()
        else:
            self._report_soon()

    def _report_soon(self) -> None:
        if self._buffer.unreported and self._report_at == math.inf:
            self._report_at = trio.current_time() + _LOSS_DELAY
            self._report_alarm.ring_by(self._report_at)

    def _report_losses(self) -> None:
        # A report can lead to the next: on_failure may ingest. What it brings about is reported later.
        if self._is_reporting:
            return
        self._is_reporting = True
        self._report_at = math.inf
        try:
            for loss in self._buffer.collect_losses():
                self._tell(loss)
        finally:
            self._is_reporting = False
        self._report_soon()

    def _tell(self, report: Report) -> None:
        if self._settings.on_failure is None:
            self._failure_log.note(report, trio.current_time())
            return
        was_in_it, self._is_in_on_failure = self._is_in_on_failure, True
        try:
            self._settings.on_failure(report)
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - promised: logged; it awaits nothing
            write_record(logging.ERROR, "on_failure raised; %s goes on", self, error=exc)
        finally:
            self._is_in_on_failure = was_in_it

    # --- the end ----------------------------------------------------------------------------------

    def _close(self) -> LossAccount:
        """The body has ended: take no more events, and drain. Returns the account of what is lost now."""
        account = self._buffer.open_final_account()
        self._is_closed = True
        self._send.close()
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            trio.lowlevel.reschedule(waiter.task)
        if self._state is LogState.OPEN:
            self._state = LogState.DRAINING
        now = trio.current_time()
        deadline = now + self._settings.grace_period
        self._scheduler.close(now, deadline)
        if self._append_scope is not None:
            self._append_scope.deadline = self._append_deadline()
        self._writer_scope.deadline = deadline
        if self._settings.grace_period == 0:
            self._writer_scope.cancel(reason="the event log has no grace period")
        self._flush_alarm.ring_by(-math.inf)
        return account

    async def _join(self) -> BaseException | None:
        """Wait for the tasks of the log. Returns the KeyboardInterrupt that ended the drain, if one did."""
        interrupt: BaseException | None = None
        while not self._is_done.is_set():
            try:
                # The writer's own scope has the deadline, and it is joined whatever happens.
                with trio.CancelScope(shield=True):
                    await self._is_done.wait()
            except BaseException as exc:  # noqa: BLE001, ASYNC103 - only KeyboardInterrupt can come here; returned
                interrupt = exc
                self._stop("KeyboardInterrupt during the drain")
        return interrupt  # noqa: ASYNC910 - the tasks may be done already

    def _raise_outcome(
        self, body_error: BaseException | None, interrupt: BaseException | None, account: LossAccount
    ) -> None:
        """Raise what the block of the log raises, if anything."""
        lost = _events_lost(account) if account.count else None
        interrupt = interrupt or self._interrupt
        if self._bug is not None:
            msg = "a defect in trio_eventlog; please report this traceback"
            broken = EventLogBroken(msg)
            _add_notes(broken, lost)
            # What the body raised becomes the context by itself: it is being handled where this goes.
            raise broken from self._bug
        if interrupt is not None:
            _add_notes(interrupt, lost, self._fatal)
            raise interrupt
        if body_error is not None:
            _add_notes(body_error, lost, self._fatal)
            raise body_error
        if self._fatal is not None:
            _add_notes(self._fatal, lost)
            raise self._fatal
        if lost is not None:
            raise lost

    def _conclude(self) -> None:
        """Nothing runs any more: report what is not yet reported, and close the books."""
        self._receive.close()
        self._report_losses()
        self._failure_log.close()
        if self._state is LogState.DRAINING:
            self._state = LogState.CLOSED


def _split_cancelled(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What of ``exc`` is being cancelled, and what is not: a store may have a nursery, and raise both."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)
    return (exc, None) if isinstance(exc, trio.Cancelled) else (None, exc)


def _rejected(error: Exception, batch: tuple[PersistedEvent, ...]) -> set[int]:
    """The seqs of those events that a store rejects and that it was offered; none if it names none."""
    if not isinstance(error, EventRejected) or not isinstance(error.events, tuple):
        return set()
    named = {event.seq for event in error.events if isinstance(event, PersistedEvent)}
    return named & {event.seq for event in batch}


def _is_plausible(error: StoreWentBack, last_given: int) -> bool:
    """Whether a store can have gone back as it says."""
    last_seq: object = error.last_seq
    expected_seq: object = error.expected_seq
    # Exact types: bool is an int to Python.
    return (
        type(last_seq) is int and type(expected_seq) is int and 0 <= last_seq < expected_seq
    ) and last_seq <= last_given


def _checked_duplicates(returned: object, batch: tuple[PersistedEvent, ...]) -> Collection[int]:
    """What ``append_batch`` returned, if it is what the contract says."""
    if isinstance(returned, str | bytes) or not isinstance(returned, Collection):
        msg = f"append_batch must return the seqs of duplicates, got {type(returned).__name__}"
        raise TypeError(msg)
    if not returned:
        return ()
    duplicates = set(returned)
    strangers = duplicates.difference(event.seq for event in batch)
    if strangers or not all(type(seq) is int for seq in returned):
        msg = f"append_batch must return seqs of the batch, got {returned!r:.100}"
        raise ValueError(msg)
    return duplicates


def _add_notes(error: BaseException, *notes: Exception | None) -> None:
    for note in notes:
        if note is not None:
            # An error may come with notes that are no list; it is more important than ours.
            with suppress(TypeError):
                error.add_note(f"trio_eventlog: {type(note).__name__}: {note}")


def _kind(event: object, bare: object) -> str:
    name = type(bare).__name__
    return name if bare is event else f"an EventEnvelope of {name}"


def _events_lost(account: LossAccount) -> EventsLost:
    return EventsLost(account.count, account.first_seq, account.last_seq, account.by_reason)


_numbers: Final = count(1)
"""Of the logs of this process."""

_stores_in_use: Final[dict[int, EventStore]] = {}
"""Stores with an open log, by identity: not every store can be hashed."""

_claims: Final = Lock()


@contextmanager
def _claim(store: EventStore) -> Iterator[None]:
    with _claims:
        is_taken = id(store) in _stores_in_use
        _stores_in_use[id(store)] = store
    if is_taken:
        # Without the lock: the repr is the store's.
        msg = f"another event log is open on {store!r}"
        raise LogBusy(msg)
    try:
        yield
    finally:
        del _stores_in_use[id(store)]


async def _ask_last_seq(store: EventStore) -> int:
    last_seq: object = await awaitable(store, "last_seq", store.last_seq())
    if type(last_seq) is not int or not 0 <= last_seq <= MAX_STORED:
        msg = f"last_seq of {store!r} must return an int of 0 to 2**63 - 1, got {last_seq!r}"
        raise StoreError(msg)
    return last_seq


async def _in_thread(work: Callable[[], T], *, abandon: bool = True) -> T:
    """Run ``work``, which waits for a disk.

    A disk can hang like any store. Who waits for it gives up when cancelled, and the spill file itself sees
    to it that what comes after waits for what was given up on.
    """
    # A limiter of its own: a program that keeps Trio's default one busy shall not keep us waiting.
    limiter = trio.CapacityLimiter(1)
    with giving_way():
        return await trio.to_thread.run_sync(work, abandon_on_cancel=abandon, limiter=limiter)


def _keep_for(store: EventStore) -> Keep:
    """How long a spill file keeps what ``store`` has acknowledged."""
    if survives_of(store) == "power":
        return Keep.NOT
    return Keep.UNTIL_FULL if sync_of(store) is None else Keep.UNTIL_TOLD


async def _open_spill_file(
    settings: Settings, log_id: str | None, keep: Keep, last_seq: int
) -> SpillFile | None:
    """Open the spill file, and let what an earlier run left in it follow the last seq of the store."""
    if settings.spill is None:
        await trio.lowlevel.checkpoint()
        return None
    # Not given up on: nobody would close it.
    open_it = partial(SpillFile, settings.spill, log_id, settings.max_spill_bytes, keep=keep)
    spill_file = await _in_thread(open_it, abandon=False)
    after = spill_file.number_after(last_seq)
    if after + spill_file.recovered > MAX_STORED:
        spill_file.close((), is_exact=False)
        msg = f"its {spill_file.recovered} events find no seq after {after}"
        raise SpillError(spill_file.path, msg)
    spill_file.number_from(after + 1)
    spill_file.note_stored(last_seq)
    return spill_file


@ki_protected
@asynccontextmanager
async def open_event_log(
    store: EventStore,
    *,
    filter: Filter | None = None,  # noqa: A002 - the word that a caller expects
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

    Tasks: the log owns a nursery with two tasks. One writes to the store, one append at a time and in the
    order of seqs; the other reports losses. With ``spill`` a third writes to the spill file, and
    a fourth has the store ``sync`` if its appends alone do not survive a loss of power. Like everything that
    owns a nursery, the block must not be yielded out of in an async generator (unless that is a context
    manager itself).

    Entering asks the store once for its last seq; that is a checkpoint, and cancellable. With ``spill`` it
    then opens the spill file in a thread, which is not. Events that an earlier run left there get the next
    seqs, in their order and with their ids, before the body starts, and are stored before all others. If the
    spill file knows that the store once had more than it has now, a :class:`RevertReport` says so, and the
    new seqs lie above all that the file knows of.

    Leaving drains: it goes on until all events are stored or ``grace_period`` is over, counted from the end
    of the body, shielded from outside cancellation. What is not stored by then is lost, and reported; with
    ``spill`` it is written to the spill file instead, which takes 5 s at most, with a last ``sync`` of the
    store beside it, and again for closing it.

    Error handling: an exception of the body leaves the block as it is, never in a group; what was lost is
    added as a note. A store that fails in passing is no error here; events lost in the drain are, and a store
    that became unusable. KeyboardInterrupt ends the drain at once where Trio raises it in the task of the
    block, which is so if that is the main task.

    Args:
      store: where events go. The log does not close it. One log at a time for each store.
      filter: called by ``ingest`` with the bare event; false keeps the event out.
      batch_size: events that make a flush due. What has gathered by then goes out together. 0 counts as 1.
      flush_interval: seconds after which a flush is due for even a single event. 0 counts as a millisecond.
      retry_buffer_cap: most events that wait, beside the batch in flight; beyond it the oldest are lost. At
        least 1, and at least ``batch_size``.
      max_pending_bytes: most bytes that they have together, counted as for ``max_event_bytes``; beyond
        it the oldest are lost as well. An eighth of it makes a flush due. At least ``max_event_bytes``.
      max_event_bytes: most bytes of one event: its payload as JSON, its id, its agent or module and its
        type, in UTF-8. ``ingest`` refuses more. At least 1.
      append_timeout: seconds after which an append is cancelled and counts as failed, its outcome unknown;
        more than 0, ``math.inf`` for never.
      grace_period: seconds that the drain may take; 0 for no drain at all.
      retry: how long to wait after failed appends.
      on_failure: a plain function, called with an :class:`AppendFailureReport` for every failed append, and
        with a :class:`LossReport` for lost events, each of which is reported once. Losses to the cap are
        reported together, after at most a second or 1,024 events. It runs where the failure happened, with
        the books of the log in order, and must be quick; whoever needs async work sends into a channel of
        their own. What it raises is logged and changes nothing. Without it, reports go to the logger
        ``trio_eventlog``: the first of each kind at once, then at most one every 30 seconds, the rest summed
        up with the next and at the end. With ``spill`` there also are :class:`SpillFailureReport`,
        :class:`SpillDamageReport` and :class:`SpillReport`; with a store that went back to an older state,
        :class:`RevertReport`.
      spill: path of the spill file, made with mode 0600 if it is not there and removed when nothing is left
        in it. While the store fails or takes long, events beyond half of ``retry_buffer_cap`` go there; so
        does what would be lost to an unusable store or at the end. What a store acknowledges without
        making it survive a loss of power (``survives``) stays there until ``sync`` has done so. One log at
        a time for each file.
      max_spill_bytes: most bytes of that file, at least 4,096. Beyond it the cap takes events as ever.

    Raises:
      TypeError: an argument or an attribute of the store is of the wrong type, ``store`` is not open, or
        its methods are not async.
      ValueError: an argument or an attribute of the store is out of range; the message names it.
      LogBusy: another log is open on the same store object, or has the spill file open.
      SpillError: the spill file has events of another log, is no spill file, or cannot be opened, on
        entering.
      StoreError: the store could not say its last seq, on entering; :class:`StoreUnusable` if it is
        read-only.
      EventsLost: on leaving, the body succeeded but events that were pending when it ended are lost, or the
        store went back after that.
      StoreUnusable: on leaving, the body succeeded but the store became unusable: the error of the store
        itself.
      EventLogBroken: on leaving, the log failed by a defect of its own, and the body was cancelled for it.
    """
    settings = check_settings(
        filter=filter,
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
    most_offered, log_id, keep = most_offered_to(store), log_id_of(store), _keep_for(store)
    with _claim(store):
        await check_methods(store)
        last_seq = await _ask_last_seq(store)
        spill_file = await _open_spill_file(settings, log_id, keep, last_seq)
        after = last_seq if spill_file is None else spill_file.number_after(last_seq)
        log = EventLog._create(store, settings, after, most_offered, spill_file)
        log._tell_what_was_found(last_seq)
        body_error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                log._nursery = nursery
                nursery.start_soon(log._run, log._run_writer, nursery.cancel_scope)
                nursery.start_soon(log._run, log._run_reporter, nursery.cancel_scope)
                if spill_file is not None:
                    nursery.start_soon(log._run, log._run_spiller, nursery.cancel_scope)
                if log._sync is not None:
                    nursery.start_soon(log._run, log._run_syncer, nursery.cancel_scope)
                try:
                    yield log
                except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, once the nursery is gone
                    body_error = exc
                account = log._close()
                interrupt = await log._join()
                if spill_file is not None:
                    await log._close_spill()
            log._conclude()
            log._raise_outcome(body_error, interrupt, account)
        finally:
            # An exception that stays in a local of its own traceback is a cycle.
            del body_error
