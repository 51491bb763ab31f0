"""One connection to one server, from its greeting to its end. What makes it anew is in ``_connection.py``."""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from trio_eventlog.stores.jetstream._access import Server
from trio_eventlog.stores.jetstream._protocol import (
    PING,
    PONG,
    Command,
    Event,
    Message,
    Parser,
    Ping,
    ProtocolError,
    ServerError,
    ServerInfo,
    encode,
)

PING_INTERVAL: Final = 1.0
"""Seconds."""

MAX_UNANSWERED: Final = 2
"""A connection on which this many pings were not answered when the next one is due is given up."""

_RECEIVE_SIZE: Final = 64 * 1024
"""Bytes that are received at once. Parsing them takes one step of the event loop: a few milliseconds."""

_SEND_SIZE: Final = 256 * 1024
"""Bytes that are sent at once. Encrypting them takes one step of the event loop."""

CONNECTION_ERRORS: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError)
"""What ends a connection, or an attempt to make one."""


class Receiver(Protocol):
    """What is told about the events of a connection."""

    def on_message(self, message: Message) -> None:
        """A message has arrived."""

    def on_info(self, info: ServerInfo) -> None:
        """The server has news about itself or its cluster."""

    def on_error(self, text: str) -> None:
        """The server has refused something."""


@attrs.define(eq=False)
class Wire:
    """A connection to a server."""

    server: Server
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    parser: Parser = attrs.Factory(Parser)
    info: ServerInfo = attrs.Factory(ServerInfo)
    _outgoing: deque[list[bytes]] = attrs.field(factory=deque, init=False)
    _urgent: deque[list[bytes]] = attrs.field(factory=deque, init=False)
    """What goes out before everything else: a ping that waits behind a large batch would tell nothing."""
    _has_outgoing: trio.Event = attrs.field(factory=trio.Event, init=False)
    _is_finishing: bool = attrs.field(default=False, init=False)
    _unanswered: int = attrs.field(default=0, init=False)
    _last_error: str = attrs.field(default="", init=False)
    _end_reason: str = attrs.field(default="", init=False)
    _bug: Exception | None = attrs.field(default=None, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    # --- the handshake ----------------------------------------------------------------------------

    async def receive(self) -> Event:
        """The next event. For the handshake; afterwards, :meth:`carry` calls it.

        Raises:
          OSError, trio.BrokenResourceError: the connection has ended.
          ProtocolError: the server does not follow the protocol.
        """
        while (event := self.parser.next_event()) is None:
            data = await self.stream.receive_some(_RECEIVE_SIZE)
            if not data:
                raise OSError(self._last_error or "the server closed the connection")
            self._unanswered = 0
            self.parser.receive_data(data)
        return event

    def abort(self) -> None:
        """Close the socket without a word."""
        stream = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        stream.socket.close()

    # --- once it is made --------------------------------------------------------------------------

    def send(self, commands: Iterable[Command]) -> None:
        """Have commands sent, in this order, as soon as the network takes them."""
        # First all of them: if one cannot be encoded, none is sent.
        self._outgoing.extend([encode(command) for command in commands])
        self._has_outgoing.set()

    def finish(self) -> None:
        """End the connection once everything was sent."""
        self._is_finishing = True
        self._has_outgoing.set()

    def end(self, reason: str) -> None:
        """End the connection now. The first reason counts."""
        self._end_reason = self._end_reason or reason
        self._scope.cancel(reason=reason)

    async def carry(self, receiver: Receiver) -> str:
        """Send and receive until the connection ends.

        Returns:
          Why it ended, in a few words.

        Raises:
          Exception: a bug, and not in a group.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guarded, partial(self._read, receiver))
                    nursery.start_soon(self._guarded, self._write)
                    nursery.start_soon(self._guarded, self._watch)
        finally:
            self.abort()
        if self._bug is not None:
            raise self._bug
        return self._end_reason

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is for the program, not for these tasks
    async def _guarded(self, task: Callable[[], Awaitable[str]]) -> None:
        try:
            self.end(await task())
        except CONNECTION_ERRORS as exc:
            self.end(reason_of(exc))
        except Exception as exc:  # noqa: BLE001 - carry() raises it, since here it would come out in a group
            self._bug = exc
            self.end("internal error")

    async def _read(self, receiver: Receiver) -> str:
        while True:
            event = await self.receive()
            match event:
                case Message():
                    receiver.on_message(event)
                case Ping():
                    self._send_urgently(PONG)
                case ServerInfo():
                    self.info = event
                    receiver.on_info(event)
                case ServerError():
                    if "permissions violation" not in event.text.lower():
                        # It is not about a single operation: the server closes the connection next.
                        self._last_error = event.text
                    receiver.on_error(event.text)
                case _:
                    pass

    async def _write(self) -> str:
        while True:
            while not self._urgent and not self._outgoing:
                if self._is_finishing:
                    return "the store is closed"
                self._has_outgoing = trio.Event()
                await self._has_outgoing.wait()
            await self.stream.send_all(self._next_chunk())

    def _next_chunk(self) -> bytes:
        chunk: list[bytes] = []
        size = 0
        while size < _SEND_SIZE and (queue := self._urgent or self._outgoing):
            pieces = queue.popleft()
            chunk += pieces
            size += sum(map(len, pieces))
        return b"".join(chunk)

    async def _watch(self) -> str:
        # It counts its own rounds rather than seconds: a program that blocks the event loop for a while must
        # not lose its connection for that.
        while self._unanswered <= MAX_UNANSWERED:
            await trio.sleep(PING_INTERVAL)
            self._unanswered += 1
            if self._unanswered <= MAX_UNANSWERED:
                self._send_urgently(PING)
        return "the server does not answer"

    def _send_urgently(self, command: bytes) -> None:
        self._urgent.append([command])
        self._has_outgoing.set()


def reason_of(exc: BaseException) -> str:
    """What the system or Trio says, in one line."""
    if isinstance(exc, trio.BrokenResourceError | trio.ClosedResourceError):
        return "the connection is broken" if exc.__cause__ is None else reason_of(exc.__cause__)
    if isinstance(exc, ssl.SSLError):
        return f"TLS: {exc.strerror or exc}"
    if isinstance(exc, OSError) and exc.errno is not None:
        return (exc.strerror or str(exc)) if isinstance(exc, socket.gaierror) else os.strerror(exc.errno)
    return str(exc) or type(exc).__name__
