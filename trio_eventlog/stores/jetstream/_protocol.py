"""The client protocol of NATS without I/O: bytes to events, and commands to bytes.

In the manner of h11: :class:`Parser` takes what a server sends, in whatever pieces it arrives, and gives out
one event after the other. :func:`encode` makes the bytes of what a client sends. Nothing here knows Trio,
sockets or JetStream. The protocol is described at https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import attrs
import msgspec

T = TypeVar("T")

MAX_LINE: Final = 256 * 1024
"""Longest line that is read, in bytes. Only INFO has long ones: it names the servers of a cluster."""

MAX_MESSAGE: Final = 128 * 1024 * 1024
"""Largest message that is read, headers included, in bytes. Servers allow 64 MiB, and base64 adds a third."""

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"

_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_MAX_DIGITS: Final = 18


class ProtocolError(Exception):
    """The other side does not follow the protocol. The connection cannot be used any further."""


# --- what a server sends --------------------------------------------------------------------------


class ServerInfo(msgspec.Struct, frozen=True):
    """What a server says about itself, when a client connects and whenever it changes."""

    version: str = ""
    max_payload: int = 0
    """Largest message that it takes, headers included, in bytes."""
    cluster: str = ""
    domain: str = ""
    """The JetStream domain, which sets a leaf node and its hub apart."""
    nonce: str = ""
    """To be signed by a client that has a key."""
    connect_urls: Any = ()
    """Addresses of all servers of the cluster. Typed loosely: proxies and operators can put anything here."""
    tls_required: bool = False
    tls_available: bool = False
    ldm: bool = False
    """Lame duck mode: it is about to shut down."""

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The version as numbers; zeros for one that was never released."""
        found = _VERSION.match(self.version)
        return (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)


class Message(msgspec.Struct, frozen=True):
    """A message for a subscription."""

    subject: str
    sid: int
    """The number of the subscription."""
    reply: str = ""
    headers: Mapping[str, str] = {}
    data: bytes = b""
    status: int = 0
    """What the server says in place of a message, such as 404; 0 for a message."""


class Ping(msgspec.Struct, frozen=True):
    """The server asks whether the client is there."""


class Pong(msgspec.Struct, frozen=True):
    """The answer to a ping."""


class Ok(msgspec.Struct, frozen=True):
    """An acknowledgement, which only a client asks for that is verbose."""


class ServerError(msgspec.Struct, frozen=True):
    """The server refused something. It closes the connection after most of these."""

    text: str


Event = ServerInfo | Message | Ping | Pong | Ok | ServerError

_WITHOUT_ARGUMENTS: Final[Mapping[bytes, Event]] = {b"PING": Ping(), b"PONG": Pong(), b"+OK": Ok()}


@attrs.frozen
class _Announced:
    """A message whose line was read and whose payload follows."""

    subject: str
    sid: int
    reply: str
    header_size: int
    size: int


@attrs.define(eq=False)
class Parser:
    """Turns the bytes that a server sends into events.

    Give it data with :meth:`receive_data` as it arrives, then call :meth:`next_event` until it returns None.
    """

    _buffer: bytearray = attrs.field(factory=bytearray, init=False)
    _searched: int = attrs.field(default=0, init=False)
    """No line ends before this offset."""
    _announced: _Announced | None = attrs.field(default=None, init=False)
    _error: ProtocolError | None = attrs.field(default=None, init=False)

    @property
    def is_empty(self) -> bool:
        """Whether all that was received has become events."""
        return not self._buffer and self._announced is None

    def receive_data(self, data: bytes | bytearray) -> None:
        """Add what has arrived."""
        self._buffer += data

    def next_event(self) -> Event | None:
        """The next event; None if more data is needed first.

        Raises:
          ProtocolError: the data does not follow the protocol. Every later call raises it again.
        """
        if self._error is not None:
            raise ProtocolError(*self._error.args)
        try:
            if self._announced is not None:
                return self._message(self._announced)
            return self._line()
        except ProtocolError as exc:
            self._error = exc
            raise

    def _line(self) -> Event | None:
        end = self._buffer.find(b"\r\n", self._searched)
        if end > MAX_LINE or (end < 0 and len(self._buffer) > MAX_LINE + 1):
            raise ProtocolError(f"a line has more than {MAX_LINE} bytes: {_shown(self._buffer)}")
        if end < 0:
            # The last byte may be the first one of a line end.
            self._searched = max(len(self._buffer) - 1, 0)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._searched = 0
        verb, _, rest = line.replace(b"\t", b" ").partition(b" ")
        verb = verb.upper()
        if verb in (b"MSG", b"HMSG"):
            self._announced = _announced(line, rest.split(), has_headers=verb == b"HMSG")
            return self._message(self._announced)
        if verb in _WITHOUT_ARGUMENTS:
            return _WITHOUT_ARGUMENTS[verb]
        if verb == b"INFO":
            return _info(line, rest)
        if verb == b"-ERR":
            return ServerError(rest.decode(errors="replace").strip(" '"))
        raise ProtocolError(f"unknown operation {_shown(line)}")

    def _message(self, announced: _Announced) -> Message | None:
        size = announced.size
        if len(self._buffer) < size + 2:
            return None
        if self._buffer[size : size + 2] != b"\r\n":
            raise ProtocolError(f"a message to {announced.subject!a:.100} is not as long as announced")
        headers, status = _NO_HEADERS, 0
        if announced.header_size:
            headers, status = _headers(bytes(self._buffer[: announced.header_size]))
        data = bytes(self._buffer[announced.header_size : size])
        del self._buffer[: size + 2]
        self._announced = None
        # Only what has no payload of its own is a status: publishers can write one into their headers.
        return Message(
            announced.subject, announced.sid, announced.reply, headers, data, 0 if data else status
        )


_NO_HEADERS: Final[Mapping[str, str]] = {}


def _announced(line: bytes, words: list[bytes], *, has_headers: bool) -> _Announced:
    # MSG subject sid [reply] size, and HMSG subject sid [reply] size-of-headers size
    sizes = [_number(line, word) for word in words[-2 if has_headers else -1 :]]
    names = words[: -len(sizes)]
    if len(names) not in (2, 3):
        raise ProtocolError(f"malformed {_shown(line)}")
    header_size = sizes[0] if has_headers else 0
    if header_size > sizes[-1] or sizes[-1] > MAX_MESSAGE:
        raise ProtocolError(f"impossible size in {_shown(line)}")
    subject, reply = names[0].decode(errors="replace"), b"".join(names[2:]).decode(errors="replace")
    return _Announced(subject, _number(line, names[1]), reply, header_size, sizes[-1])


def _number(line: bytes, word: bytes) -> int:
    if not word.isdigit() or len(word) > _MAX_DIGITS:
        raise ProtocolError(f"malformed {_shown(line)}")
    return int(word)


def _info(line: bytes, rest: bytes) -> ServerInfo:
    try:
        return decode_json(rest, ServerInfo)
    except ValueError as exc:
        raise ProtocolError(f"malformed {_shown(line)}: {exc}") from exc


def _headers(block: bytes) -> tuple[Mapping[str, str], int]:
    """The headers in a block, and the status in its first line.

    Servers pass on whatever a publisher has put there. What is malformed is skipped: it is not the server's
    fault, and the connection can be used as before.
    """
    first, *lines = block.decode(errors="replace").split("\r\n")
    if not first.startswith("NATS/1."):
        return _NO_HEADERS, 0
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            # The last one counts: what the server adds comes behind what the publisher has written.
            headers[name] = value.strip()
    status = first[len("NATS/1.0") :].strip()[:3]
    return headers, int(status) if status.isascii() and status.isdigit() else 0


def decode_json(data: bytes, expected: type[T]) -> T:
    """Decode the JSON that a server, or another client, has written.

    Raises:
      ValueError: it is malformed, or too deep.
    """
    try:
        return msgspec.json.decode(data, type=expected)
    except RecursionError as exc:
        raise ValueError("too many levels") from exc


def _shown(data: bytes | bytearray) -> str:
    return repr(bytes(data[:60]))


# --- what a client sends --------------------------------------------------------------------------


class Publish(msgspec.Struct, frozen=True):
    """Publish a message."""

    subject: str
    data: bytes
    headers: Mapping[str, str] | str | None = None
    """As text, they are the lines of :func:`header_lines`, and are not checked again."""
    reply: str = ""


class Subscribe(msgspec.Struct, frozen=True):
    """Ask for the messages of a subject."""

    sid: int
    subject: str


class Unsubscribe(msgspec.Struct, frozen=True):
    """Ask for no more of them."""

    sid: int


Command = Publish | Subscribe | Unsubscribe


def connect(options: Mapping[str, Any]) -> bytes:
    """The command with which a client begins."""
    return b"CONNECT " + msgspec.json.encode(options) + b"\r\n"


def encode(command: Command) -> list[bytes]:
    """The bytes of a command, in pieces, so that large payloads need not be copied.

    Raises:
      ValueError: a subject is empty or contains white space, or a header contains what would end it.
    """
    if isinstance(command, Subscribe):
        return [_line("SUB", command.subject, str(command.sid))]
    if isinstance(command, Unsubscribe):
        return [_line("UNSUB", str(command.sid))]
    data = command.data
    to = (command.subject, command.reply) if command.reply else (command.subject,)
    if not command.headers:
        return [_line("PUB", *to, str(len(data))), data, b"\r\n"]
    headers = command.headers
    lines = headers if isinstance(headers, str) else header_lines(headers)
    block = f"NATS/1.0\r\n{lines}\r\n".encode()
    return [_line("HPUB", *to, str(len(block)), str(len(block) + len(data))) + block, data, b"\r\n"]


def _line(*words: str) -> bytes:
    line = " ".join(words)
    if len(line.split()) != len(words):
        raise ValueError(f"a word of {line!a:.200} is empty or contains white space")
    return line.encode() + b"\r\n"


def header_lines(headers: Mapping[str, str]) -> str:
    """The lines of a block of headers; ValueError if one contains what would end it."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if (
        text.count("\n") != len(headers)
        or text.count("\r") != len(headers)
        or any(":" in name for name in headers)
    ):
        raise ValueError(f"headers contain a line end, or their names a colon: {headers!r:.200}")
    return text
