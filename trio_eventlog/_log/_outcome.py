"""How a log ends, and what its block raises. Floor 4."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Final

import attrs

from trio_eventlog._engine._retry_buffer import LossAccount
from trio_eventlog._model._errors import EventLogBroken, EventsLost, StoreUnusable
from trio_eventlog._model._reports import LogState

__all__ = ["GRACE_PERIOD_OVER", "Outcome", "events_lost", "renewed"]

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
        """Raise what the block of the log raises, if anything.

        Args:
          body_error: what the body raised.
          account: what was lost since the body ended.
        """
        lost = events_lost(account) if account.count else None
        if self.internal_error is not None:
            broken = EventLogBroken("a defect in trio_eventlog; please report this traceback")
            _add_notes(broken, lost)
            # An error of the body is being handled where this is raised, and so becomes its context.
            raise broken from self.internal_error
        error = self.interrupt or body_error
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
