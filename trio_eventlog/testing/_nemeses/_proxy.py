"""A network between a client and its server that can be cut, hang, or be slow, at will."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

_PIECE: Final = 16_384
"""Most bytes that are carried at once."""

_TICK: Final = 0.01
"""Seconds between two pieces of a connection that trickles."""


class TcpProxy:
    """Carries TCP connections on to a server, and fails on command.

    ::

        async with TcpProxy.open(5432) as proxy:
            async with PostgresStore.open(f"postgresql://me@127.0.0.1:{proxy.port}/db") as store:
                ...
                proxy.cut()

    What the methods do holds for all connections at once, in a synchronous step. Made by :meth:`open`.
    """

    def __init__(self, target: int, host: str) -> None:
        self._target = target
        self._host = host
        self._port = 0
        self._connections = 0
        self._refuses = False
        self._rate = math.inf
        self._rate_changed = trio.Event()
        self._flows = {"requests": _set_event(), "answers": _set_event()}
        self._scopes: set[trio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<TcpProxy on port {self._port} for {self._host}:{self._target}>"

    @classmethod
    @asynccontextmanager
    async def open(cls, target: int, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[TcpProxy]:
        """Listen on loopback for the length of the block. Leaving it ends all connections.

        What the block raises comes out as it is. Entering is a checkpoint.

        Args:
          target: the port of the server.
          host: where that is.
          port: where to listen; 0 for a free port.

        Raises:
          TypeError: a port is not an integer, or the host not a string.
          ValueError: a port is out of range; no host can have that name.
          OSError: the port is taken.
        """
        _check_port("target", target, 1)
        _check_port("port", port, 0)
        _check_host(host)
        proxy = cls(target, host)
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        proxy._port = listener.socket.getsockname()[1]
        body_error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, proxy._serve, [listener]))  # noqa: ASYNC113 - it listens already
            try:
                yield proxy
            except (Exception, KeyboardInterrupt, SystemExit) as exc:  # noqa: BLE001 - raised again below, where the nursery does not wrap it
                body_error = exc
            nursery.cancel_scope.cancel(reason="the proxy is done")
        if body_error is not None:
            raise body_error

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self._port

    @property
    def connections(self) -> int:
        """How many connections it has taken so far, those that it refused not counted."""
        return self._connections

    def cut(self) -> None:
        """End all connections that there are. What is on its way in either direction is gone."""
        for scope in self._scopes:
            scope.cancel(reason="cut")

    def refuse(self) -> None:
        """End all connections, and every new one at once, until :meth:`accept`."""
        self._refuses = True
        self.cut()

    def accept(self) -> None:
        """Take connections again."""
        self._refuses = False

    def stall(self, *, requests: bool = True, answers: bool = True) -> None:
        """Carry nothing any more, until :meth:`resume`, as a network that was unplugged: nobody is told.

        Args:
          requests: what clients send. What is on its way waits.
          answers: what the server sends. With this alone, requests still have their effect.
        """
        for name, stalls in (("requests", requests), ("answers", answers)):
            if stalls and self._flows[name].is_set():
                self._flows[name] = trio.Event()

    def trickle(self, bytes_per_second: float) -> None:
        """Carry no more than so many bytes per second in each direction of a connection.

        Args:
          bytes_per_second: more than 0; infinity for as many as there are.

        Raises:
          TypeError: it is not a number.
          ValueError: it is not more than 0.
        """
        if type(bytes_per_second) not in (int, float):
            raise TypeError(f"bytes_per_second: expected a number, got {type(bytes_per_second).__name__}")
        if not bytes_per_second > 0:
            raise ValueError(f"bytes_per_second: expected more than 0, got {bytes_per_second}")
        self._carry_at(bytes_per_second)

    def resume(self) -> None:
        """Carry on at full speed, after :meth:`stall` and :meth:`trickle`."""
        self._carry_at(math.inf)
        for flows in self._flows.values():
            flows.set()

    def _carry_at(self, rate: float) -> None:
        self._rate = rate
        self._rate_changed.set()
        self._rate_changed = trio.Event()

    # --- connections ------------------------------------------------------------------------------

    async def _serve(self, client: trio.SocketStream) -> None:
        async with client:
            if self._refuses:
                return
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                self._connections += 1
                try:
                    await self._connect(client)
                finally:
                    self._scopes.discard(scope)

    async def _connect(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream(self._host, self._target)
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, client, server, "requests")
                await self._carry(server, client, "answers")
                nursery.cancel_scope.cancel(reason="the server has closed")
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            # As with any network: each side sees that its connection has ended.
            pass

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream, direction: str) -> None:
        while data := await source.receive_some(_PIECE):
            rest = memoryview(data)
            while rest:
                await self._flows[direction].wait()
                count = max(1, int(min(len(rest), self._rate * _TICK)))
                if not math.isinf(self._rate):
                    with trio.move_on_after(count / self._rate) as pause:
                        await self._rate_changed.wait()
                    if not pause.cancelled_caught or not self._flows[direction].is_set():
                        continue
                await sink.send_all(rest[:count])
                rest = rest[count:]
        await sink.send_eof()


def _set_event() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


def _check_host(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"host: expected a string, got {type(value).__name__}")
    try:
        # As the system does for each connection.
        value.encode("idna")
    except UnicodeError as exc:
        raise ValueError(f"host: expected a name or an address, got {value!r}") from exc


def _check_port(name: str, value: object, lowest: int) -> None:
    if type(value) is not int:
        raise TypeError(f"{name}: expected the number of a port as an int, got {type(value).__name__}")
    if not lowest <= value <= 65_535:  # noqa: PLR2004 - 16 bits
        raise ValueError(f"{name}: expected {lowest} to 65535, got {value}")
