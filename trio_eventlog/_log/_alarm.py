"""A deadline that one task sleeps until and others can bring forward. Floor 4: Trio."""

from __future__ import annotations

import attrs
import trio

__all__ = ["Alarm"]


@attrs.define(eq=False)
class Alarm:
    """A deadline that one task sleeps until. Bringing it forward does not wake the task before it is due."""

    _scope: trio.CancelScope | None = attrs.field(
        default=None, init=False
    )  # of the sleeping task, if it sleeps

    def wake_by(self, deadline: float) -> None:
        """Wake the sleeping task at ``deadline``, unless it wakes earlier. Without one, do nothing."""
        if self._scope is not None and deadline < self._scope.deadline:
            self._scope.deadline = deadline

    async def sleep_until(self, deadline: float) -> None:
        """Sleep.

        Compute ``deadline`` without a checkpoint before this call, or a call of :meth:`wake_by` may be
        missed.
        """
        self._scope = trio.CancelScope(deadline=deadline)
        try:
            with self._scope:
                await trio.sleep_forever()
        finally:
            self._scope = None
