"""One append, and what becomes of it. Floor 4: Trio."""

from __future__ import annotations

import math
from collections.abc import Collection

import attrs
import trio

from trio_eventlog._answers import awaitable
from trio_eventlog._log._backlog import Backlog
from trio_eventlog._log._flush_timer import FlushTimer
from trio_eventlog._log._outcome import Outcome
from trio_eventlog._log._own_work import OwnWork
from trio_eventlog._log._publisher import Publisher
from trio_eventlog._log._reporter import Reporter
from trio_eventlog._log._spiller import Spiller, split_cancelled
from trio_eventlog._model._errors import (
    EventRejected,
    LossReason,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    StoreWentBack,
)
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._reports import AppendFailureReport, RevertReport
from trio_eventlog._model._statistics import LogState
from trio_eventlog.abc import EventStore

__all__ = ["BatchSender"]


@attrs.define(eq=False, kw_only=True)
class BatchSender:
    """Appends the oldest pending events to the store, and enters the result in the books.

    Args:
      store: the store. Nothing else calls its ``append_batch``.
      max_batch: most events of one append.
      append_timeout: see :func:`open_event_log`.
      backlog, timer, publisher, reporter, outcome, own_work, spiller: of the log.
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
        except BaseException as exc:
            cancelled, other = split_cancelled(exc)
            self._cut_off(other, batch)
            if cancelled is None or not isinstance(other, Exception):
                raise
            # An error that the store raised together with Cancelled was reported, and is not one of the log.
            raise cancelled from None  # noqa: ASYNC104 - it is what was Cancelled
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
        self._report(error or TimeoutError(f"the append was cut off by {reason}"), batch, math.inf)

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
    duplicates = set(returned)
    strangers = duplicates.difference(event.seq for event in batch)
    if strangers or not all(type(seq) is int for seq in returned):
        raise ValueError(f"append_batch must return seqs of the batch, got {returned!r:.100}")
    return duplicates
