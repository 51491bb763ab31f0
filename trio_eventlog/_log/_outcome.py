"""The tasks of a log, how it ends, and what its block raises. Floor 4: Trio."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from trio_eventlog._engine._losses import LossAccount
from trio_eventlog._log._reporter import write_record
from trio_eventlog._model._errors import EventLogBroken, EventsLost, LossReason, StoreUnusable
from trio_eventlog._model._reports import LogState

GRACE_PERIOD_OVER: Final = "the end of the grace period"


@attrs.define(eq=False)
class Outcome:
    """How a log fares: its state, and the errors that end it."""

    state: LogState = LogState.OPEN

    store_error: StoreUnusable | None = None
    """Why there are no more appends."""

    internal_error: Exception | None = None
    """The first error of the log itself."""

    interrupt: BaseException | None = None
    """A KeyboardInterrupt or the like, which is meant for the whole program."""

    stopped_by: str = GRACE_PERIOD_OVER
    """What ended the attempts to store events."""

    def close(self) -> None:
        """The body has ended."""
        if self.state is LogState.OPEN:
            self.state = LogState.DRAINING

    def conclude(self) -> None:
        """Nothing of the log runs any more."""
        if self.state is LogState.DRAINING:
            self.state = LogState.CLOSED

    def raise_it(self, body_error: BaseException | None, account: LossAccount) -> None:
        """Raise what the block of the log raises, if anything; ``account`` is of the time since the body."""
        lost = events_lost(account) if account.count else None
        if self.internal_error is not None:
            broken = EventLogBroken("a defect in trio_eventlog; please report this traceback")
            _add_notes(broken, lost)
            # An error of the body is being handled where this is raised, and so becomes its context.
            raise broken from self.internal_error
        error = body_error if self.interrupt is None else self.interrupt
        if error is not None:
            _add_notes(error, lost, self.store_error)
            raise error
        if self.store_error is not None:
            _add_notes(self.store_error, lost)
            raise self.store_error
        if lost is not None:
            raise lost


def events_lost(account: LossAccount) -> EventsLost:
    """The error that says what was lost."""
    return EventsLost(account.count, account.first_seq, account.last_seq, account.by_reason)


def renewed(error: StoreUnusable) -> StoreUnusable:
    """A new exception that says the same as ``error``.

    To raise one exception more than once would prolong its traceback each time, and mix those of several
    tasks.
    """
    try:
        new = copy.copy(error)
    except Exception:  # noqa: BLE001 - a class of the program, which can have any constructor
        return StoreUnusable(str(error))
    # The copy shares the list of notes, which go on standing in the cause.
    new.__dict__.pop("__notes__", None)
    return new


def _add_notes(error: BaseException, *notes: Exception | None) -> None:
    for note in notes:
        if note is not None:
            # The notes of an error can be something else than a list; the error matters more than ours.
            with suppress(TypeError):
                error.add_note(f"trio_eventlog: {type(note).__name__}: {note}")


@attrs.define(eq=False)
class Tasks:
    """Runs the tasks of a log. No exception leaves them: each is kept, and ends the log."""

    _outcome: Outcome
    _stop: Callable[[str], None]
    _give_up: Callable[[LossReason], None]  # loses what is pending
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
        # Not `or`: an exception of the program can be false.
        if self._outcome.interrupt is None:
            self._outcome.interrupt = error
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
        if outcome.internal_error is None:
            outcome.internal_error = error
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
