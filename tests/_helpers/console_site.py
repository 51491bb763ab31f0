"""A log with its console, in a thread with a Trio of its own, for tests that look at it with a browser."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio

from trio_eventlog import PersistedEvent, open_event_log
from trio_eventlog.abc import EventStore
from trio_eventlog.console import serve_console

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds for what takes a moment."""

WIDE = {"width": 1400, "height": 900}
NARROW = {"width": 400, "height": 860}
"""Sizes of a page: on a desk, and on a telephone."""

OpenStore = Callable[[], AbstractAsyncContextManager[EventStore]]


class ConsoleSite:
    """A log and its console. Close it before the store's file goes away.

    Args:
      open_store: opens the store, again each time the site starts.
      events: what is in the store at first.
      port: where it listens; 0 for any port, which stays the same after that.
      options: of `serve_console`.
    """

    def __init__(
        self, open_store: OpenStore, *, events: Sequence[PersistedEvent] = (), port: int = 0, **options: Any
    ) -> None:
        self._open_store = open_store
        self._events = events
        self._port = port
        self._options = options
        self.start()

    def start(self) -> None:
        """Open the log and the console."""
        self._is_ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._is_ready.wait(PATIENCE)
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """End the program, as if it had done its work."""
        if self._thread.is_alive():
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run an async function beside the log."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def ingest(self, *events: Any) -> None:
        """Hand in events, and wait until they are stored."""
        self.call(self._ingest, events)

    async def _ingest(self, events: Sequence[Any]) -> None:
        for event in events:
            self.log.ingest(event)
        await self.log.flush()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as exc:
            self._failed = exc
            raise
        finally:
            self._is_ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with self._open_store() as self.store:
            if self._events:
                await self.store.append_batch(self._events)
                self._events = ()
            async with open_event_log(self.store, **LOG_OPTIONS) as self.log:
                await self._serve_until_stopped()

    async def _serve_until_stopped(self) -> None:
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            self.url = await nursery.start(self._serve)
            self._port = int(self.url.rstrip("/").rpartition(":")[2])
            self._is_ready.set()
            await trio.sleep_forever()

    async def _serve(  # noqa: ASYNC114, ASYNC128 - serve_console calls started(); no manager starts it
        self, task_status: trio.TaskStatus[str]
    ) -> None:
        await serve_console(self.log, port=self._port, task_status=task_status, **self._options)


LOG_OPTIONS: dict[str, Any] = {"flush_interval": 0.05, "on_failure": lambda _report: None}


class OutageStore:
    """Another store that fails for as long as `is_down` is true."""

    def __init__(self, store: EventStore, error: Exception) -> None:
        self._store = store
        self._error = error
        self.is_down = False

    async def append_batch(self, events: Sequence[PersistedEvent]) -> object:
        if self.is_down:
            await trio.lowlevel.checkpoint()
            raise self._error
        return await self._store.append_batch(events)

    async def query(self, query: Any) -> Any:
        return await self._store.query(query)

    async def last_seq(self) -> int:
        return await self._store.last_seq()


@asynccontextmanager
async def kept(store: T):
    """A store that outlives the log."""
    yield store
