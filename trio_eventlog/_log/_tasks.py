"""The tasks of a log. Floor 4: Trio."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_eventlog._log._failure_log import write_record
from trio_eventlog._log._outcome import Outcome
from trio_eventlog._model._errors import LossReason
from trio_eventlog._model._statistics import LogState

__all__ = ["Tasks"]


@attrs.define(eq=False)
class Tasks:
    """Runs the tasks of a log. No exception leaves them: each is kept, and ends the log.

    Args:
      outcome: where exceptions are kept.
      stop: stops the tasks, for the given reason.
      give_up: loses what is pending, for the given reason.
      on_done: called when all tasks have ended.
    """

    _outcome: Outcome
    _stop: Callable[[str], None]
    _give_up: Callable[[LossReason], None]
    _on_done: Callable[[], None]
    nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _running: int = attrs.field(default=0, init=False)
    _is_done: trio.Event = attrs.field(factory=trio.Event, init=False)

    def start(self, nursery: trio.Nursery, *jobs: Callable[[], Awaitable[None]]) -> None:
        """Start a task for each of ``jobs``. None must be running."""
        self.nursery = nursery
        self._running = len(jobs)
        self._is_done = trio.Event()
        for job in jobs:
            nursery.start_soon(self._run, job, name=job)

    async def join(self) -> None:
        """Wait until the tasks have ended, which a KeyboardInterrupt meanwhile makes them do at once."""
        while not self._is_done.is_set():
            try:
                # The tasks see to it that this ends: each has a deadline, or is stopped by one that has.
                with trio.CancelScope(shield=True):
                    await self._is_done.wait()
            except KeyboardInterrupt as exc:
                self._outcome.interrupt = exc
                self._end("a KeyboardInterrupt")

    def interrupt(self, error: BaseException) -> None:
        """End the log and its body for an exception that is meant for the whole program."""
        self._outcome.interrupt = self._outcome.interrupt or error
        self._end(f"a {type(error).__name__}")
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel(reason="the event log was interrupted")

    def include(self, task: trio.lowlevel.Task) -> bool:
        """Whether ``task`` is one of these, or was started by one."""
        nursery = task.parent_nursery
        while nursery is not None:
            if nursery is self.nursery:
                return True
            nursery = nursery.parent_task.parent_nursery
        return False

    @trio.lowlevel.enable_ki_protection
    async def _run(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - kept, and raised from open_event_log
            self._break(error)
        except BaseException as error:  # noqa: BLE001, ASYNC103 - as above
            # Not Cancelled, which ends at a scope within the job: KeyboardInterrupt or the like, of the
            # store.
            self.interrupt(error)
            self._give_up(LossReason.SHUTDOWN)
        finally:
            # Whichever ends first, be it as planned, ends the others.
            self._stop("the event log is done")
            self._running -= 1
            if not self._running:
                self._is_done.set()
                self._on_done()

    def _break(self, error: Exception) -> None:
        outcome = self._outcome
        outcome.internal_error = outcome.internal_error or error
        outcome.state = LogState.BROKEN
        self._end("a defect in trio_eventlog")
        assert self.nursery is not None, "this runs in a task of it"
        self.nursery.cancel_scope.cancel(reason="the event log broke")
        try:
            self._give_up(LossReason.BROKEN)
        except Exception as exc:  # noqa: BLE001 - logged; the first error is raised
            # The books themselves can be what is broken.
            message = "the event log broke, and could not report all that it lost"
            write_record(logging.ERROR, message, error=exc)

    def _end(self, reason: str) -> None:
        self._outcome.stopped_by = reason
        self._stop(reason)
