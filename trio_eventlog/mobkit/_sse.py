"""Server-Sent Events, written and read. Pure; after the HTML standard, section 9.2."""

from __future__ import annotations

import re
from typing import Final

import attrs

_MAX_RETRY_DIGITS: Final = 9
_END_OF_LINE: Final = re.compile(rb"\r\n|\n|\r")


def sse_message(data: bytes, *, event: str | None = None, event_id: str | None = None) -> bytes:
    """A message, as bytes to send.

    Args:
      data: the data, in UTF-8; it may have several lines.
      event: the type, ``"message"`` if None.
      event_id: the id, to resume from; None for no change.

    Raises:
      ValueError: ``event`` or ``event_id`` has a line break, or ``event_id`` has a NUL, which no receiver
        accepts.
    """
    lines = []
    if event is not None:
        lines.append(b"event: " + _one_line("event", event))
    if event_id is not None:
        if "\0" in event_id:
            raise ValueError("event_id: has a NUL")
        lines.append(b"id: " + _one_line("event_id", event_id))
    lines += [b"data: " + line for line in _END_OF_LINE.split(data)]
    return b"\n".join(lines) + b"\n\n"


def sse_comment(text: str, *, event_id: str | None = None) -> bytes:
    """A comment, which keeps a connection open. With an id it also moves the point to resume from."""
    lines = [b": " + _one_line("text", text)]
    if event_id is not None:
        lines.append(b"id: " + _one_line("event_id", event_id))
    return b"\n".join(lines) + b"\n\n"


def _one_line(name: str, value: str) -> bytes:
    if "\n" in value or "\r" in value:
        raise ValueError(f"{name}: has a line break")
    return value.encode()


@attrs.frozen
class SseMessage:
    """A message of a stream of Server-Sent Events."""

    event: str
    """Its type; ``"message"`` if the stream did not say."""

    data: str
    """Its data; several lines are separated by newlines."""

    last_event_id: str
    """The id to resume after, of this message or of one before it; empty if there was none."""


class SseError(ValueError):
    """A stream that is no stream of Server-Sent Events, or has a message that is too large."""


class SseParser:
    """Takes a stream apart into messages, as it arrives.

    Args:
      max_bytes: most bytes of a message, 1 or more.
    """

    def __init__(self, *, max_bytes: int = 16 * 2**20) -> None:
        self.last_event_id: str = ""
        """The id to resume after, also between messages."""
        self.retry_ms: int | None = None
        """Milliseconds to wait before connecting again, if the stream said so."""
        self._max_bytes = max_bytes
        self._partial: list[bytes] = []
        self._is_after_cr = False
        self._size = 0
        self._data: list[str] = []
        self._event = ""
        self._id = ""
        self._is_first = True

    def feed(self, data: bytes) -> list[SseMessage]:
        """Take the next bytes; return the messages that they complete.

        Raises:
          SseError: a message is larger than ``max_bytes``, or is not UTF-8. The stream cannot be read on.
        """
        messages: list[SseMessage] = []
        if data:
            text = data.removeprefix(b"\n") if self._is_after_cr else data
            # A carriage return and a newline together are one end of a line.
            self._is_after_cr = data.endswith(b"\r")
            data = text
        *ends, rest = _END_OF_LINE.split(data)
        for end in ends:
            self._add(end)
            line = b"".join(self._partial)
            self._partial.clear()
            self._take_line(line, messages)
        self._add(rest)
        return messages

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max_bytes:
            raise SseError(f"a message is larger than {self._max_bytes} bytes")
        if part:
            self._partial.append(part)

    def _take_line(self, line: bytes, messages: list[SseMessage]) -> None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            text = line.decode()
        except UnicodeDecodeError as exc:
            raise SseError(f"not UTF-8: {exc.reason}") from None
        if text:
            name, _, value = text.partition(":")
            self._take_field(name, value.removeprefix(" "))
        else:
            self._end_message(messages)

    def _take_field(self, name: str, value: str) -> None:
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdecimal() and len(value) <= _MAX_RETRY_DIGITS:
                self.retry_ms = int(value)
            case _:
                pass  # a comment, whose name is empty, or a field of a later version

    def _end_message(self, messages: list[SseMessage]) -> None:
        self.last_event_id = self._id
        if self._data:
            messages.append(SseMessage(self._event or "message", "\n".join(self._data), self.last_event_id))
        self._data, self._event, self._size = [], "", 0
