"""The end of a store: closing within a bound, and who may use it until then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._util import Forks

T = TypeVar("T")


def closed_error(label: str) -> StoreUnusable:
    """The error for a store that is closed."""
    return StoreUnusable(f"{label}: the store is closed")


def read_only_error(label: str) -> StoreUnusable:
    """The error for a write to a store that was opened read-only."""
    return StoreUnusable(f"{label}: the store was opened read-only")


@attrs.frozen
class OwningProcess:
    """The process that has opened a store; its children by ``os.fork`` must not use it."""

    _forks: int = attrs.Factory(lambda: Forks.count)

    def is_current(self) -> bool:
        """Whether this is that process, and not one forked from it."""
        return self._forks == Forks.count

    def check(self, label: str) -> None:
        """Raise StoreUnusable in a child."""
        if not self.is_current():
            raise StoreUnusable(
                f"{label}: the store belongs to the process that forked this one; open it anew"
            )


@attrs.define
class Closing:
    """Closes something in spite of cancellation and Ctrl-C, up to a deadline in Trio's time.

    After all calls of :meth:`run`, call :meth:`raise_interrupt`.
    """

    deadline: float
    _interrupt: KeyboardInterrupt | None = attrs.field(default=None, init=False)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Await ``work``, shielded, again if Ctrl-C cuts it short. None if the deadline cancels it."""
        while True:  # noqa: ASYNC913 - each round awaits the work, or ends
            try:
                with trio.CancelScope(deadline=self.deadline, shield=True):
                    return await work()
            except KeyboardInterrupt as exc:
                # No shield keeps it out, and what is closed here must not stay open.
                self._interrupt = self._interrupt or exc
            else:
                return None

    def raise_interrupt(self) -> None:
        """Raise the first KeyboardInterrupt that came meanwhile, if any."""
        if self._interrupt is not None:
            raise self._interrupt
