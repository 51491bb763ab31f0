"""When events go to the spill file, and when it gives them up. Floor 4: Trio."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from trio_eventlog._log._backlog import Backlog, FlushTimer
from trio_eventlog._log._outcome import Outcome
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._spill_file import Keep
from trio_eventlog._log._spill_queue import SpillQueue
from trio_eventlog._log._timing import Alarm, Backoff
from trio_eventlog._model._errors import LossReason, StoreUnusable
from trio_eventlog._threads import DISK_TIMEOUT

_MAX_UNSYNCED_BYTES: Final = 4 * 1024 * 1024
"""Bytes of settled events in the spill file that make a sync due; a quarter of ``max_spill_bytes`` if that is
less."""


@attrs.define(eq=False, kw_only=True)
class Spiller:
    """The task that writes to the spill file.

    Once more than half of the events that may wait do so and the store is slow or down, it writes the oldest
    to the file; at the end, whatever is left. The flush task reads them back.
    """

    queue: SpillQueue
    syncer: Syncer | None
    settings: Settings
    backlog: Backlog
    timer: FlushTimer
    outcome: Outcome
    _backoff: Backoff = attrs.field(init=False)
    _alarm: Alarm = attrs.field(factory=Alarm, init=False)
    # Until finish() cancels it, which has a deadline.
    _scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True), init=False)
    _is_finishing: bool = attrs.field(default=False, init=False)
    _is_done: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._backoff = Backoff(self.settings.retry)

    @property
    def low_mark(self) -> int:
        """Waiting events, beyond which there may be something to spill."""
        return self.settings.retry_buffer_cap // 2

    @property
    def low_mark_bytes(self) -> int:
        """The same for their bytes."""
        return self.settings.max_pending_bytes // 2

    async def run(self) -> None:
        """Write what is due, until :meth:`finish`. A task of its own."""
        try:
            with self._scope:
                await self._spill()
        finally:
            self._is_done.set()

    async def _spill(self) -> None:
        while True:
            self.backlog.take_in()
            if self._is_finishing and not self.backlog.buffer.can_file:
                return
            due = self._due()
            if trio.current_time() < due:
                await self._alarm.sleep_until(due)
            else:
                await self._write()

    def _due(self) -> float:
        """When the next write may start."""
        backlog, buffer = self.backlog, self.backlog.buffer
        if buffer.is_filing or not (backlog.ingress.count or buffer.can_file):
            return math.inf
        if self._is_finishing:
            is_wanted = True
        elif self.outcome.store_error is not None:
            is_wanted = backlog.waiting > 0
        else:
            # A healthy store takes all that waits with its next append.
            is_behind = backlog.is_sending or self.timer.scheduler.failures > 0 or buffer.must_load
            is_much = backlog.waiting > self.low_mark or backlog.waiting_bytes > self.low_mark_bytes
            is_wanted = is_behind and (is_much or bool(backlog.room))
        return self._backoff.retry_at if is_wanted else math.inf

    async def _write(self) -> None:
        events, error = await self.queue.write(is_last_chance=self._is_finishing)
        if error is None:
            self._backoff.succeeded()
        else:
            self.queue.tell_failure(error, events, self._backoff.failed(trio.current_time()))
        self.backlog.take_in()
        self.backlog.settle()
        self.timer.wake()

    def wake(self) -> None:
        """Look when the next write is due."""
        self._alarm.wake_by(self._due())

    async def load(self, max_batch: int) -> None:
        """Read the next batch from the file. For the flush task, which may append it then."""
        error = await self.queue.load(max_batch)
        if error is not None:
            now, scheduler = trio.current_time(), self.timer.scheduler
            scheduler.taken(self.backlog.buffer.available, now)
            self.queue.tell_failure(error, 0, scheduler.failed(now))
            return
        self.backlog.flushes.settle()
        if self.syncer is not None:
            self.syncer.wake()

    async def forget_settled(self) -> None:
        """Make the file small again if all that it has is settled."""
        if not self.queue.take_settled():
            return
        if self.queue.file.keep is not Keep.UNTIL_TOLD:
            await self.queue.forget_through(self.queue.settled_to)
        elif self.syncer is not None:
            self.syncer.wake()

    def store_went_back(self) -> None:
        """The file may have copies of what the store lost, and the next run can deliver them again."""
        if self.syncer is not None:
            # Not even a sync makes sure of what is settled.
            self.queue.file.keep = Keep.UNTIL_FULL

    async def finish(self) -> None:
        """Write what is left, and sync the store, for a bounded time. Not cut short by being cancelled."""
        self._is_finishing = True
        self._alarm.wake_by(-math.inf)
        if self.syncer is not None:
            self.syncer.finish()
        with trio.move_on_after(DISK_TIMEOUT, shield=True):
            await self._is_done.wait()
            if self.syncer is not None:
                await self.syncer.is_done.wait()
        self._scope.cancel(reason="the spill file took too long")
        # Without a deadline: run() was cancelled, and waits for its alarm or for a thread, which it leaves to
        # itself. Nothing may be given up as lost while it still counts what it wrote.
        with trio.CancelScope(shield=True):
            await self._is_done.wait()
        if self.syncer is not None:
            self.syncer.stop("the store took too long to sync")
            # How soon a store can be cancelled is up to it. The file keeps what is not synced in any case.
            with trio.move_on_after(DISK_TIMEOUT, shield=True):
                await self.syncer.is_done.wait()

    async def close(self) -> None:
        """Leave the file to the next run, or remove it. Takes a bounded time."""
        self.backlog.flushes.release()
        await self.queue.close(self.backlog.ingress.lost_from_now_on or LossReason.SHUTDOWN)


@attrs.define(eq=False)
class Syncer:
    """The task that calls ``sync`` of a store whose appends alone do not survive a loss of power.

    The spill file keeps what the store has acknowledged until the store was synced.
    """

    _sync: Callable[[], Awaitable[object]]
    _queue: SpillQueue
    _settings: Settings
    _outcome: Outcome
    _backoff: Backoff = attrs.field(init=False)
    _alarm: Alarm = attrs.field(factory=Alarm, init=False)
    # Until stop().
    _scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True), init=False)
    _is_finishing: bool = attrs.field(default=False, init=False)
    is_done: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the task has ended."""

    def __attrs_post_init__(self) -> None:
        self._backoff = Backoff(self._settings.retry)

    async def run(self) -> None:
        """Sync when it is due, and a last time after :meth:`finish`. A task of its own."""
        try:
            with self._scope:
                await self._keep_in_sync()
        finally:
            self.is_done.set()

    async def _keep_in_sync(self) -> None:
        while not self._is_finishing:
            due = self._due()
            if trio.current_time() < due:
                await self._alarm.sleep_until(due)
            else:
                await self._sync_store()
        if self._due() < math.inf:
            await self._sync_store()

    def _due(self) -> float:
        if self._outcome.store_error is not None:
            return math.inf
        unsynced = self._queue.unforgotten_bytes
        is_much = unsynced >= min(_MAX_UNSYNCED_BYTES, self._settings.max_spill_bytes // 4)
        is_due = self._is_finishing or self._queue.is_settled or is_much
        return self._backoff.retry_at if unsynced > 0 and is_due else math.inf

    def wake(self) -> None:
        """Look when the next sync is due."""
        self._alarm.wake_by(self._due())

    def finish(self) -> None:
        """Sync once more, if there is reason to, and end."""
        self._is_finishing = True
        self._alarm.wake_by(-math.inf)

    def stop(self, reason: str) -> None:
        """End now."""
        self._scope.cancel(reason=reason)

    async def _sync_store(self) -> None:
        through, timeout = self._queue.settled_to, self._settings.append_timeout
        error: Exception | None = None
        try:
            with trio.move_on_after(timeout) as scope:
                await self._sync()
            if scope.cancelled_caught:
                error = TimeoutError(f"sync of the store was cancelled after {timeout:.3g} s")
        except Exception as exc:  # noqa: BLE001 - whatever a store raises: reported, and tried again
            error = exc
        except BaseException as exc:
            cancelled, other = split_cancelled(exc)
            if other is None:
                other = TimeoutError(f"sync of the store took longer than {DISK_TIMEOUT} s at the end")
            if cancelled is None or not isinstance(other, Exception):
                raise
            self._queue.tell_failure(other, 0, math.inf)
            raise cancelled from None  # noqa: ASYNC104 - it is what was Cancelled
        if error is None:
            self._backoff.succeeded()
            await self._queue.forget_through(through)
            return
        is_final = self._is_finishing or isinstance(error, StoreUnusable)
        retry_in = self._backoff.failed(trio.current_time(), is_final=is_final)
        self._queue.tell_failure(error, 0, retry_in)


def split_cancelled(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What of ``error`` is ``Cancelled``, and what is not. A group, of a nursery, can hold both."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return (error, None) if isinstance(error, trio.Cancelled) else (None, error)
