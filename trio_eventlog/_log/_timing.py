"""Alarms, and waiting after failures. Floor 4: Trio."""

from __future__ import annotations

import math

import attrs
import trio

from trio_eventlog._engine._policy import RetryPolicy


@attrs.define(eq=False)
class Alarm:
    """A deadline that one task sleeps until. Bringing it forward does not wake the task before it is due."""

    # Both only while the task sleeps.
    _scope: trio.CancelScope | None = attrs.field(default=None, init=False)
    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)

    def wake_by(self, deadline: float) -> None:
        """Wake the sleeping task at ``deadline``, unless it wakes earlier. Without one, do nothing."""
        if self._scope is None or self._task is None or deadline >= self._scope.deadline:
            return
        if deadline > -math.inf:
            self._scope.deadline = deadline
        else:
            # A third of what a deadline in the past takes.
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def sleep_until(self, deadline: float) -> None:
        """Sleep.

        Compute ``deadline`` without a checkpoint before this call, or a call of :meth:`wake_by` may be
        missed.
        """
        self._scope = trio.CancelScope(deadline=deadline)
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            with self._scope:
                await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._scope = self._task = None


@attrs.define(eq=False)
class Backoff:
    """When something that failed may be tried again."""

    _policy: RetryPolicy
    _failures: int = attrs.field(default=0, init=False)  # in a row
    retry_at: float = attrs.field(default=-math.inf, init=False)
    """The earliest time of the next attempt."""

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._failures = 0
        self.retry_at = -math.inf

    def failed(self, now: float, *, is_final: bool = False) -> float:
        """Count a failure. Returns the seconds until the next attempt; infinite if there will be none."""
        self._failures += 1
        retry_in = math.inf if is_final else self._policy.delay(self._failures)
        self.retry_at = now + retry_in
        return retry_in
