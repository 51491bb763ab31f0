"""Cancelling a call at each of its checkpoints, one after the other."""

from contextlib import suppress

import trio

from trio_eventlog import EventLogError


class _Canceller(trio.abc.Instrument):
    """Cancels a scope when a task begins its step of a number, so that its next checkpoint raises."""

    def __init__(self, task, scope, step):
        self.task, self.scope, self.steps = task, scope, step

    def before_task_step(self, task):
        if task is self.task:
            self.steps -= 1
            if not self.steps:
                self.scope.cancel()


async def _cancelled_in_step(call, step):
    canceller = None
    with trio.CancelScope() as scope:
        canceller = _Canceller(trio.lowlevel.current_task(), scope, step)
        trio.lowlevel.add_instrument(canceller)
        try:
            with suppress(EventLogError):
                await call()
        finally:
            trio.lowlevel.remove_instrument(canceller)
    return canceller.steps <= 0


async def cancel_at_each_step(call, *, least):
    """Call ``call`` again and again, cancelled in its first step, its second and so on, until it returns.

    Args:
      call: an async function without arguments.
      least: how many steps it has at least: that the calls were cancelled at all.
    """
    step = 1
    # The first step is that of the caller.
    while await _cancelled_in_step(call, step):
        step += 1
    assert step > least
