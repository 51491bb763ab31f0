"""Alarms, and waiting after failures. Floor 4: Trio."""

from __future__ import annotations

import math

import attrs
import trio

from trio_eventlog._engine._policy import RetryPolicy


@attrs.define(eq=False)
class Alarm:
    """A deadline that one task sleeps until. It can be brought forward."""

    # All of them only while the task sleeps.
    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    _scope: trio.CancelScope | None = attrs.field(default=None, init=False)  # if there is a deadline

    def wake_by(self, deadline: float) -> None:
        """Wake the sleeping task at ``deadline`` or before, unless it wakes earlier. Without one, do nothing.

        It wakes before ``deadline`` only if it had none: then it is to sleep again.
        """
        if self._task is None or deadline >= (math.inf if self._scope is None else self._scope.deadline):
            return
        if self._scope is not None and deadline > -math.inf:
            self._scope.deadline = deadline
        else:
            # Takes a third of what a scope and its deadline take, which a flush would make in vain.
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def sleep_until(self, deadline: float) -> None:
        """Sleep. May end early.

        Compute ``deadline`` without a checkpoint before this call, or a call of :meth:`wake_by` may be
        missed.
        """
        if deadline == math.inf:
            await self._sleep()
            return
        scope = self._scope = trio.CancelScope(deadline=deadline)
        try:
            with scope:
                await self._sleep()
        finally:
            self._scope = None

    async def _sleep(self) -> None:
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


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
