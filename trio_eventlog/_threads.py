"""Work that waits for a disk, in a thread. Floor 2: Trio."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from typing import Final, Generic, TypeVar, cast

import trio

from trio_eventlog._pauses import pausing

__all__ = ["DISK_TIMEOUT", "Turn", "in_thread", "run_sync"]

T = TypeVar("T")

_logger: Final = logging.getLogger("trio_eventlog")

DISK_TIMEOUT: Final = 5.0
"""Seconds that anything at the end of a log may wait for a disk."""

_DISCARD_TIMEOUT: Final = 1.0
"""Seconds by which a cancellation may be late, so that what was made in vain is gone by then."""


class Turn:
    """Lets one job run at a time, in the order in which they were asked for.

    A limiter for :func:`trio.to_thread.run_sync` like a ``CapacityLimiter`` of one, but not a checkpoint if
    it is free: the wait for the thread is one anyway.
    """

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for the turn of ``borrower``. A checkpoint only if it waits."""
        try:
            self._limiter.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            await self._limiter.acquire_on_behalf_of(borrower)

    def release_on_behalf_of(self, borrower: object) -> None:
        """It is the turn of the next."""
        self._limiter.release_on_behalf_of(borrower)


async def run_sync(
    work: Callable[[], T],
    *,
    limiter: trio.CapacityLimiter | Turn | None = None,
    abandon_on_cancel: bool = True,
    name: str | None = None,
) -> T:
    """Like :func:`trio.to_thread.run_sync`, beside tasks that never pause, too. A checkpoint.

    Args:
      work: the function to run.
      limiter: whose turn to wait for. By default there is none to wait for: the program may keep Trio's
        default limiter busy.
      abandon_on_cancel: as Trio's.
      name: of the thread.

    Raises:
      RuntimeError: no thread can be started.
    """
    with pausing():
        return await trio.to_thread.run_sync(
            work,
            abandon_on_cancel=abandon_on_cancel,
            limiter=cast("trio.CapacityLimiter", Turn() if limiter is None else limiter),
            thread_name=name,
        )


@trio.lowlevel.enable_ki_protection  # between getting the result and returning it
async def in_thread(
    work: Callable[[], T], *, discard: Callable[[T], object] | None = None, name: str | None = None
) -> T:
    """Run ``work`` in a thread. A checkpoint.

    A disk can hang as any store can. If this is cancelled, the thread is left to itself, and what it does may
    still happen. Callers see to it that what comes after waits for it.

    Args:
      work: the function to run.
      discard: called in a thread with the result of ``work`` if this was cancelled, as soon as there is one.
        Its errors are logged: they must not take the place of the cancellation.
      name: of the thread.

    Raises:
      RuntimeError: no thread can be started.
    """
    limiter = Turn()
    handover = None if discard is None else _Handover(work, discard)
    try:
        return await run_sync(work if handover is None else handover.run, limiter=limiter, name=name)
    except BaseException:
        if handover is not None and handover.give_up():
            try:
                with trio.move_on_after(_DISCARD_TIMEOUT, shield=True):
                    await run_sync(handover.discard, limiter=limiter, name=name)
            except RuntimeError:
                # No thread can be started. It takes the loop's time, but nothing must stay open.
                handover.discard()
        raise


class _Handover(Generic[T]):
    """A result that a thread hands to a task, which may have given up waiting for it."""

    def __init__(self, work: Callable[[], T], discard: Callable[[T], object]) -> None:
        self._work = work
        self._discard = discard
        self._mutex = Lock()
        self._results: list[T] = []  # one, once there is one
        self._is_given_up = False

    def run(self) -> T:
        """Do the work. For the thread."""
        result = self._work()
        with self._mutex:
            self._results.append(result)
            is_given_up = self._is_given_up
        if is_given_up:
            self.discard()
        return result

    def give_up(self) -> bool:
        """Want the result no more. Returns whether it is there, and must be discarded by the caller."""
        with self._mutex:
            self._is_given_up = True
            return bool(self._results)

    def discard(self) -> None:
        """Discard the result. Raises nothing."""
        try:
            self._discard(self._results.pop())
        except Exception:
            _logger.warning("what was opened in vain could not be closed", exc_info=True)
