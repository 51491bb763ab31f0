"""The lock of an appender: a message that the server forgets unless it is renewed.

It refuses a second appender, and nothing else depends on it: an appender that was cut off for long may lose
its lock and not know. What keeps its writes out is the fence.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import msgspec
import trio

from trio_eventlog._model._errors import LogBusy, StoreError, StoreUnusable
from trio_eventlog.stores.jetstream._api import Refused, Stream, WrongPosition
from trio_eventlog.stores.jetstream._connection import ANSWER_TIMEOUT
from trio_eventlog.stores.jetstream._inbox import PermissionDenied
from trio_eventlog.stores.jetstream._messages import lock_fields
from trio_eventlog.stores.jetstream._protocol import decode_json
from trio_eventlog.stores.jetstream._subjects import Subjects


class Holder(msgspec.Struct):
    """Which process has a lock."""

    session: str
    host: str
    pid: int


class Lock:
    """The lock of one log, for one session of an appender."""

    def __init__(self, stream: Stream, subjects: Subjects, session: str, seconds: int) -> None:
        self._stream = stream
        self._subjects = subjects
        self._session = session
        self._seconds = seconds
        self._position = 0
        self._is_in_doubt = False
        self.turn = trio.Lock()
        """Held while the lock is taken, renewed or released."""

    def __str__(self) -> str:
        return f"log {self._subjects.log!r} of {self._stream}"

    async def _publish(self, after: int, seconds: float = ANSWER_TIMEOUT) -> int:
        body = {"session": self._session, "host": socket.gethostname(), "pid": os.getpid()}
        self._is_in_doubt = True
        try:
            position = await self._stream.publish(
                self._subjects.lock,
                msgspec.json.encode(body),
                lock_fields(after, self._seconds),
                seconds=seconds,
            )
        except (Refused, PermissionDenied, StoreUnusable):
            self._is_in_doubt = False
            raise
        self._is_in_doubt = False
        return position

    async def _holder(self) -> tuple[int, Holder | None]:
        found = await self._stream.last(self._subjects.lock)
        if found is None:
            return 0, None
        try:
            return found.position, decode_json(found.data, Holder)
        except ValueError:
            return found.position, Holder("", "unknown", 0)

    async def acquire(self) -> None:
        """Take it.

        Raises:
          LogBusy: another appender has it.
          StoreError: that could not be found out, or it has expired just now.
        """
        with suppress(WrongPosition):
            self._position = await self._publish(0)
            return
        position, holder = await self._holder()
        if holder is None:
            raise StoreError(f"{self}: the lock of another appender has expired just now; try again")
        if holder.session != self._session:
            raise LogBusy(f"{self} is open for appending already, by process {holder.pid} on {holder.host!r}")
        # Of an attempt whose answer was lost.
        self._position = position

    async def renew(self) -> int | None:
        """Renew it.

        Returns:
          Where it lies if it had expired and was taken again; another appender may have come and gone
          meanwhile. Then :meth:`keep` or delete it.
        """
        seconds = self._seconds / 3
        with suppress(WrongPosition):
            self._position = await self._publish(self._position, seconds)
            return None
        position, holder = await self._holder()
        if holder is None:
            return await self._publish(0, seconds)
        if holder.session == self._session:
            self._position = position
        return None

    def keep(self, position: int) -> None:
        """It lies there now."""
        self._position = position

    async def take_again(self) -> None:
        """Have it in a stream that was restored to an earlier state.

        Raises:
          StoreError: another appender of that time has it.
        """
        async with self.turn:
            position, holder = await self._holder()
            if holder is None:
                position = await self._publish(0)
            elif holder.session != self._session:
                raise StoreError(
                    f"{self}: the store went back, to when process {holder.pid} on {holder.host!r} had it"
                    " open; that lock will expire"
                )
            self._position = position

    async def release(self) -> None:
        """Let another appender have it."""
        if self._is_in_doubt:
            # What is on its way to the stream can be overtaken by a question, but not by another lock.
            with suppress(WrongPosition):
                await self._publish(self._position)
        position, holder = await self._holder()
        if holder is not None and holder.session == self._session:
            await self._stream.delete([position])
