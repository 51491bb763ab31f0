"""The flush task: one append at a time, and what becomes of it. Floor 4: Trio."""

from __future__ import annotations

import math
from collections.abc import Collection

import attrs
import trio

from trio_eventlog._answers import awaitable, shown
from trio_eventlog._engine._losses import FlushTicket
from trio_eventlog._log._backlog import Backlog, FlushTimer
from trio_eventlog._log._outcome import Outcome
from trio_eventlog._log._reporter import Reporter
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._spiller import Spiller, split_cancelled
from trio_eventlog._model._errors import (
    EventRejected,
    LossReason,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    StoreWentBack,
)
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._reports import AppendFailureReport, LogState, RevertReport
from trio_eventlog._own_work import OwnWork
from trio_eventlog._reading._subscription import Feed
from trio_eventlog.abc import EventStore


@attrs.frozen
class Reversion:
    """What it means that a store went back to an older state."""

    at_hand: list[PersistedEvent]
    """Events that the store no longer has, as far as the log has them."""

    earlier: tuple[int, int] | None
    """The lowest and highest seq that the store no longer has from earlier runs."""

    is_repeat: bool
    """Whether the store went back before it got any further than the last time."""

    is_told_again: bool
    """Whether the store has told of this once already, which its contract forbids."""


class Publisher:
    """Tells subscriptions what has become durable, and keeps in mind what that was."""

    def __init__(self, feed: Feed, last_seq: int) -> None:
        self._feed = feed
        self.found_through = last_seq
        """The highest seq of an earlier run that is still stored."""
        self._highest_durable = last_seq  # even if it is stored no longer
        # Of the last time that the store went back: the highest durable seq, the append, and to which seq.
        self._reverted_at = self._reverted_in = self._reverted_to = -1

    def publish(self, stored: tuple[PersistedEvent, ...], size: int, offered_through: int) -> None:
        """Tell of what the store has taken of a batch of ``size`` bytes.

        Up to ``offered_through``, events may be stored without the log having been told.
        """
        if not stored:
            return
        self._highest_durable = max(self._highest_durable, stored[-1].seq)
        before = self._feed.recent.durable_seq
        is_seamless = stored[0].seq == before + 1 and stored[-1].seq - before == len(stored)
        # In a gap there can be an event that the log gave up in doubt, and that was stored after all.
        is_complete = is_seamless or offered_through <= before
        self._feed.publish(stored, is_complete=is_complete, size=size)

    def go_back(self, error: StoreWentBack, append: int) -> Reversion:
        """The store raised ``error`` in the append with the number ``append``."""
        last_seq = error.last_seq
        reversion = Reversion(
            at_hand=self._feed.go_back(last_seq),
            earlier=(last_seq + 1, self.found_through) if last_seq < self.found_through else None,
            is_repeat=self._reverted_at == self._highest_durable,
            is_told_again=self._reverted_in == append - 1 and last_seq >= self._reverted_to,
        )
        self.found_through = min(self.found_through, last_seq)
        self._reverted_at, self._reverted_in, self._reverted_to = self._highest_durable, append, last_seq
        return reversion


@attrs.define(eq=False, kw_only=True)
class BatchSender:
    """Appends the oldest pending events to the store, and enters the result in the books.

    Nothing else calls ``append_batch`` of the store.
    """

    store: EventStore
    max_batch: int
    append_timeout: float
    backlog: Backlog
    timer: FlushTimer
    publisher: Publisher
    reporter: Reporter
    outcome: Outcome
    own_work: OwnWork
    spiller: Spiller | None
    _scope: trio.CancelScope | None = attrs.field(default=None, init=False)  # of the append under way

    begun: int = attrs.field(default=0, init=False)
    """Appends."""

    failed: int = attrs.field(default=0, init=False)
    """Those of them that did not succeed."""

    peak_batch: int = attrs.field(default=0, init=False)
    """Most events of one append."""

    async def send(self) -> None:
        """Append what is due. Raises what is not an error of the store, such as ``Cancelled``."""
        buffer, scheduler = self.backlog.buffer, self.timer.scheduler
        batch = buffer.take(self.max_batch)
        started = trio.current_time()
        scheduler.taken(buffer.waiting, started)
        self.backlog.ingress.check_count = 1
        self.begun += 1
        self.peak_batch = max(self.peak_batch, len(batch))
        error: Exception | None = None
        duplicates: Collection[int] = ()
        scope = self._scope = trio.CancelScope(deadline=scheduler.append_until(self.append_timeout))
        self.backlog.is_sending = True
        self._wake_spiller()
        try:
            # The store is foreign code: it may raise, hang or lie.
            with scope:
                with self.own_work.mark():
                    append = self.store.append_batch(batch)
                    returned = await awaitable(self.store, "append_batch", append)
                duplicates = _checked_duplicates(returned, batch)
            if scope.cancelled_caught:
                error = TimeoutError(f"the append was cancelled after {trio.current_time() - started:.3g} s")
        except Exception as exc:  # noqa: BLE001 - whatever a store raises is handled below
            error = exc
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, whatever it is
            cancelled, other = split_cancelled(exc)
            try:
                self._cut_off(other, batch)
                if cancelled is None or not isinstance(other, Exception):
                    raise
                # An error that the store raised together with Cancelled was reported, and is not one of the
                # log.
                raise cancelled from None  # noqa: ASYNC104 - it is what was Cancelled
            finally:
                del cancelled, other, batch  # as below
        finally:
            self._scope = None
            self.backlog.is_sending = False
        self.backlog.take_in()
        try:
            if error is None:
                size = buffer.batch_bytes
                self.publisher.publish(buffer.stored(duplicates), size, buffer.offered_through)
                scheduler.succeeded(trio.current_time())
            else:
                self._handle(error, batch, timed_out=scope.cancelled_caught)
        finally:
            # The traceback of the error has this frame. If the frame kept the error, that would be a cycle,
            # and the batch would stay in memory until the garbage collector finds it.
            del error, batch
        self.backlog.settle()

    def shorten(self) -> None:
        """The log is closing: an append under way must leave time for a last one."""
        if self._scope is not None:
            self._scope.deadline = self.timer.scheduler.append_until(self.append_timeout)

    def _cut_off(self, error: BaseException | None, batch: tuple[PersistedEvent, ...]) -> None:
        self.backlog.buffer.failed()
        reason = self.outcome.stopped_by
        if error is None:
            error = TimeoutError(f"the append was cut off by {reason}")
        self._report(error, batch, math.inf)

    def _handle(self, error: Exception, batch: tuple[PersistedEvent, ...], *, timed_out: bool) -> None:
        """Enter a failure in the books, then report it."""
        buffer, scheduler = self.backlog.buffer, self.timer.scheduler
        if isinstance(error, StoreUnusable):
            self._end(error, batch)
            return
        rejected = _rejected(error, batch)
        if rejected:
            buffer.rejected(rejected)
            scheduler.rejected(len(batch) - len(rejected))
            self._report(error, batch, 0.0)
            self.reporter.report_losses()
            return
        if isinstance(error, StoreWentBack) and _is_plausible(error, self.backlog.ingress.last_seq):
            self._go_back(error, batch)
            return
        is_foreign = isinstance(error, EventRejected | StoreWentBack) or not isinstance(error, StoreError)
        if is_foreign and not timed_out:
            self.reporter.log_foreign_error(self.store, error)
        buffer.failed()
        retry_in = scheduler.failed(trio.current_time())
        self._wake_spiller()
        self._report(error, batch, retry_in, failures=scheduler.failures)

    def _end(self, error: StoreUnusable, batch: tuple[PersistedEvent, ...]) -> None:
        """There will be no further append."""
        self.outcome.store_error = error
        self.outcome.state = LogState.UNUSABLE
        # On a conflict the store has taken nothing.
        in_doubt = not isinstance(error, SequenceConflict)
        if self.spiller is None:
            self.backlog.abandon(LossReason.UNUSABLE, in_doubt=in_doubt)
        else:
            self.backlog.buffer.failed(in_doubt=in_doubt)
            self.backlog.flushes.release()
            self._wake_spiller()
        self._report(error, batch, math.inf)
        self.reporter.report_losses()

    def _go_back(self, error: StoreWentBack, batch: tuple[PersistedEvent, ...]) -> None:
        """The store has less than it had acknowledged: offer it again, as far as it is at hand."""
        scheduler = self.timer.scheduler
        reversion = self.publisher.go_back(error, self.begun)
        if reversion.is_told_again:
            self.reporter.log_foreign_error(self.store, error)
        again, lost = self.backlog.buffer.went_back(error.last_seq, reversion.at_hand)
        if self.spiller is not None:
            self.spiller.store_went_back()
        if reversion.is_repeat:
            # It may do so for ever.
            retry_in = scheduler.failed(trio.current_time())
        else:
            scheduler.rejected(self.backlog.buffer.available)
            retry_in = 0.0
        self._wake_spiller()
        failures = scheduler.failures if reversion.is_repeat else None
        self._report(error, batch, retry_in, failures=failures)
        if again or lost or reversion.earlier or not reversion.is_repeat:
            self.reporter.tell(
                RevertReport(
                    last_seq=error.last_seq,
                    expected_seq=error.expected_seq,
                    again=again,
                    lost=lost,
                    earlier=reversion.earlier,
                )
            )

    def _wake_spiller(self) -> None:
        if self.spiller is not None:
            self.spiller.wake()

    def _report(
        self,
        error: BaseException,
        batch: tuple[PersistedEvent, ...],
        retry_in: float,
        *,
        failures: int | None = None,
    ) -> None:
        self.failed += 1
        self.reporter.tell(
            AppendFailureReport(
                error=error,
                events=len(batch),
                first_seq=batch[0].seq,
                last_seq=batch[-1].seq,
                failures=self.timer.scheduler.failures + 1 if failures is None else failures,
                retry_in=retry_in,
            )
        )


def _rejected(error: Exception, batch: tuple[PersistedEvent, ...]) -> set[int]:
    """The seqs of those rejected events that the store was offered; none if it names none."""
    if not isinstance(error, EventRejected) or not isinstance(error.events, tuple):
        return set()
    named = {event.seq for event in error.events if isinstance(event, PersistedEvent)}
    return named & {event.seq for event in batch}


def _is_plausible(error: StoreWentBack, last_given: int) -> bool:
    """Whether a store can have gone back as it says."""
    last_seq: object = error.last_seq
    expected_seq: object = error.expected_seq
    # Exact types: bool is a subclass of int.
    return (
        type(last_seq) is int and type(expected_seq) is int and 0 <= last_seq < expected_seq
    ) and last_seq <= last_given


def _checked_duplicates(returned: object, batch: tuple[PersistedEvent, ...]) -> Collection[int]:
    """What ``append_batch`` returned, if that is what the contract says."""
    if isinstance(returned, str | bytes) or not isinstance(returned, Collection):
        raise TypeError(f"append_batch must return the seqs of duplicates, got {type(returned).__name__}")
    if not returned:
        return ()
    seqs = {event.seq for event in batch}
    if not all(type(seq) is int and seq in seqs for seq in returned):
        raise ValueError(f"append_batch must return seqs of the batch, got {shown(returned):.100}")
    return set(returned)


@attrs.define(eq=False, kw_only=True)
class Writer:
    """The task that takes events out of the channel and writes them to the store."""

    settings: Settings
    backlog: Backlog
    timer: FlushTimer
    sender: BatchSender
    spiller: Spiller | None
    reporter: Reporter
    outcome: Outcome
    _is_closing: bool = attrs.field(default=False, init=False)
    # Events may still be ingested while the body is being cancelled. close() sets the deadline.
    _scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True), init=False)

    async def run(self) -> None:
        """Write until the log is closed and nothing is left, or until :meth:`stop`. A task of its own."""
        try:
            with self._scope:
                await self._write()
        finally:
            if self.spiller is not None:
                await self.spiller.finish()  # noqa: ASYNC102 - it is shielded, and takes a bounded time
        self.give_up(LossReason.SHUTDOWN)

    async def _write(self) -> None:
        while not self._scope.cancel_called:
            self.backlog.take_in()
            due = self.timer.due()
            is_filing = self.backlog.buffer.is_filing and self.outcome.store_error is None
            if self._is_closing and due == math.inf and not is_filing:
                return  # nothing is left, or the last attempt was made
            if trio.current_time() < due:
                await self.timer.sleep_until(due)
            elif self.spiller is not None and self.backlog.buffer.must_load:
                await self.spiller.load(self.sender.max_batch)
            else:
                await self.sender.send()
                if self.spiller is not None:
                    await self.spiller.forget_settled()

    @trio.lowlevel.enable_ki_protection  # where the core in C calls it, nothing else does that
    def look(self) -> None:
        """Set the alarms after events came, and decide when to look again. Called for few of the events."""
        backlog, ingress, scheduler = self.backlog, self.backlog.ingress, self.timer.scheduler
        if scheduler.is_idle:
            scheduler.arrived(trio.current_time())
        self.wake()
        if backlog.is_over_limit:
            backlog.take_in()
            return
        # Next when a batch is full, when there is something to spill, or when events must be dropped.
        settings, timer = self.settings, self.timer
        counts = [settings.batch_size, settings.retry_buffer_cap + 1]
        sizes = [timer.heavy_bytes, settings.max_pending_bytes + 1]
        if self.spiller is not None:
            counts.append(self.spiller.low_mark + 1)
            sizes.append(self.spiller.low_mark_bytes + 1)
        waiting, waiting_bytes = backlog.waiting, backlog.waiting_bytes
        next_count = ingress.count + min(mark for mark in counts if mark > waiting) - waiting
        next_size = ingress.size + min(mark for mark in sizes if mark > waiting_bytes) - waiting_bytes
        # Limits are of any size, and the core counts in 64 bits.
        ingress.check_count, ingress.check_size = min(next_count, MAX_STORED), min(next_size, MAX_STORED)

    def wake(self) -> None:
        """Let the tasks of the log look when there next is something to do for them."""
        self.timer.wake()
        if self.spiller is not None:
            self.spiller.wake()

    async def flush(self, through: int) -> FlushTicket:
        """Hurry, and wait until nothing up to seq ``through`` is pending. A checkpoint, unless cancelled
        before.

        Returns:
          A ticket, which is settled unless what it waits for is left in the spill file.
        """
        buffer, flushes = self.backlog.buffer, self.backlog.flushes
        self.backlog.take_in()
        ticket = buffer.losses.tickets.issue(through)
        flushes.settle()
        if ticket.outcome is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif self.outcome.store_error is not None:
            buffer.losses.tickets.withdraw(ticket)
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            self.timer.scheduler.hurry()
            self.timer.wake_now()
            await flushes.wait(ticket)
        if ticket.outcome is not None:
            buffer.losses.tickets.raised(ticket)
        return ticket

    def close(self) -> None:
        """The body has ended: go on for the grace period."""
        now = trio.current_time()
        deadline = now + self.settings.grace_period
        self._is_closing = True
        self.timer.scheduler.close(now, deadline)
        self.sender.shorten()
        self._scope.deadline = deadline
        if self.settings.grace_period == 0:
            self._scope.cancel(reason="the event log has no grace period")
        self.timer.wake_now()

    def stop(self, reason: str) -> None:
        """Write nothing more."""
        self._scope.cancel(reason=reason)

    def give_up(self, reason: LossReason) -> None:
        """Lose what is pending and not in the spill file, and report it."""
        self.backlog.abandon(reason)
        self.reporter.report_losses()
