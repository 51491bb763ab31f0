"""A client for streams of mob events, on Trio."""

from __future__ import annotations

import logging
import math
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import trio

from trio_eventlog import CodecError, EventLog, EventLogError, RetryPolicy, StaleCursor
from trio_eventlog._util import how_to_install as _how_to_install
from trio_eventlog.mobkit._events import MobEvent
from trio_eventlog.mobkit._sse import SseError, SseParser

if TYPE_CHECKING:
    from typing import Self

    import h11

_logger: Final = logging.getLogger("trio_eventlog")

_CONNECT_TIMEOUT: Final = 10.0
_MAX_ANSWER: Final = 16 * 1024
"""Bytes of an answer that is an error."""

_OK: Final = 200
_GONE: Final = 410
_SERVER_ERRORS: Final = range(500, 600)
_MAX_U64: Final = 2**64 - 1


class MobStreamError(EventLogError):
    """A server does not give a stream of mob events, and will not.

    Attributes:
      status: of its answer; None if what it sent is no answer of HTTP.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _TryAgain(Exception):
    """The connection failed, or ended."""


class MobEventStream:
    """Mob events as they come; what :func:`follow_mob_events` yields.

    An async iterator, for one task at a time. If a step is cancelled or raises an error, no event is skipped.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        after_seq: int | None,
        retry: RetryPolicy,
        idle_timeout: float,
        on_failure: Callable[[Exception], object] | None,
    ) -> None:
        self._url, self._token = url, token
        self._cursor = after_seq
        self._retry, self._idle_timeout, self._on_failure = retry, idle_timeout, on_failure
        self._failures = 0
        self._connection: _Connection | None = None
        self._ready: deque[MobEvent | CodecError] = deque()

    @property
    def cursor(self) -> int | None:
        """The cursor of the last event that was handed out, to resume after, or what was given at first."""
        return self._cursor

    def __aiter__(self) -> Self:
        """The stream itself."""
        return self

    async def __anext__(self) -> MobEvent:
        """The next event. A checkpoint; can be cancelled.

        Connects, and connects again after a failure or the end of a connection, with growing waits.

        Raises:
          StaleCursor: the cursor is beyond the end of what the server has.
          CodecError: an event is malformed. The next step goes on behind it.
          MobStreamError: the server refuses to give a stream.
        """
        await self._fill()
        return self._take()

    async def next_page(self) -> list[MobEvent]:
        """The next events, one or more: those that have arrived. A checkpoint; can be cancelled.

        Raises:
          StaleCursor, CodecError, MobStreamError: as a step of the iteration.
        """
        await self._fill()
        page = [self._take()]
        while self._ready and isinstance(self._ready[0], MobEvent):
            page.append(self._take())
        return page

    def _take(self) -> MobEvent:
        event = self._ready.popleft()
        if isinstance(event, CodecError):
            raise event
        self._cursor = event.cursor
        return event

    async def _fill(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._ready:
            try:
                if self._connection is None:
                    self._connection = await _connect(self._resume_url(), self._token)
                self._ready += await self._connection.receive(self._idle_timeout)
            except _TryAgain as exc:
                self._close()
                self._failures += 1
                if self._on_failure is not None:
                    self._on_failure(exc.__cause__ if isinstance(exc.__cause__, Exception) else exc)
                await trio.sleep(self._retry.delay(self._failures))
            else:
                self._failures = 0

    def _resume_url(self) -> str:
        if self._cursor is None:
            return self._url
        parts = urlsplit(self._url)
        pairs = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "after_seq"]
        query = urlencode([*pairs, ("after_seq", str(self._cursor))])
        return urlunsplit(parts._replace(query=query))

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Connection:
    """A connection on which a server sends a stream."""

    def __init__(self, stream: trio.abc.Stream, socket: trio.SocketStream, http: h11.Connection) -> None:
        self._stream, self._socket, self._http = stream, socket, http
        self._parser = SseParser()

    async def receive(self, timeout: float) -> list[MobEvent | CodecError]:  # noqa: ASYNC109 - of a silence
        """The events of the next bytes, which may be none."""
        try:
            with trio.fail_after(timeout):
                data = await self._next_data()
            messages = self._parser.feed(data)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, SseError) as exc:
            raise _TryAgain(str(exc) or f"nothing came for {timeout:g} seconds") from exc
        return [_read(message.data) for message in messages]

    async def _next_data(self) -> bytes:
        import h11  # noqa: PLC0415 - an extra

        # No checkpoint between taking bytes and returning them: a step that is cancelled skips none.
        while True:  # noqa: ASYNC913 - as above
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise _TryAgain(str(exc)) from exc
            if event is h11.NEED_DATA:
                self._http.receive_data(bytes(await self._stream.receive_some()))
            elif isinstance(event, h11.Data):
                return bytes(event.data)
            elif not isinstance(event, h11.InformationalResponse):
                raise _TryAgain("the server has ended the stream")

    async def answer(self) -> tuple[int, bytes]:
        """The status of the answer, and its body if it is an error."""
        import h11  # noqa: PLC0415 - an extra

        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = bytes(await self._stream.receive_some())
                if not data:
                    raise _TryAgain("the server has closed the connection")
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                break
        status = event.status_code
        body = b""
        if status != _OK:
            while len(body) < _MAX_ANSWER:
                try:
                    body += await self._next_data()
                except _TryAgain:
                    break
        elif not _is_stream(event.headers):
            raise MobStreamError("the server's answer is no stream of Server-Sent Events", status)
        return status, body

    def close(self) -> None:
        """Close it at once."""
        self._socket.socket.close()


def _is_stream(headers: Any) -> bool:
    kinds = [value for name, value in headers if name == b"content-type"]
    return bool(kinds) and kinds[0].partition(b";")[0].strip().lower() == b"text/event-stream"


def _read(data: str) -> MobEvent | CodecError:
    try:
        return MobEvent.from_json(data)
    except CodecError as exc:
        return exc


async def _connect(url: str, token: str | None) -> _Connection:
    import h11  # noqa: PLC0415 - an extra

    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [("host", parts.netloc.rpartition("@")[2]), ("accept", "text/event-stream")]
    if token is not None:
        headers.append(("authorization", f"Bearer {token}"))
    http = h11.Connection(h11.CLIENT)
    socket: trio.SocketStream | None = None
    try:
        with trio.fail_after(_CONNECT_TIMEOUT):
            socket = await trio.open_tcp_stream(host, port)
            stream: trio.abc.Stream = socket
            if parts.scheme == "https":
                context = ssl.create_default_context()
                stream = trio.SSLStream(socket, context, server_hostname=host, https_compatible=True)
            request = h11.Request(method="GET", target=target, headers=headers)
            await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
            connection = _Connection(stream, socket, http)
            status, body = await connection.answer()
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
        _close(socket)
        raise _TryAgain(str(exc)) from exc
    except h11.RemoteProtocolError as exc:
        _close(socket)
        raise MobStreamError(f"the server does not speak HTTP: {exc}") from exc
    except BaseException:
        _close(socket)
        raise
    if status != _OK:
        connection.close()
        _refuse(status, body)
    return connection


def _close(socket: trio.SocketStream | None) -> None:
    if socket is not None:
        socket.socket.close()


def _refuse(status: int, body: bytes) -> None:
    if status in _SERVER_ERRORS:
        raise _TryAgain(f"the server answered with {status}")
    if status == _GONE:
        try:
            cursors = msgspec.json.decode(body, type=_Stale)
        except (ValueError, RecursionError):
            raise MobStreamError("the server says that the stream is gone", status) from None
        raise StaleCursor(cursors.after_cursor, cursors.latest_cursor)
    raise MobStreamError(f"the server refuses to give the stream: {status}", status)


class _Stale(msgspec.Struct):
    after_cursor: int
    latest_cursor: int


@asynccontextmanager
async def follow_mob_events(
    url: str,
    *,
    after_seq: int | None = None,
    token: str | None = None,
    retry: RetryPolicy | None = None,
    idle_timeout: float = 60.0,
    on_failure: Callable[[Exception], object] | None = None,
) -> AsyncIterator[MobEventStream]:
    """Follow a stream of mob events, of MobKit or of a console, for the length of an ``async with`` block.

    ::

        async with follow_mob_events("http://localhost:8080/mobkit/mob_events/stream") as events:
            async for event in events:
                print(event.kind)

    A connection that fails or ends is opened again, after the last event that was handed out. Needs the extra
    ``mobkit``. Entering is a checkpoint, and does not connect. Leaving never waits.

    Args:
      url: of the stream, with filters as parameters; ``http`` or ``https``.
      after_seq: the cursor to start after; 0 for the first event there is. By default the ``after_seq`` of
        ``url``, or else events to come; then those between two connections are missed until the first one
        has come.
      token: sent as ``Authorization: Bearer``.
      retry: how long to wait before connecting again.
      idle_timeout: seconds without even a comment after which a connection counts as lost.
      on_failure: called with what went wrong, each time before waiting. What it raises comes out of the
        iteration.

    Raises:
      TypeError, ValueError: an argument is not as described.
      ModuleNotFoundError: the extra is not installed.
    """
    _require_h11()
    url, in_url = _checked_url(url)
    stream = MobEventStream(
        url,
        token=token,
        after_seq=in_url if after_seq is None else _checked_cursor(after_seq),
        retry=RetryPolicy() if retry is None else retry,
        idle_timeout=_checked_timeout(idle_timeout),
        on_failure=on_failure,
    )
    await trio.lowlevel.checkpoint()
    try:
        yield stream
    finally:
        stream._close()


async def ingest_mob_events(
    log: EventLog, url: str, *, after_seq: int | None = None, token: str | None = None
) -> None:
    """Take a stream of mob events into a log, until this is cancelled.

    Each becomes the event that :meth:`MobEvent.envelope` describes. Its id is ``"mob-evt-"`` and the cursor,
    so that a log stores it once, however often it comes. If the log is full, this waits. Events that are
    malformed, or larger than the log takes, are left out, and logged to the logger ``trio_eventlog``.

    Args:
      log: where they go.
      url: of the stream; see :func:`follow_mob_events`.
      after_seq: the cursor to start after.
      token: sent as ``Authorization: Bearer``.

    Raises:
      StaleCursor: the cursor is beyond the end of what the server has.
      MobStreamError: the server refuses to give a stream.
      trio.ClosedResourceError: the log is closed.
      TypeError, ValueError, ModuleNotFoundError: as :func:`follow_mob_events`.
    """
    async with follow_mob_events(url, after_seq=after_seq, token=token) as events:
        while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
            try:
                event = await anext(events)
                await log.ingest_wait(event.envelope())
            except CodecError as exc:
                _logger.warning("a mob event is malformed or too large, and left out: %s", exc)


def _require_h11() -> None:
    if find_spec("h11") is None:
        raise ModuleNotFoundError(
            f"following a stream needs h11; install it with: {_how_to_install('mobkit')}", name="h11"
        )


def _checked_url(url: object) -> tuple[str, int | None]:
    if not isinstance(url, str):
        raise TypeError(f"url: expected a str, got {type(url).__name__}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is checked when it is read
    except ValueError as exc:
        raise ValueError(f"url: {exc}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("url: expected http://HOST/PATH or https://HOST/PATH")
    if not url.isascii() or any(character.isspace() for character in url):
        raise ValueError("url: expected ASCII without blanks; escape the rest as %XX")
    values = [value for name, value in parse_qsl(parts.query) if name == "after_seq"]
    if not values:
        return url, None
    if not (values[-1].isascii() and values[-1].isdecimal()):
        raise ValueError("url: after_seq is not an integer of 0 or more")
    return url, _checked_cursor(int(values[-1]))


def _checked_cursor(cursor: object) -> int:
    if isinstance(cursor, bool) or not isinstance(cursor, int):
        raise TypeError(f"after_seq: expected an int, got {type(cursor).__name__}")
    if not 0 <= cursor <= _MAX_U64:
        raise ValueError(f"after_seq: expected 0 to 2**64 - 1, got {cursor}")
    return cursor


def _checked_timeout(timeout: object) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"idle_timeout: expected a number of seconds, got {type(timeout).__name__}")
    if not timeout > 0 or math.isnan(timeout):
        raise ValueError(f"idle_timeout: expected more than 0, got {timeout}")
    return float(timeout)
