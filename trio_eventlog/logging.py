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
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, TypeAlias

import trio

from trio_eventlog import CodecError, EventEnvelope, EventLog, ModuleEvent

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

_OWN: Final = "trio_eventlog"
"""The logger of this library, and the parent of any other that it may have."""

_SCOPES: Final = ("identity", "mob_id", "run_id", "step_id")
"""What an :class:`EventQuery` finds at the top level of a payload."""

_MOST_WAITING: Final = 4096

_LONGEST_TEXT: Final = 32 * 1024
_MOST_TEXT: Final = 128 * 1024
"""Characters, each of which can take six bytes of JSON; an event has 1 MiB, if nobody says otherwise."""

_DEEPEST: Final = 8
_MOST_ITEMS: Final = 1000
_SHORT_TEXT: Final = 200

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has. The rest is extra."""


# --- from records to JSON -------------------------------------------------------------------------


class _Plain:
    """Turns any value into JSON, with bounds for one value and for all of them together.

    A record must never fail for what it carries: what JSON does not know becomes its ``repr``.
    """

    def __init__(self) -> None:
        self._left = _MOST_TEXT

    def text(self, value: object) -> str:
        """``value`` as text, cut where it gets too long."""
        try:
            text = value if type(value) is str else str(value)
        except Exception:  # noqa: BLE001 - whatever the __str__ of a stranger raises
            text = f"<{type(value).__name__} that cannot be shown>"
        most = min(_LONGEST_TEXT, self._left)
        if len(text) > most:
            text = f"{text[:most]}…"
        self._left = max(self._left - len(text), 0)
        # JSON cannot carry a lone surrogate.
        return text if text.isascii() else text.encode(errors="backslashreplace").decode()

    def value(self, value: object, depth: int = 0) -> Any:
        """``value`` itself where JSON has it, else what comes nearest."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and _MIN_INT <= value <= _MAX_INT:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, str):
            return self.text(value)
        if depth < _DEEPEST:
            if isinstance(value, Mapping):
                some = list(value.items())[:_MOST_ITEMS]
                return {self.text(key): self.value(item, depth + 1) for key, item in some}
            if isinstance(value, list | tuple | set | frozenset):
                return [self.value(item, depth + 1) for item in list(value)[:_MOST_ITEMS]]
        try:
            return self.text(repr(value))
        except Exception:  # noqa: BLE001 - as in text()
            return f"<{type(value).__name__} that cannot be shown>"


def _exception(exc_info: ExcInfo, plain: _Plain) -> dict[str, Any]:
    kind, exc, trace = exc_info
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        "message": plain.text(exc),
        "traceback": plain.text("".join(traceback.format_exception(kind, exc, trace)).rstrip()),
    }


def _exc_info(found: object) -> ExcInfo | None:
    if isinstance(found, BaseException):
        return type(found), found, found.__traceback__
    if isinstance(found, tuple):
        return found if len(found) == 3 and isinstance(found[1], BaseException) else None  # noqa: PLR2004 - as sys has it
    kind, exc, trace = sys.exc_info() if found else (None, None, None)
    return None if kind is None or exc is None else (kind, exc, trace)


def _payload(
    *, level: str, logger: str, message: object, exception: Any, extra: Mapping[str, Any], plain: _Plain
) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "level": plain.text(level.upper()),
        "logger": plain.text(logger),
        "message": plain.text(message),
    }
    if exception is not None:
        payload["exception"] = exception
    if extra:
        payload["extra"] = plain.value(extra)
        for name in _SCOPES:
            if isinstance(extra.get(name), str):
                payload[name] = plain.text(extra[name])
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

    What JSON does not know becomes its ``repr``. Texts are cut at 32,768 characters, and at 131,072 all
    together; lists and objects at 1,000 items and 8 levels. Never raises, and is no checkpoint.
    """
    plain = _Plain()
    try:
        message: object = record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit; the text is worth having all the same
        message = f"{plain.text(record.msg)} {plain.value(record.args)}"
    found = _exc_info(record.exc_info)
    exception: Any = None if found is None else _exception(found, plain)
    if exception is None and record.exc_text:
        exception = {"traceback": plain.text(record.exc_text)}
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    payload = _payload(
        level=record.levelname,
        logger=record.name,
        message=message,
        exception=exception,
        extra=extra,
        plain=plain,
    )
    if record.stack_info:
        payload["stack"] = plain.text(record.stack_info)
    for name, value in (
        ("file", record.pathname),
        ("line", record.lineno),
        ("function", record.funcName),
        ("thread", record.threadName),
        ("process", record.process),
    ):
        payload[name] = plain.value(value)
    return _event(payload)


# --- the queue ------------------------------------------------------------------------------------


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
    ``on_failure`` makes, or its filter while a record is ingested. A record that comes after the log is
    closed, or in a child by ``os.fork``, is dropped.

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

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record. Never waits, never raises, and is no checkpoint."""
        if record.name == _OWN or record.name.startswith(f"{_OWN}."):
            return
        try:
            event = event_from_record(record)
            created = max(int(record.created * 1000), 0)
        except Exception:  # noqa: BLE001 - the custom of handlers: told on standard error
            self.handleError(record)
            return
        self.put(event, created)

    def put(self, event: ModuleEvent, timestamp_ms: int | None = None) -> None:
        """Let an event wait for its turn, from any thread. Never waits itself, and is no checkpoint.

        Args:
          event: what to ingest.
          timestamp_ms: its time, milliseconds since 1970-01-01 UTC; by default now.
        """
        if _in_delivery.now or (self._log.is_in_on_failure and threading.get_ident() == self._thread):
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
        """Take what is logged. Never waits, never raises, and is no checkpoint."""
        name = str(event_dict.get("logger") or getattr(logger, "name", None) or "structlog")
        if name == _OWN or name.startswith(f"{_OWN}."):
            return event_dict
        level = "error" if method_name == "exception" else method_name
        level = str(event_dict.get("level", level)).upper()
        if logging.getLevelNamesMapping().get(level, logging.CRITICAL) < self._handler.level:
            return event_dict
        plain = _Plain()
        found = _exc_info(event_dict.get("exc_info"))
        exception: Any = None if found is None else _exception(found, plain)
        if exception is None and "exception" in event_dict:
            exception = {"traceback": plain.text(event_dict["exception"])}
        known = ("event", "level", "logger", "exc_info", "exception")
        payload = _payload(
            level=level,
            logger=name,
            message=event_dict.get("event", ""),
            exception=exception,
            extra={key: value for key, value in event_dict.items() if key not in known},
            plain=plain,
        )
        self._handler.put(_event(payload))
        return event_dict
