"""The client protocol of NATS, as bytes in and out. Knows neither sockets nor Trio.

What the store needs of it: to connect, to publish with and without headers, to subscribe, and pings.
The text of it is at the head of each function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import msgspec

from trio_eventlog._errors import StoreError

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"

_MOST_LINE: Final = 1024 * 1024
"""Bytes of a line. The longest is INFO, which in a large cluster names every server."""

_STATUS: Final = b"NATS/1.0 "


@attrs.frozen
class Info:
    """What a server says of itself."""

    version: str = ""
    server_name: str = ""
    max_payload: int = 0
    """Bytes of one message, headers included."""
    headers: bool = False
    jetstream: bool = False
    auth_required: bool = False
    tls_required: bool = False
    nonce: str = ""
    connect_urls: tuple[str, ...] = ()
    ldm: bool = False
    """It is about to shut down, and wants its clients to go elsewhere."""


@attrs.frozen
class Message:
    """A message that came in."""

    subject: str
    subscription: int
    """The number of the subscription that it came for."""
    reply: str
    headers: bytes
    """As they came, from ``NATS/1.0`` to the empty line; empty for none."""
    data: bytes

    @property
    def status(self) -> int:
        """What the server has to say in place of a message, such as 404; 0 for a message."""
        if not self.headers.startswith(_STATUS):
            return 0
        code = self.headers[len(_STATUS) : len(_STATUS) + 3]
        return int(code) if code.isdigit() else 0

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header of this name, None for none."""
        key = b"\r\n" + name + b":"
        start = self.headers.find(key)
        if start < 0:
            return None
        start += len(key)
        return self.headers[start : self.headers.index(b"\r\n", start)].strip()


@attrs.frozen
class Refusal:
    """An error that the server reports, as ``-ERR 'text'``."""

    text: str


@attrs.frozen
class Ping:
    """The server wants to know whether this side is there."""


@attrs.frozen
class Pong:
    """The server is there."""


Incoming = Info | Message | Refusal | Ping | Pong


class Parser:
    """Makes of bytes, in whatever pieces they come, what they say."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Once the line of a message is read, so many bytes are there when its body is: a large one that comes
        # in many pieces is not looked at anew with each.
        self._needed = 0

    def feed(self, data: bytes | bytearray) -> list[Incoming]:
        """Take some bytes in.

        Returns:
          What is complete now.

        Raises:
          StoreError: that is not the protocol of NATS.
        """
        buffer = self._buffer
        buffer += data
        found: list[Incoming] = []
        if len(buffer) < self._needed:
            return found
        self._needed = 0
        position = 0
        while (end := buffer.find(b"\r\n", position)) >= 0:
            line = bytes(buffer[position:end])
            after = end + 2
            if line.startswith((b"HMSG ", b"MSG ")):
                size, header_size = _sizes(line)
                needed = after + size + 2
                if len(buffer) < needed:
                    self._needed = needed - position
                    break
                words = line.split()
                body = bytes(buffer[after : after + size])
                # The reply subject stands between the subscription and the sizes, and may be missing.
                counts = 2 if line[:1] == b"H" else 1
                reply = words[3].decode() if len(words) == 4 + counts else ""
                found.append(
                    Message(
                        subject=words[1].decode(),
                        subscription=_number(words[2]),
                        reply=reply,
                        headers=body[:header_size],
                        data=body[header_size:],
                    )
                )
                position = needed
            else:
                found.extend(_other(line))
                position = after
        del buffer[:position]
        if not self._needed and len(buffer) > _MOST_LINE:
            raise StoreError("the server does not speak the protocol of NATS: it sends a line without end")
        return found


def _sizes(line: bytes) -> tuple[int, int]:
    """``MSG subject sid [reply] size`` and ``HMSG subject sid [reply] header-size size``."""
    words = line.split()
    try:
        size = int(words[-1])
        header_size = int(words[-2]) if line[:1] == b"H" else 0
    except (IndexError, ValueError) as exc:
        raise _foreign(line) from exc
    if len(words) < 4 or not 0 <= header_size <= size:  # noqa: PLR2004 - see above
        raise _foreign(line)
    return size, header_size


def _number(word: bytes) -> int:
    # All numbers are ours. What comes back as something else belongs to nobody.
    return int(word) if word.isdigit() else 0


def _other(line: bytes) -> Iterable[Incoming]:
    word = line[:5].upper()
    if word.startswith(b"PING"):
        yield Ping()
    elif word.startswith(b"PONG"):
        yield Pong()
    elif word.startswith(b"INFO"):
        yield _info(line[4:])
    elif word.startswith(b"-ERR"):
        yield Refusal(line[4:].decode(errors="replace").strip(" '"))
    elif not word.startswith(b"+OK"):
        raise _foreign(line)


def _info(text: bytes) -> Info:
    try:
        value = msgspec.json.decode(text)
        urls = tuple(map(str, value.get("connect_urls") or ()))
        known = {
            field.name: value[field.name]
            for field in attrs.fields(Info)
            if field.name != "connect_urls" and type(value.get(field.name)) is type(field.default)
        }
    except (msgspec.DecodeError, AttributeError, TypeError) as exc:
        raise _foreign(b"INFO" + text) from exc
    return Info(**known, connect_urls=urls)


def _foreign(line: bytes) -> StoreError:
    return StoreError(f"the server does not speak the protocol of NATS: it sends {line[:60]!r}")


# --- what is sent ---------------------------------------------------------------------------------


def connect(options: Mapping[str, Any]) -> bytes:
    """``CONNECT {…}``, and a PING whose PONG says that the server has let us in."""
    return b"CONNECT " + msgspec.json.encode(options) + b"\r\n" + PING


def subscribe(subject: str, number: int) -> bytes:
    """``SUB subject sid``."""
    return f"SUB {subject} {number}\r\n".encode()


def unsubscribe(number: int) -> bytes:
    """``UNSUB sid``."""
    return f"UNSUB {number}\r\n".encode()


def publish(subject: str, reply: str, data: bytes) -> bytes:
    """``PUB subject [reply] size`` and the data."""
    return f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n"


def headers(fields: Mapping[str, str]) -> bytes:
    """A block of headers. Neither names nor values have line ends."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def publish_with_headers(subject: str, reply: str, block: bytes, data: bytes) -> bytes:
    """``HPUB subject [reply] header-size size``, the headers and the data."""
    line = f"HPUB {subject} {reply} {len(block)} {len(block) + len(data)}\r\n".encode()
    return b"".join((line, block, data, b"\r\n"))
