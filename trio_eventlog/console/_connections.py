"""Connections of a console: Anycorn speaks HTTP on them, and nothing that goes wrong there gets any further.

Anycorn's own ``serve`` is not used. It waits, shielded, until a client has taken what is sent to it, so that
one which never reads would keep a program from ending; and an error on one connection ends all of them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import anyio
import anyio.abc
import trio
from anycorn.config import Config
from anycorn.tcp_server import TCPServer
from anycorn.typing import ConnectionState
from anycorn.utils import wrap_app
from anycorn.worker_context import WorkerContext
from starlette.types import ASGIApp, Receive, Scope, Send

from trio_eventlog.console._http import logger
from trio_eventlog.console._limits import ConsoleLimits

_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\n"
    b"content-type: application/json\r\ncontent-length: 66\r\n\r\n"
    b'{"error":{"code":"busy","message":"there are too many clients"}}\r\n'
)
_MAX_HEADERS: Final = 16 * 1024
_REQUESTS_PER_CONNECTION: Final = 1000


class _Connection(anyio.abc.SocketStream):
    """A connection as Anycorn wants it, whose sends end.

    Args:
      stream: the connection.
      write_timeout: seconds that the other side may read nothing.
    """

    def __init__(self, stream: trio.SocketStream, write_timeout: float) -> None:
        self._stream = stream
        self._write_timeout = write_timeout

    @property
    def _raw_socket(self) -> Any:
        # What it is asked for, addresses, Trio's has too.
        return self._stream.socket

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive some bytes."""
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as exc:
            raise anyio.BrokenResourceError from exc
        except trio.ClosedResourceError as exc:
            raise anyio.ClosedResourceError from exc
        if not data:
            raise anyio.EndOfStream
        return bytes(data)

    async def send(self, item: bytes) -> None:
        """Send bytes, or close the connection if they are not taken in time."""
        try:
            for start in range(0, len(item), _PART):
                with trio.fail_after(self._write_timeout):
                    await self._stream.send_all(item[start : start + _PART])
        except trio.TooSlowError as exc:
            self.close()
            raise anyio.BrokenResourceError from exc
        except trio.BrokenResourceError as exc:
            raise anyio.BrokenResourceError from exc
        except trio.ClosedResourceError as exc:
            raise anyio.ClosedResourceError from exc

    async def send_eof(self) -> None:
        """Send no more."""
        try:
            await self._stream.send_eof()
        except trio.BrokenResourceError as exc:
            raise anyio.BrokenResourceError from exc
        except trio.ClosedResourceError as exc:
            raise anyio.ClosedResourceError from exc

    def close(self) -> None:
        """Close the connection; whoever sends or receives is told."""
        self._stream.socket.close()

    async def aclose(self) -> None:
        """Close the connection. A checkpoint."""
        await self._stream.aclose()


_PART: Final = 64 * 1024
"""Bytes for which a client has ``write_timeout``."""


class Connections:
    """Serves an application on connections, each for itself.

    Args:
      app: the application.
      limits: how many connections, and how long they may take.
    """

    def __init__(self, app: ASGIApp, limits: ConsoleLimits) -> None:
        self.count = 0
        """Connections that are open."""
        self._limits = limits
        self._open: set[_Connection] = set()
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.errorlog = logger
        self._config.accesslog = None
        self._config.include_server_header = False
        self._config.h11_max_incomplete_size = _MAX_HEADERS
        self._config.keep_alive_timeout = limits.header_timeout
        self._config.keep_alive_max_requests = _REQUESTS_PER_CONNECTION
        self._config.websocket_max_message_size = 1
        self._app = wrap_app(_http_1_only(app), 1, "asgi")  # type: ignore[arg-type]  # two names for one thing

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it is closed. Raises nothing but ``Cancelled``."""
        connection = _Connection(stream, self._limits.write_timeout)
        if self.count >= self._limits.connections:
            await self._turn_away(connection)
            return
        self.count += 1
        self._open.add(connection)
        try:
            await self._serve(connection)
        finally:
            self.count -= 1
            self._open.discard(connection)
            connection.close()

    async def _serve(self, connection: _Connection) -> None:
        server = TCPServer(self._app, self._config, self._context, ConnectionState({}), connection)
        try:
            await server.run()
        except* Exception as errors:  # noqa: BLE001 - a defect must not reach the program
            logger.error("a connection of the console failed", exc_info=errors)

    async def _turn_away(self, connection: _Connection) -> None:
        with trio.move_on_after(1), suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await connection.send(_TOO_MANY)
        connection.close()

    def close(self) -> None:
        """Close all connections at once, so that nobody waits for a client to read."""
        for connection in self._open:
            connection.close()


def _http_1_only(app: ASGIApp) -> ASGIApp:
    """Refuse HTTP/2, of which one connection carries as many requests as it likes."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["http_version"].startswith("1"):
            await send({"type": "http.response.start", "status": 505, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await app(scope, receive, send)

    return wrapped
