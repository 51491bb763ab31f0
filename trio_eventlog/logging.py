"""Records of the standard library's ``logging``, and of structlog, as events of a log.

A record becomes a :class:`ModuleEvent`. It may be made in any thread, in a signal handler, or in a
finalizer that runs in the middle of the log's own work. So it is turned into plain JSON where it is made,
waits in a queue that all of these may use, and is ingested between two steps of Trio.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import chain, islice, takewhile
from types import MappingProxyType, TracebackType
from typing import Any, Final, TypeAlias

import trio

from trio_eventlog import CodecError, EventEnvelope, EventLog, ModuleEvent

__all__ = ["EventLogHandler", "EventLogProcessor", "capture_logging", "event_from_record"]


def __dir__() -> list[str]:
    # What is imported for the module's own use is not offered by completion.
    return __all__


# What makes the ids of events, which is imported on first use elsewhere. A signal handler that logs could
# meet it half imported.
import_module("uuid_utils")

ExcInfo: TypeAlias = tuple[BaseException, TracebackType | None]

_OWN: Final = "trio_eventlog"
"""The logger of this library, and the parent of any other that it may have."""

_SCOPES: Final = ("identity", "mob_id", "run_id", "step_id")
"""What an :class:`EventQuery` finds at the top level of a payload."""

_MOST_WAITING: Final = 4096

_LONGEST_TEXT: Final = 32 * 1024
_MOST_TEXT: Final = 128 * 1024
"""Characters, each of which can take seven bytes of JSON; an event has 1 MiB, if nobody says otherwise."""

_DEEPEST: Final = 8
_MOST_ITEMS: Final = 1000
_MOST_VALUES: Final = 4000
_MOST_SECONDS: Final = 1.0
"""After which no more objects of the program are asked what they look like."""

_SHORT_TEXT: Final = 200

_MOST_EXCEPTIONS: Final = 100
_MOST_FRAMES: Final = 1000

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1
_MOST_BITS: Final = 1024
_LAST_MS: Final = 2**63 - 1

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has. The rest is extra."""

_SHOW_THEIR_ITEMS: Final[tuple[type, ...]] = (
    *(list, tuple, set, frozenset, dict, deque, MappingProxyType),
    *(type({}.keys()), type({}.values()), type({}.items())),
)
"""Whose text has that of all that is in them, however often it is."""


# --- from records to JSON -------------------------------------------------------------------------


class _Brief:
    """Stands in a message for what is too large for one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Plain:
    """Turns the values of one record into JSON, with bounds for all of them together.

    A record must never fail for what it carries, and never take longer than it has to: what JSON does not
    know becomes its ``repr``, what raises is named, and what is too much is left out.
    """

    def __init__(self) -> None:
        self._characters = _MOST_TEXT
        self._values = _MOST_VALUES
        self._until = time.monotonic() + _MOST_SECONDS
        self.is_cut = False

    def text(self, value: object, show: Callable[[object], str] = str) -> str:
        """``value`` as text, cut where it gets too long."""
        most = min(_LONGEST_TEXT, self._characters)
        # With nothing left, nobody is asked.
        text = value if type(value) is str else self._shown(value, show) if most else "…"
        if len(text) > most:
            text = f"{text[:most]}…"
            self.is_cut = True
        self._characters -= min(len(text), self._characters)
        # JSON cannot carry a lone surrogate.
        return text if text.isascii() else text.encode(errors="backslashreplace").decode()

    def _shown(self, value: object, show: Callable[[object], str]) -> str:
        """What a stranger says of itself."""
        try:
            if not self._has_time():
                return "…"
            it: Any = value
            if issubclass(type(value), bytes | bytearray):
                it = it[:_LONGEST_TEXT]
            elif not all(map(self._is_small, it.args if issubclass(type(value), BaseException) else [it])):
                return self._too_large(value)
            return str.__str__(show(it))
        except Exception:  # noqa: BLE001 - whatever a stranger raises
            return _cannot_be_shown(value)

    def _too_large(self, value: object) -> str:
        self.is_cut = True
        return f"<{_class_name(value)} that is too large to be shown>"

    def _has_time(self, _item: object = None) -> bool:
        if time.monotonic() <= self._until:
            return True
        self.is_cut = True
        return False

    def _is_small(self, value: object, inside: tuple[int, ...] = ()) -> bool:
        """Whether the text of ``value`` is short enough to be made.

        A list that holds another one twice, which does so too, and so on, is small and its text is not.
        """
        kind = type(value)
        if issubclass(kind, int):
            return int.bit_length(value) <= _MOST_BITS  # type: ignore[arg-type] # it is one
        it: Any = value
        if issubclass(kind, str | bytes | bytearray):
            if inside:
                self._values -= len(it) // 100
                return self._values >= 0
            # A text by itself is cut.
            return issubclass(kind, str) or len(it) <= _LONGEST_TEXT
        # Where it is inside itself, it is shown as [...].
        if not issubclass(kind, _SHOW_THEIR_ITEMS) or id(value) in inside:
            return True
        if len(inside) == 2 * _DEEPEST:
            return False
        for item in chain.from_iterable(it.items()) if issubclass(kind, dict | MappingProxyType) else it:
            self._values -= 1
            if self._values < 0 or not self._is_small(item, (*inside, id(value))):
                return False
        return True

    def brief(self, args: object) -> object:
        """The arguments of a message, without those whose text would be too large."""
        if type(args) is tuple:
            return tuple(self._briefly(arg) for arg in args)
        if type(args) is dict:
            return {key: self._briefly(arg) for key, arg in args.items()}
        return args

    def _briefly(self, arg: object) -> object:
        return arg if self._is_small(arg) else _Brief(self._too_large(arg))

    def value(self, value: object) -> Any:
        """``value`` itself where JSON has it, else what comes nearest.

        Level by level: if not all of it can be told, what is near the top is.
        """
        waiting: _Waiting = deque()
        shown = self._node(value, 0, waiting)
        while waiting:
            container, items, depth = waiting.popleft()
            if isinstance(container, list):
                container.extend(self._node(item, depth, waiting) for item in items)
                continue
            for key, item in items:
                name = self.text(key)
                # Two keys may have one text.
                self.is_cut = self.is_cut or name in container
                container[name] = self._node(item, depth, waiting)
        return shown

    def _node(self, value: object, depth: int, waiting: _Waiting) -> Any:
        if value is None or value is True or value is False:
            return value
        # Not isinstance(), which asks the value itself.
        kind = type(value)
        it: Any = value
        try:
            if issubclass(kind, str):
                return self.text(value)
            if issubclass(kind, int):
                if _MIN_INT <= (integer := int(it)) <= _MAX_INT:
                    return integer
            elif issubclass(kind, float):
                if math.isfinite(number := float(it)):
                    return number
            elif depth < _DEEPEST:
                if issubclass(kind, Mapping):
                    pairs = ((key, item) for key, item in it.items())
                    return self._opened({}, pairs, depth, waiting)
                if issubclass(kind, list | tuple | set | frozenset):
                    return self._opened([], it, depth, waiting)
        except Exception:  # noqa: BLE001 - as in _shown()
            return self.text(_cannot_be_shown(value))
        return self.text(value, repr)

    def _opened(self, shown: _Container, items: Iterable[Any], depth: int, waiting: _Waiting) -> Any:
        """``shown``, which gets its items when its turn comes."""
        most = min(_MOST_ITEMS, self._values)
        # Now, since it may raise.
        found = list(islice(takewhile(self._has_time, items), most + 1))
        if len(found) > most:
            self.is_cut = True
            del found[most:]
            if not found:
                return "…"
        self._values -= len(found)
        waiting.append((shown, found, depth + 1))
        return shown


_Container: TypeAlias = "list[Any] | dict[str, Any]"
_Waiting: TypeAlias = "deque[tuple[_Container, list[Any], int]]"


def _class_name(value: object) -> str:
    # A metaclass may say what it likes, or raise.
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name[:_SHORT_TEXT]


def _cannot_be_shown(value: object) -> str:
    return f"<{_class_name(value)} that cannot be shown>"


def _look(record: object, name: str) -> Any:
    """An attribute; None if it is not there, or not to be had."""
    try:
        return getattr(record, name, None)
    except Exception:  # noqa: BLE001 - of a stranger
        return None


def _is_true(value: object, *, otherwise: bool = False) -> bool:
    """Whether ``value`` is true; ``otherwise`` if it does not say."""
    try:
        return bool(value)
    except Exception:  # noqa: BLE001 - of a stranger; an array, for example
        return otherwise


def _exception(exc_info: ExcInfo, plain: _Plain) -> dict[str, Any]:
    exc, trace = exc_info
    kind = type(exc)
    name = f"{_look(kind, '__module__')}.{_look(kind, '__qualname__')}".removeprefix("builtins.")
    shown = {"type": plain.text(name), "message": plain.text(exc)}
    try:
        if _is_told_in_full(exc, trace, plain):
            lines = traceback.format_exception(kind, exc, trace)
        else:
            plain.is_cut = True
            innermost = traceback.format_tb(trace, -_MOST_FRAMES)
            lines = ["Traceback (most recent call last):\n", *innermost, "{type}: {message}".format(**shown)]
    except Exception:  # noqa: BLE001 - of a stranger
        lines = ["<traceback that cannot be shown>"]
    return {**shown, "traceback": plain.text("".join(lines).rstrip())}


def _is_told_in_full(exc: BaseException, trace: TracebackType | None, plain: _Plain) -> bool:
    """Whether ``traceback`` will not make too much of ``exc`` and those that it came from."""
    seen: set[int] = set()
    exceptions, frames = _MOST_EXCEPTIONS, _MOST_FRAMES
    waiting = [(exc, trace)]
    while waiting:
        one, its_trace = waiting.pop()
        seen.add(id(one))
        exceptions -= 1
        frames -= sum(1 for _ in islice(traceback.walk_tb(its_trace), frames + 1))
        if exceptions < 0 or frames < 0 or not all(map(plain._is_small, one.args)):
            return False
        sources = (other for other in (one.__cause__, one.__context__) if other is not None)
        waiting.extend((other, other.__traceback__) for other in sources if id(other) not in seen)
        if isinstance(one, BaseExceptionGroup):
            # Here ``traceback`` does not look whether it has seen them.
            waiting.extend((member, member.__traceback__) for member in one.exceptions)
    return True


def _exc_info(found: object) -> ExcInfo | None:
    exc: Any = found
    trace: Any = None
    if issubclass(type(found), BaseException):
        trace = _look(found, "__traceback__")
    elif issubclass(type(found), tuple):
        with suppress(Exception):  # of a subclass, or of another length
            _, exc, trace = exc
    elif _is_true(found):
        _, exc, trace = sys.exc_info()
    if not issubclass(type(exc), BaseException):
        return None
    return exc, trace if type(trace) is TracebackType else None


def _payload(standard: dict[str, Any], extra: Mapping[str, Any], plain: _Plain) -> dict[str, Any]:
    payload = dict(standard)
    if extra:
        for name in _SCOPES:
            if issubclass(type(extra.get(name)), str):
                payload[name] = plain.text(extra[name])
        # Last: it may take all that is left.
        payload["extra"] = plain.value(extra)
    if plain.is_cut:
        payload["truncated"] = True
    return payload


def _event(payload: dict[str, Any]) -> ModuleEvent:
    return ModuleEvent(payload["logger"], f"log.{payload['level'].lower()}", payload)


def event_from_record(record: logging.LogRecord) -> ModuleEvent:
    """The event of a record of the standard library's ``logging``.

    Its ``module`` is the name of the logger, its ``event_type`` is ``log.`` and the level in lower case, and
    its payload an object with ``level``, ``logger``, ``message``, ``file``, ``line``, ``function``,
    ``thread``, ``process``, ``exception`` (``type``, ``message``, ``traceback``) and ``stack`` if there is
    one, and ``extra``, whatever else the record carries. Of that, texts under ``identity``, ``mob_id``,
    ``run_id`` and ``step_id`` stand at the top level too, so that an :class:`EventQuery` finds them.

    What JSON does not know becomes its ``repr``; what raises when it is looked at, text that names its
    class. Texts are cut at 32,768 characters, and at 131,072 all together; lists and objects at 1,000 items
    and 8 levels, and at 4,000 values all together, the lowest levels first; and after a second, objects are
    not asked for their ``repr`` any more. ``truncated`` is then true. An iterator is not iterated.

    Never raises an :exc:`Exception`, and is no checkpoint.
    """
    try:
        return _event_of(record, _Plain())
    except Exception:  # noqa: BLE001 - at the limit of recursion, or out of memory
        level, logger, message = (
            found if type(found) is str and found.isascii() else "unknown"
            for found in (_look(record, "levelname"), _look(record, "name"), _look(record, "msg"))
        )
        payload = {"level": level, "logger": logger, "message": message[:_LONGEST_TEXT], "truncated": True}
        return ModuleEvent(logger, f"log.{level.lower()}", payload)


def _event_of(record: logging.LogRecord, plain: _Plain) -> ModuleEvent:
    standard: dict[str, Any] = {
        "level": plain.text(_look(record, "levelname")).upper(),
        "logger": plain.text(_look(record, "name")),
        "message": _message(record, plain),
        "file": plain.value(_look(record, "pathname")),
        "line": plain.value(_look(record, "lineno")),
        "function": plain.value(_look(record, "funcName")),
        "thread": plain.value(_look(record, "threadName")),
        "process": plain.value(_look(record, "process")),
    }
    if (exc_info := _exc_info(_look(record, "exc_info"))) is not None:
        standard["exception"] = _exception(exc_info, plain)
    elif _is_true(text := _look(record, "exc_text"), otherwise=True):
        standard["exception"] = {"traceback": plain.text(text)}
    if _is_true(stack := _look(record, "stack_info"), otherwise=True):
        standard["stack"] = plain.text(stack)
    # A copy: a handler in another thread may add to it just now.
    extra = {
        _key(name, plain): value
        for name, value in dict(vars(record)).items()
        if type(name) is not str or name not in _STANDARD
    }
    return _event(_payload(standard, extra, plain))


def _key(name: object, plain: _Plain) -> str:
    # A stranger might raise when it is compared.
    return name if type(name) is str else plain.text(name)


def _message(record: logging.LogRecord, plain: _Plain) -> str:
    message, args = _look(record, "msg"), _look(record, "args")
    try:
        if getattr(record.getMessage, "__func__", None) is not logging.LogRecord.getMessage:
            return plain.text(record.getMessage())
        # As it would do that itself, but for what is too large.
        text = message if type(message) is str else plain._shown(message, str)
        return plain.text(text % plain.brief(args) if args else text)
    except Exception:  # noqa: BLE001 - arguments that do not fit; the text is worth having all the same
        return f"{plain.text(message)} {plain.value(args)}"


# --- the queue ------------------------------------------------------------------------------------


def _milliseconds(created: Any) -> int | None:
    """The time of a record; None if it has none that a log takes."""
    try:
        milliseconds = max(int(created * 1000), 0)
    except Exception:  # noqa: BLE001 - of a stranger, or for NaN
        return None
    return milliseconds if milliseconds <= _LAST_MS else None


class _InDelivery(threading.local):
    """Whether this thread is ingesting records just now."""

    now = False


_in_delivery: Final = _InDelivery()


class EventLogHandler(logging.Handler):
    """A handler of the standard library's ``logging`` that puts records into an event log.

    As a rule made by :func:`capture_logging`. Records may come from any thread, from signal handlers and from
    finalizers; none of them ever waits, for a store or for anything else. They keep their order among each
    other; an event that is ingested directly in between can get a lower seq.

    Nothing goes in a circle. Records of the logger ``trio_eventlog`` and of those below it are not taken, so
    that a failing store cannot fill the log with complaints about itself; nor are those that the log's
    ``on_failure`` makes, or its filter while a record is ingested; nor what the store or a driver says while
    the log appends to it (see :meth:`EventLog.is_own_work`). A record that comes after the log is closed, or
    in a child by ``os.fork``, is dropped.

    Args:
      log: where records go.
      level: the lowest level that is taken, as for every handler.
      max_waiting: most records that wait for their turn, 1 or more; what comes beyond them is dropped, and
        the next one that is not brings an event of the module ``trio_eventlog.logging`` and the type
        ``records_dropped`` with their ``count``.

    Attributes:
      dropped: how many records were dropped so far, for any of these reasons.

    Raises:
      RuntimeError: not made in the Trio run of the log.
      ValueError: ``level`` is unknown, or ``max_waiting`` below 1.
    """

    def __init__(
        self, log: EventLog, level: int | str = logging.NOTSET, *, max_waiting: int = _MOST_WAITING
    ) -> None:
        if max_waiting < 1:
            msg = f"max_waiting: expected 1 or more records, got {max_waiting}"
            raise ValueError(msg)
        super().__init__(level)
        self._log = log
        self._max_waiting = max_waiting
        self._token = trio.lowlevel.current_trio_token()
        self._process = os.getpid()
        self._thread = threading.get_ident()
        self._waiting: deque[EventEnvelope] = deque()
        self._is_closed = False
        self._untold = 0
        self.dropped: int = 0

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record if the filters of this handler let it pass.

        Without the lock that other handlers hold meanwhile: a record is made into text by code of the
        program, which may take long or wait for a lock of its own.
        """
        passed: Any = self.filter(record)
        if passed:
            # From Python 3.12 on, a filter may put another record in the place of this one.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record. Never waits, never raises an :exc:`Exception`, and is no checkpoint."""
        try:
            if not self._refuses(_look(record, "name")):
                self.put(event_from_record(record), _milliseconds(_look(record, "created")))
        except Exception:  # noqa: BLE001 - as in event_from_record()
            self._drop(1)

    def _refuses(self, logger: Any) -> bool:
        """Whether records of a logger are not taken, wherever they come from, or for where they come from."""
        name = str.__str__(logger) if issubclass(type(logger), str) else ""
        return name == _OWN or name.startswith(f"{_OWN}.") or self._is_in_a_circle()

    def _is_in_a_circle(self) -> bool:
        return _in_delivery.now or self._log.is_own_work()

    def put(self, event: ModuleEvent, timestamp_ms: int | None = None) -> None:
        """Let an event wait for its turn, from any thread. Never waits itself, and is no checkpoint.

        Args:
          event: what to ingest.
          timestamp_ms: its time, milliseconds since 1970-01-01 UTC; by default now.
        """
        if self._is_in_a_circle():
            return
        if self._is_closed or os.getpid() != self._process or len(self._waiting) >= self._max_waiting:
            self._drop(1)
            return
        self._waiting.append(EventEnvelope.of(event, timestamp_ms=timestamp_ms))
        try:
            self._token.run_sync_soon(self._deliver, idempotent=True)
        except trio.RunFinishedError:
            self._drop_all()

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._untold += count

    def _drop_all(self) -> None:
        while self._waiting:
            with suppress(IndexError):  # by another thread, just now
                self._waiting.popleft()
                self._drop(1)

    def _deliver(self) -> None:
        # In Trio's thread, between two steps of it. No more than were there: it is others' turn then.
        for _ in range(len(self._waiting)):
            self._ingest(self._waiting.popleft())
        if self._untold and not self._is_closed:
            count, self._untold = self._untold, 0
            self._ingest(
                EventEnvelope.of(ModuleEvent(f"{_OWN}.logging", "records_dropped", {"count": count}))
            )

    def _ingest(self, envelope: EventEnvelope) -> None:
        _in_delivery.now = True
        try:
            try:
                self._log.ingest(envelope)
            except CodecError:
                self._log.ingest(_shortened(envelope))
        except trio.ClosedResourceError:
            self._is_closed = True
            self._drop(1)
        except Exception as exc:  # noqa: BLE001 - of a filter, as a rule; raised here it would end the Trio run
            self._drop(1)
            if logging.raiseExceptions and sys.stderr is not None:
                with suppress(Exception):  # of a stream that is closed
                    traceback.print_exception(exc)
        finally:
            _in_delivery.now = False

    def close(self) -> None:
        """Ingest what waits, if this is called in the Trio run of the log; take nothing more.

        No checkpoint. Safe to call again, from other threads, and after the run has ended.
        """
        if not self._is_closed and os.getpid() == self._process:
            with suppress(RuntimeError):  # no Trio here
                if trio.lowlevel.current_trio_token() is self._token:
                    self._deliver()
        self._is_closed = True
        self._drop_all()
        super().close()


def _shortened(envelope: EventEnvelope) -> EventEnvelope:
    """For a log whose events must be smaller still."""
    event = envelope.event
    payload = {key: event.payload[key] for key in ("level", "logger", "message") if key in event.payload}
    short = {key: text[:_SHORT_TEXT] for key, text in payload.items()}
    return EventEnvelope.of(
        ModuleEvent(short.get("logger", _OWN), event.event_type[:_SHORT_TEXT], {**short, "truncated": True}),
        event_id=envelope.event_id,
        timestamp_ms=envelope.timestamp_ms,
    )


@contextmanager
def capture_logging(
    log: EventLog,
    logger: logging.Logger | str | None = None,
    *,
    level: int | str = logging.NOTSET,
    max_waiting: int = _MOST_WAITING,
) -> Iterator[EventLogHandler]:
    """Put the records of a logger into an event log, for the length of a ``with`` block.

    Neither entering nor leaving is a checkpoint. Leaving ingests what waits; it belongs inside the block of
    :func:`open_event_log`.

    Args:
      log: where records go.
      logger: whose records, with those of all loggers below it; by default the root logger's, and so all.
        Its own level decides what is made at all.
      level: the lowest level that is taken.
      max_waiting: as for :class:`EventLogHandler`.

    Raises:
      RuntimeError: not called in the Trio run of the log.
      ValueError: as :class:`EventLogHandler`.
    """
    source = logger if isinstance(logger, logging.Logger) else logging.getLogger(logger)
    handler = EventLogHandler(log, level, max_waiting=max_waiting)
    source.addHandler(handler)
    try:
        yield handler
    finally:
        source.removeHandler(handler)
        handler.close()


class EventLogProcessor:
    """A structlog processor that puts what is logged into an event log, and hands it on unchanged.

    It goes before the renderer. The events are those of :func:`event_from_record`, without ``file``,
    ``line``, ``function``, ``thread`` and ``process``: ``event`` is the message, ``level`` and ``logger`` are
    taken from structlog's own processors or from the call, the rest is ``extra``. The level of the handler
    holds here, too.

    Args:
      handler: the way into the log, from :func:`capture_logging` or made for this alone.
    """

    def __init__(self, handler: EventLogHandler) -> None:
        self._handler = handler

    def __call__(
        self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Take what is logged. Never waits, never raises an :exc:`Exception`, and is no checkpoint."""
        try:
            self._take(logger, method_name, event_dict)
        except Exception:  # noqa: BLE001 - at the limit of recursion, or out of memory
            self._handler._drop(1)
        return event_dict

    def _take(self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> None:
        plain = _Plain()
        try:
            found = {_key(key, plain): value for key, value in event_dict.items()}
        except Exception:  # noqa: BLE001 - of a stranger
            found = {"event": _cannot_be_shown(event_dict)}
        name: object = found.pop("logger", None)
        if not _is_true(name, otherwise=True):
            name = _look(logger, "name")
        name = plain.text(name) if _is_true(name, otherwise=True) else "structlog"
        if self._handler._refuses(name):
            return
        level = plain.text(found.pop("level", "error" if method_name == "exception" else method_name)).upper()
        if logging.getLevelNamesMapping().get(level, logging.CRITICAL) < self._handler.level:
            return
        message = plain.text(found.pop("event", ""))
        standard: dict[str, Any] = {"level": level, "logger": name, "message": message}
        exc_info, rendered = _exc_info(found.pop("exc_info", None)), found.pop("exception", None)
        if exc_info is not None:
            standard["exception"] = _exception(exc_info, plain)
        elif rendered is not None:
            standard["exception"] = {"traceback": plain.text(rendered)}
        self._handler.put(_event(_payload(standard, found, plain)))
