"""Making sure of what was delivered from the spill file. Floor 4: Trio."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from trio_eventlog._log._alarm import Alarm
from trio_eventlog._log._backoff import Backoff
from trio_eventlog._log._outcome import Outcome
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._spill_queue import SpillQueue
from trio_eventlog._threads import DISK_TIMEOUT
from trio_eventlog._model._errors import StoreUnusable

__all__ = ["Syncer", "split_cancelled"]

_MAX_UNSYNCED_BYTES: Final = 4 * 1024 * 1024
"""Bytes of settled events in the spill file that make a sync due; a quarter of ``max_spill_bytes`` if that is
less."""


class Syncer:
    """The task that calls ``sync`` of a store whose appends alone do not survive a loss of power.

    The spill file keeps what the store has acknowledged until the store was synced.

    Args:
      sync: the method of the store.
      queue: the spill file.
      settings, outcome: of the log.
    """

    def __init__(
        self, sync: Callable[[], Awaitable[object]], queue: SpillQueue, settings: Settings, outcome: Outcome
    ) -> None:
        self._sync = sync
        self._queue = queue
        self._outcome = outcome
        self._timeout = settings.append_timeout
        self._max_unsynced_bytes = min(_MAX_UNSYNCED_BYTES, settings.max_spill_bytes // 4)
        self._backoff = Backoff(settings.retry)
        self._alarm = Alarm()
        self._scope = trio.CancelScope(shield=True)  # until stop()
        self._is_finishing = False
        self.is_done: Final = trio.Event()
        """Set when the task has ended."""

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
        is_due = self._is_finishing or self._queue.is_settled or unsynced >= self._max_unsynced_bytes
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
        through = self._queue.settled_to
        error: Exception | None = None
        try:
            with trio.move_on_after(self._timeout) as scope:
                await self._sync()
            if scope.cancelled_caught:
                error = TimeoutError(f"sync of the store was cancelled after {self._timeout:.3g} s")
        except Exception as exc:  # noqa: BLE001 - whatever a store raises: reported, and tried again
            error = exc
        except BaseException as exc:
            cancelled, other = split_cancelled(exc)
            cut_off = TimeoutError(f"sync of the store took longer than {DISK_TIMEOUT} s at the end")
            self._queue.tell_failure(other if isinstance(other, Exception) else cut_off, 0, math.inf)
            if cancelled is None or (other is not None and not isinstance(other, Exception)):
                raise
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
