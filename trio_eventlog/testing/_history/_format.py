"""Histories in files: lines of JSON, two for each operation, so that a process may be killed between them."""

from __future__ import annotations

import json
import math
from typing import Any, Final

import attrs
import msgspec

from trio_eventlog import CodecError, EventQuery, PersistedEvent, from_json, to_json
from trio_eventlog.testing._history._operations import (
    AppendOperation,
    LastSeqOperation,
    Operation,
    Outcome,
    QueryOperation,
)

FORMAT: Final = "trio-eventlog history"
VERSION: Final = 1

_METHODS: Final[dict[type[Operation], str]] = {
    AppendOperation: "append_batch",
    QueryOperation: "query",
    LastSeqOperation: "last_seq",
}


class HistoryFormatError(ValueError):
    """A file is no history, or one of a format that this version does not know.

    The message names the file and the line. Raised by :meth:`History.read` and :func:`check_history`.
    """


# --- writing --------------------------------------------------------------------------------------


def _line(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + b"\n"


def header(clock: str, offset: float) -> bytes:
    """The line before the operations of a clock."""
    return _line({"format": FORMAT, "version": VERSION, "clock": clock, "wall_offset": offset})


def begin_line(number: int, operation: Operation) -> bytes:
    """The line for the call."""
    fields: dict[str, Any] = {
        "op": number,
        "type": "invoke",
        "time": operation.began,
        "process": operation.process,
        "instance": operation.instance,
        "read_only": operation.read_only,
        "method": _METHODS[type(operation)],
    }
    if isinstance(operation, AppendOperation):
        fields["batch"] = [msgspec.Raw(to_json(event)) for event in operation.batch]
    elif isinstance(operation, QueryOperation):
        fields["query"] = msgspec.Raw(to_json(operation.query))
    return _line(fields)


def end_line(number: int, operation: Operation) -> bytes:
    """The line for its end."""
    fields: dict[str, Any] = {"op": number, "type": str(operation.outcome), "time": operation.ended}
    if operation.error is not None:
        # An error of the system may have any bytes, by way of lone surrogates.
        fields["error"] = operation.error.encode(errors="backslashreplace").decode()
    if isinstance(operation, AppendOperation):
        if operation.outcome is Outcome.OK:
            fields["returned"] = sorted(operation.returned)
        if operation.went_back_to is not None:
            fields["went_back_to"] = operation.went_back_to
    elif isinstance(operation, QueryOperation) and operation.outcome is Outcome.OK:
        fields["found"] = operation.found
    elif isinstance(operation, LastSeqOperation) and operation.last_seq is not None:
        fields["last_seq"] = operation.last_seq
    return _line(fields)


# --- reading --------------------------------------------------------------------------------------


class _Header(msgspec.Struct):
    clock: str
    wall_offset: float


class _Begin(msgspec.Struct):
    time: float
    process: str
    instance: str
    read_only: bool
    method: str
    batch: list[msgspec.Raw] = []
    query: msgspec.Raw = msgspec.Raw(b"{}")


class _End(msgspec.Struct):
    type: Outcome
    time: float
    error: str | None = None
    returned: list[int] = []
    went_back_to: int | None = None
    found: list[tuple[int, str]] = []
    last_seq: int | None = None


class _Kind(msgspec.Struct):
    """What tells the kinds of lines apart."""

    format: str | None = None
    version: int | None = None
    op: int | None = None
    type: str | None = None


def parse(data: bytes, name: str) -> tuple[dict[str, float], list[Operation]]:
    """The clocks and the operations of a file that is called ``name`` in errors.

    Raises:
      HistoryFormatError: it is no history, or one of a newer format.
    """
    lines = data.split(b"\n")
    # What comes after the last newline was cut off, or is nothing.
    parser = _Parser()
    for number, line in enumerate(lines[:-1], start=1):
        try:
            parser.take(line)
        except (msgspec.MsgspecError, CodecError, ValueError, RecursionError) as exc:
            raise HistoryFormatError(f"{name}, line {number}: {exc}") from exc
    if not parser.clocks:
        raise HistoryFormatError(f"{name}: no history; its first line would have a format of {FORMAT!r}")
    return parser.clocks, parser.operations


class _Parser:
    """Takes line by line."""

    def __init__(self) -> None:
        self.clocks: dict[str, float] = {}
        self.operations: list[Operation] = []
        self._clock = ""
        self._places: dict[int, int] = {}

    def take(self, line: bytes) -> None:
        """One line, without its end."""
        kind = msgspec.json.decode(line, type=_Kind)
        if not self.clocks or kind.format is not None:
            self._take_header(kind, line)
        elif kind.op is None:
            raise ValueError("an operation has no number 'op'")
        elif kind.type == "invoke":
            self._places[kind.op] = len(self.operations)
            self.operations.append(self._began(msgspec.json.decode(line, type=_Begin)))
        elif kind.op not in self._places:
            raise ValueError(f"operation {kind.op} ended, but did not begin")
        else:
            place = self._places.pop(kind.op)
            end = msgspec.json.decode(line, type=_End)
            self.operations[place] = _ended(self.operations[place], end)

    def _take_header(self, kind: _Kind, line: bytes) -> None:
        if kind.format != FORMAT:
            raise ValueError(f"no history; its first line would have a format of {FORMAT!r}")
        if kind.version != VERSION:
            raise ValueError(f"version {kind.version} of the format; this library reads version {VERSION}")
        found = msgspec.json.decode(line, type=_Header)
        self._clock = found.clock
        self.clocks.setdefault(found.clock, found.wall_offset)
        self._places.clear()

    def _began(self, begin: _Begin) -> Operation:
        who: dict[str, Any] = {
            "process": begin.process,
            "instance": begin.instance,
            "read_only": begin.read_only,
            "clock": self._clock,
            "began": _finite(begin.time),
        }
        match begin.method:
            case "append_batch":
                batch = tuple(from_json(bytes(event), PersistedEvent) for event in begin.batch)
                return AppendOperation(**who, batch=batch)
            case "query":
                return QueryOperation(**who, query=from_json(bytes(begin.query), EventQuery))
            case "last_seq":
                return LastSeqOperation(**who)
            case _:
                raise ValueError(
                    f"method {json.dumps(begin.method)}: expected append_batch, query or last_seq"
                )


def _ended(operation: Operation, end: _End) -> Operation:
    changes: dict[str, Any] = {"ended": _finite(end.time), "outcome": end.type, "error": end.error}
    if end.time < operation.began:
        raise ValueError("an operation ended before it began")
    if isinstance(operation, AppendOperation):
        changes |= {"returned": frozenset(end.returned), "went_back_to": end.went_back_to}
    elif isinstance(operation, QueryOperation):
        changes["found"] = tuple(end.found)
    else:
        changes["last_seq"] = end.last_seq
    return attrs.evolve(operation, **changes)


def _finite(seconds: float) -> float:
    if not math.isfinite(seconds):
        raise ValueError(f"time {seconds}: expected a finite number")
    return seconds
