"""Running async functions from synchronous code, call by call, within one Trio run.

Hypothesis calls the rules of a state machine synchronously, one after the other. Trio's guest mode lets
them share a run: it goes on only while a call is waited for, in the thread that waits.
"""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import outcome
import trio

T = TypeVar("T")


class PortalStuck(RuntimeError):
    """A call takes longer than the patience with it."""


class Portal:
    """One Trio run, driven by its callers.

    Use it in one thread, and close it. What it runs stands still between calls; only deadlines pass.
    """

    def __init__(self, *, patience: Callable[[], float]) -> None:
        """``patience`` returns how many seconds from now a call may go on."""
        self._patience = patience
        self._host: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._run_outcome: outcome.Outcome[Any] | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._last: Callable[[], Awaitable[None]] | None = None
        self.nursery: trio.Nursery | None = None
        """Of the run, for tasks that outlive a call."""
        self._send: trio.MemorySendChannel[Callable[[], Awaitable[None]]] | None = None
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._host.put,
            done_callback=self._done,
            # Signals belong to the thread that calls.
            host_uses_signal_set_wakeup_fd=True,
            restrict_keyboard_interrupt_to_checkpoints=True,
        )
        self._pump(lambda: self.nursery is not None)

    def close(self, last: Callable[[], Awaitable[None]] | None = None) -> None:
        """End the run, unless it has ended: cancel what :meth:`call` has left behind, and await ``last``.

        Raises:
          PortalStuck: it does not end.
        """
        if self._run_outcome is not None:
            return
        assert self._token is not None
        assert self._send is not None
        self._last = last
        self._token.run_sync_soon(self._send.close)
        self._pump(lambda: self._run_outcome is not None)
        assert self._run_outcome is not None
        self._run_outcome.unwrap()

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run ``await function(*args)`` in a task of the run, and return what it returns.

        Raises:
          PortalStuck: it takes too long.
        """
        result: outcome.Outcome[T] | None = None

        async def job() -> None:
            nonlocal result
            result = await outcome.acapture(cast("Callable[..., Any]", function), *args)

        assert self._token is not None
        assert self._send is not None
        self._token.run_sync_soon(self._send.send_nowait, job)
        self._pump(lambda: result is not None)
        assert result is not None
        return result.unwrap()

    async def _main(self) -> None:
        send, receive = trio.open_memory_channel[Callable[[], Awaitable[None]]](1)
        self._token = trio.lowlevel.current_trio_token()
        self._send = send
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            async for job in receive:
                await job()
            nursery.cancel_scope.cancel()
        if self._last is not None:
            await self._last()

    def _done(self, run_outcome: outcome.Outcome[Any]) -> None:
        self._run_outcome = run_outcome

    def _pump(self, ready: Callable[[], bool]) -> None:
        """Let the run go on until ``ready``."""
        while not ready():
            if self._run_outcome is not None:
                ended, self._run_outcome = self._run_outcome, outcome.Value(None)
                ended.unwrap()
                raise PortalStuck("the run has ended")
            remaining = self._patience()
            if remaining <= 0:
                raise PortalStuck("neither an end nor a reaction to being cancelled")
            with suppress(queue.Empty):
                self._host.get(timeout=remaining)()
