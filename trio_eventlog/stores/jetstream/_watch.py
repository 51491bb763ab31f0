"""Hearing of new batches from the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from trio_eventlog._ki import ki_protected
from trio_eventlog._model._errors import StoreError
from trio_eventlog._model._events import new_event_id
from trio_eventlog.stores.jetstream._api import Stream, create_consumer, drop_consumer
from trio_eventlog.stores.jetstream._inbox import Inbox

_HEARTBEAT_INTERVAL: Final = 2.0
_MAX_SILENCE: Final = 5.0
"""Seconds. Without a heartbeat for this long, a consumer is gone."""


class Watch:
    """See :meth:`JetStreamStore.watch_changes`."""

    def __init__(self, stream: Stream, head: str) -> None:
        self._stream = stream
        self._head = head
        self._name = ""
        self._inbox: Inbox | None = None

    async def begin(self) -> None:
        """Have the server tell."""
        self.end()
        self._name = f"watch-{new_event_id()}"
        self._inbox = self._stream.connection.subscribe()
        config = {
            "filter_subject": self._head,
            "deliver_policy": "new",
            "deliver_subject": self._inbox.reply,
            "idle_heartbeat": int(_HEARTBEAT_INTERVAL * 1e9),
        }
        try:
            await create_consumer(self._stream, self._name, config)
        except BaseException:
            # The server may make it all the same.
            self.end()
            raise

    def end(self) -> None:
        """Have it stop."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            with suppress(StoreError):
                self._stream.connection.unsubscribe(inbox)
                drop_consumer(self._stream, self._name)

    async def wait(self) -> None:
        """Wait until there is a new batch since this returned last. A checkpoint.

        Raises:
          StoreError: the connection is lost.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._inbox is None or self._inbox.is_lost:
                # Of what came meanwhile, no message told.
                await self.begin()
                return
            try:
                messages = await self._inbox.wait(_MAX_SILENCE)
            except StoreError:
                self._stream.connection.check_connected()
                await self.begin()
                return
            # A heartbeat has a status.
            if any(not message.status for message in messages):
                return


@ki_protected
@asynccontextmanager
async def watch_head(stream: Stream, head: str) -> AsyncIterator[Watch]:
    """Watch a head, for the length of an ``async with`` block. Entering is a checkpoint."""
    watch = Watch(stream, head)
    try:
        await watch.begin()
        yield watch
    finally:
        watch.end()
