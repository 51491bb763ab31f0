"""A record as an event."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Any, Final, TypeAlias

from trio_eventlog import AgentEvent, ModuleEvent
from trio_eventlog.logging._bounds import MAX_STRING, Plain

ExcInfo: TypeAlias = tuple[BaseException, TracebackType | None]

_SCOPES: Final = ("identity", "mob_id", "run_id", "step_id")
"""What an :class:`EventQuery` finds at the top level of a payload."""

_MEMBER: Final = "member_id"
"""The member to which a record belongs, if it is a string among its extras."""

_MAX_EXCEPTIONS: Final = 100
_MAX_FRAMES: Final = 1000

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has. The rest is extra."""


def event_from_record(record: logging.LogRecord) -> ModuleEvent | AgentEvent:
    """The event of a record of the standard library's ``logging``.

    Its ``module`` is the name of the logger, its ``event_type`` is ``log.`` and the level in lower case, and
    its payload an object with ``level``, ``logger``, ``message``, ``file``, ``line``, ``function``,
    ``thread``, ``process``, ``exception`` (``type``, ``message``, ``traceback``) and ``stack`` if there is
    one, and ``extra``, whatever else the record carries. Of that, strings under ``identity``, ``mob_id``,
    ``run_id`` and ``step_id`` stand at the top level too, so that an :class:`EventQuery` finds them. A record
    that has a string under ``member_id`` there, as ``extra={"member_id": "w2"}``, is an event of that agent
    instead, and found by its ``member_id``.

    What JSON does not know becomes its ``repr``; what raises when it is looked at, a string that names its
    class. Strings are cut at 32,768 characters, and at 131,072 all together; lists and objects at 1,000 items
    and 8 levels, and at 4,000 values all together, the lowest levels first; and after a second, objects are
    not asked for their ``repr`` any more. ``truncated`` is then true. An iterator is not iterated.

    Never raises an :exc:`Exception`, and is not a checkpoint.
    """
    try:
        return _event_of(record, Plain())
    except Exception:  # noqa: BLE001 - at the limit of recursion, or out of memory
        level, logger, message = (
            found if type(found) is str and found.isascii() else "unknown"
            for found in (attribute(record, "levelname"), attribute(record, "name"), attribute(record, "msg"))
        )
        payload = {"level": level, "logger": logger, "message": message[:MAX_STRING], "truncated": True}
        return ModuleEvent(logger, f"log.{level.lower()}", payload)


def _event_of(record: logging.LogRecord, plain: Plain) -> ModuleEvent | AgentEvent:
    standard: dict[str, Any] = {
        "level": plain.text(attribute(record, "levelname")).upper(),
        "logger": plain.text(attribute(record, "name")),
        "message": _message(record, plain),
        "file": plain.value(attribute(record, "pathname")),
        "line": plain.value(attribute(record, "lineno")),
        "function": plain.value(attribute(record, "funcName")),
        "thread": plain.value(attribute(record, "threadName")),
        "process": plain.value(attribute(record, "process")),
    }
    exc_info = exc_info_of(attribute(record, "exc_info"))
    rendered, stack = attribute(record, "exc_text"), attribute(record, "stack_info")
    add_exception(standard, exc_info, rendered if is_true(rendered, otherwise=True) else None, plain)
    if is_true(stack, otherwise=True):
        standard["stack"] = plain.text(stack)
    # A copy: a handler in another thread may add to it just now.
    extra = {
        key_of(name, plain): value
        for name, value in dict(vars(record)).items()
        if type(name) is not str or name not in _STANDARD
    }
    return make_event(standard, extra, plain)


def _message(record: logging.LogRecord, plain: Plain) -> str:
    message, args = attribute(record, "msg"), attribute(record, "args")
    try:
        if getattr(record.getMessage, "__func__", None) is not logging.LogRecord.getMessage:
            return plain.text(record.getMessage())
        # As it would do that itself, but for what is too large.
        text = message if type(message) is str else plain.shown(message, str)
        return plain.text(text % plain.brief(args) if args else text)
    except Exception:  # noqa: BLE001 - arguments that do not fit; the message is worth having all the same
        return f"{plain.text(message)} {plain.value(args)}"


def make_event(standard: dict[str, Any], extra: Mapping[str, Any], plain: Plain) -> ModuleEvent | AgentEvent:
    """The event whose payload has what every record has, and what this one has beyond that."""
    payload = dict(standard)
    member: str | None = None
    if extra:
        if issubclass(type(extra.get(_MEMBER)), str):
            member = plain.text(extra[_MEMBER])
        for name in _SCOPES:
            if issubclass(type(extra.get(name)), str):
                payload[name] = plain.text(extra[name])
        # Last: it may take all that is left.
        payload["extra"] = plain.value(extra)
    if plain.is_cut:
        payload["truncated"] = True
    event_type = f"log.{payload['level'].lower()}"
    if member is not None:
        return AgentEvent(member, event_type, payload)
    return ModuleEvent(payload["logger"], event_type, payload)


# --- exceptions -----------------------------------------------------------------------------------


def add_exception(payload: dict[str, Any], exc_info: ExcInfo | None, rendered: object, plain: Plain) -> None:
    """Add the exception of a record to its payload, or the traceback that was made of it already."""
    if exc_info is not None:
        payload["exception"] = _exception(exc_info, plain)
    elif rendered is not None:
        payload["exception"] = {"traceback": plain.text(rendered)}


def _exception(exc_info: ExcInfo, plain: Plain) -> dict[str, Any]:
    exc, trace = exc_info
    kind = type(exc)
    name = f"{attribute(kind, '__module__')}.{attribute(kind, '__qualname__')}".removeprefix("builtins.")
    shown = {"type": plain.text(name), "message": plain.text(exc)}
    try:
        if _is_told_in_full(exc, trace, plain):
            lines = traceback.format_exception(kind, exc, trace)
        else:
            plain.is_cut = True
            innermost = traceback.format_tb(trace, -_MAX_FRAMES)
            lines = ["Traceback (most recent call last):\n", *innermost, "{type}: {message}".format(**shown)]
    except Exception:  # noqa: BLE001 - of an exception's own methods
        lines = ["<traceback that cannot be shown>"]
    return {**shown, "traceback": plain.text("".join(lines).rstrip())}


def _is_told_in_full(exc: BaseException, trace: TracebackType | None, plain: Plain) -> bool:
    """Whether ``traceback`` will not make too much of ``exc`` and those that it came from."""
    seen: set[int] = set()
    exceptions, frames = _MAX_EXCEPTIONS, _MAX_FRAMES
    waiting = [(exc, trace)]
    while waiting:
        one, its_trace = waiting.pop()
        seen.add(id(one))
        exceptions -= 1
        frames -= sum(1 for _ in islice(traceback.walk_tb(its_trace), frames + 1))
        if exceptions < 0 or frames < 0 or not all(map(plain.is_small, one.args)):
            return False
        sources = (other for other in (one.__cause__, one.__context__) if other is not None)
        waiting.extend((other, other.__traceback__) for other in sources if id(other) not in seen)
        if isinstance(one, BaseExceptionGroup):
            # Here ``traceback`` does not look whether it has seen them.
            waiting.extend((member, member.__traceback__) for member in one.exceptions)
    return True


def exc_info_of(found: object) -> ExcInfo | None:
    """The exception that ``exc_info`` of a record stands for, and its traceback."""
    exc: Any = found
    trace: Any = None
    if issubclass(type(found), BaseException):
        trace = attribute(found, "__traceback__")
    elif issubclass(type(found), tuple):
        with suppress(Exception):  # of a subclass, or of another length
            _, exc, trace = exc
    elif is_true(found):
        _, exc, trace = sys.exc_info()
    if not issubclass(type(exc), BaseException):
        return None
    return exc, trace if type(trace) is TracebackType else None


# --- objects that may raise -----------------------------------------------------------------------


def attribute(record: object, name: str) -> Any:
    """An attribute; None if it is not there, or not to be had."""
    try:
        return getattr(record, name, None)
    except Exception:  # noqa: BLE001 - of the object
        return None


def is_true(value: object, *, otherwise: bool = False) -> bool:
    """Whether ``value`` is true; ``otherwise`` if it does not say."""
    try:
        return bool(value)
    except Exception:  # noqa: BLE001 - of the object; an array, for example
        return otherwise


def key_of(name: object, plain: Plain) -> str:
    """A key as a string. As another object it might raise when it is compared."""
    return name if type(name) is str else plain.text(name)
