"""The way of records into a log: a queue that any thread fills, and Trio empties."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import trio

from trio_eventlog import AgentEvent, CodecError, EventEnvelope, EventLog, ModuleEvent, Transform
from trio_eventlog.logging._bounds import MAX_SHORT_STRING, Plain, cannot_be_shown
from trio_eventlog.logging._records import (
    add_exception,
    attribute,
    event_from_record,
    exc_info_of,
    is_true,
    key_of,
    make_event,
)

_OWN: Final = "trio_eventlog"
"""The logger of this library, and the parent of any other that it may have."""

_MAX_WAITING: Final = 4096

_LAST_MS: Final = 2**63 - 1


def _milliseconds(created: Any) -> int | None:
    """The time of a record; None if it has none that a log takes."""
    try:
        milliseconds = max(int(created * 1000), 0)
    except Exception:  # noqa: BLE001 - of an object in it, or for NaN
        return None
    return milliseconds if milliseconds <= _LAST_MS else None


class _InDelivery(threading.local):
    """Whether this thread is ingesting records just now."""

    now = False


_in_delivery: Final = _InDelivery()


class EventLogHandler(logging.Handler):
    """A handler of the standard library's ``logging`` that puts records into an event log.

    Usually made by :func:`capture_logging`. Records may come from any thread, from signal handlers and from
    finalizers; none of them ever waits, for a store or for anything else. They keep their order; an event
    that is ingested directly in between can get a lower seq.

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
      transform: called with the event of each record, in Trio's thread, before the filter and the
        ``transform`` of the log; a plain function. Returns the event to keep, or None to leave it out. If it
        raises, the record is dropped. See :mod:`trio_eventlog.masking` for ready ones.

    Attributes:
      dropped: how many records were dropped so far, for any of these reasons.

    Raises:
      RuntimeError: not made in the Trio run of the log.
      ValueError: ``level`` is unknown, or ``max_waiting`` below 1.
      TypeError: ``transform`` is not a plain function.
    """

    def __init__(
        self,
        log: EventLog,
        level: int | str = logging.NOTSET,
        *,
        max_waiting: int = _MAX_WAITING,
        transform: Transform | None = None,
    ) -> None:
        if max_waiting < 1:
            raise ValueError(f"max_waiting: expected 1 or more records, got {max_waiting}")
        _require_plain(transform)
        super().__init__(level)
        self._log = log
        self._transform = transform
        self._max_waiting = max_waiting
        self._token = trio.lowlevel.current_trio_token()
        self._process = os.getpid()
        self._waiting: deque[EventEnvelope] = deque()
        self._is_closed = False
        self._untold = 0
        self.dropped: int = 0

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record if the filters of this handler let it pass.

        Without the lock that other handlers hold meanwhile: code of the program turns a record into a string,
        and may take long or wait for a lock of its own.
        """
        passed: Any = self.filter(record)
        if passed:
            # From Python 3.12 on, a filter may put another record in the place of this one.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record. Never waits, never raises an :exc:`Exception`, and is not a checkpoint."""
        try:
            if not self._refuses(attribute(record, "name")):
                self.put(event_from_record(record), _milliseconds(attribute(record, "created")))
        except Exception:  # noqa: BLE001 - as in event_from_record()
            self._drop(1)

    def _refuses(self, logger: Any) -> bool:
        """Whether records of a logger are not taken, wherever they come from, or for where they come from."""
        name = str.__str__(logger) if issubclass(type(logger), str) else ""
        return name == _OWN or name.startswith(f"{_OWN}.") or self._is_in_a_circle()

    def _is_in_a_circle(self) -> bool:
        return _in_delivery.now or self._log.is_own_work()

    def put(self, event: ModuleEvent | AgentEvent, timestamp_ms: int | None = None) -> None:
        """Let an event wait for its turn, from any thread. Never waits itself, and is not a checkpoint.

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

    def _next(self) -> EventEnvelope | None:
        # Another thread may close the handler, and drop them, at any moment.
        with suppress(IndexError):
            return self._waiting.popleft()
        return None

    def _drop_all(self) -> None:
        while self._next() is not None:
            self._drop(1)

    def _deliver(self) -> None:
        # In Trio's thread, between two steps of it. No more than were there: it is others' turn then.
        for _ in range(len(self._waiting)):
            if (envelope := self._next()) is not None:
                self._ingest(envelope, self._transform)
        if self._untold and not self._is_closed:
            count, self._untold = self._untold, 0
            self._ingest(
                EventEnvelope.of(ModuleEvent(f"{_OWN}.logging", "records_dropped", {"count": count}))
            )

    def _ingest(self, envelope: EventEnvelope, transform: Transform | None = None) -> None:
        _in_delivery.now = True
        try:
            if transform is not None:
                kept = transform(envelope.event)
                if kept is None:
                    return
                envelope = EventEnvelope.of(
                    kept, event_id=envelope.event_id, timestamp_ms=envelope.timestamp_ms
                )
            try:
                self._log.ingest(envelope)
            except CodecError:
                self._log.ingest(_shortened(envelope))
        except trio.ClosedResourceError:
            self._is_closed = True
            self._drop(1)
        except Exception as exc:  # noqa: BLE001 - of a filter, for example; raised here it would end the Trio run
            self._drop(1)
            if logging.raiseExceptions and sys.stderr is not None:
                with suppress(Exception):  # of a stream that is closed
                    traceback.print_exception(exc)
        finally:
            _in_delivery.now = False

    def close(self) -> None:
        """Ingest what waits, if this is called in the Trio run of the log; take nothing more.

        Not a checkpoint. Safe to call again, from other threads, and after the run has ended.
        """
        if not self._is_closed and os.getpid() == self._process:
            with suppress(RuntimeError):  # no Trio here
                if trio.lowlevel.current_trio_token() is self._token:
                    self._deliver()
        self._is_closed = True
        self._drop_all()
        super().close()


def _require_plain(transform: object) -> None:
    if transform is None:
        return
    if not callable(transform):
        raise TypeError(f"transform: expected a function or None, got {type(transform).__name__}")
    # An object can have a method __call__ that is async.
    for function in (transform, type(transform).__call__):
        if any(
            is_kind(function)
            for is_kind in (
                inspect.iscoroutinefunction,
                inspect.isgeneratorfunction,
                inspect.isasyncgenfunction,
            )
        ):
            raise TypeError("transform: expected a plain function, got an async one or a generator")


def _shortened(envelope: EventEnvelope) -> EventEnvelope:
    """For a log whose events must be smaller still."""
    event = envelope.event
    # A transform may have made anything of it.
    found = event.payload if isinstance(event.payload, dict) else {}
    texts = {key: found[key] for key in ("level", "logger", "message") if type(found.get(key)) is str}
    short = {key: text[:MAX_SHORT_STRING] for key, text in texts.items()}
    event_type, payload = event.event_type[:MAX_SHORT_STRING], {**short, "truncated": True}
    return EventEnvelope.of(
        AgentEvent(event.agent_id[:MAX_SHORT_STRING], event_type, payload)
        if isinstance(event, AgentEvent)
        else ModuleEvent(short.get("logger", _OWN), event_type, payload),
        event_id=envelope.event_id,
        timestamp_ms=envelope.timestamp_ms,
    )


@contextmanager
def capture_logging(
    log: EventLog,
    logger: logging.Logger | str | None = None,
    *,
    level: int | str = logging.NOTSET,
    max_waiting: int = _MAX_WAITING,
    transform: Transform | None = None,
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
      transform: as for :class:`EventLogHandler`.

    Raises:
      RuntimeError: not called in the Trio run of the log.
      ValueError, TypeError: as :class:`EventLogHandler`.
    """
    source = logger if isinstance(logger, logging.Logger) else logging.getLogger(logger)
    handler = EventLogHandler(log, level, max_waiting=max_waiting, transform=transform)
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
        """Take what is logged. Never waits, never raises an :exc:`Exception`, and is not a checkpoint."""
        try:
            self._take(logger, method_name, event_dict)
        except Exception:  # noqa: BLE001 - at the limit of recursion, or out of memory
            self._handler._drop(1)
        return event_dict

    def _take(self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> None:
        plain = Plain()
        try:
            found = {key_of(key, plain): value for key, value in event_dict.items()}
        except Exception:  # noqa: BLE001 - of an object in it
            found = {"event": cannot_be_shown(event_dict)}
        name: object = found.pop("logger", None)
        if not is_true(name, otherwise=True):
            name = attribute(logger, "name")
        name = plain.text(name) if is_true(name, otherwise=True) else "structlog"
        if self._handler._refuses(name):
            return
        level = plain.text(found.pop("level", "error" if method_name == "exception" else method_name)).upper()
        if logging.getLevelNamesMapping().get(level, logging.CRITICAL) < self._handler.level:
            return
        message = plain.text(found.pop("event", ""))
        standard: dict[str, Any] = {"level": level, "logger": name, "message": message}
        exc_info, rendered = exc_info_of(found.pop("exc_info", None)), found.pop("exception", None)
        add_exception(standard, exc_info, rendered, plain)
        self._handler.put(make_event(standard, found, plain))
