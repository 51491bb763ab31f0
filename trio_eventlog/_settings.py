"""The arguments of ``open_event_log``, checked. Floor 3, beside the log."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Final, TypeAlias, TypeVar, cast

import attrs

from trio_eventlog._errors import StoreUnusable
from trio_eventlog._events import UnifiedEvent
from trio_eventlog._policy import RetryPolicy
from trio_eventlog._query import EventQuery
from trio_eventlog._reports import Report
from trio_eventlog.abc import EventStore

T = TypeVar("T")

Filter: TypeAlias = Callable[[UnifiedEvent], bool]
OnFailure: TypeAlias = Callable[[Report], object]

DEFAULT_RETRY: Final = RetryPolicy()

DEFAULT_SPILL_MAX_BYTES: Final = 1024 * 1024 * 1024

DEFAULT_MAX_EVENT_BYTES: Final = 1024 * 1024

DEFAULT_RETRY_BUFFER_MAX_BYTES: Final = 64 * 1024 * 1024

_MOST_OFFERED: Final = 4096
"""Most events offered in one append to a store that declares no ``max_batch``."""

_MIN_FLUSH_INTERVAL: Final = 0.001

_LEAST_SPILL_BYTES: Final = 4096


@attrs.frozen(kw_only=True)
class Settings:
    """The arguments of :func:`open_event_log`, checked."""

    filter: Filter | None
    batch_size: int
    flush_interval: float
    retry_buffer_cap: int
    retry_buffer_max_bytes: int
    max_event_bytes: int
    append_timeout: float
    grace_period: float
    retry: RetryPolicy
    on_failure: OnFailure | None
    spill: Path | None
    spill_max_bytes: int


def _check_count(name: str, value: object, minimum: int, unit: str = "events") -> int:
    if type(value) is not int:
        msg = f"{name}: expected a number of {unit} as an int, got {type(value).__name__}"
        raise TypeError(msg)
    if value < minimum:
        msg = f"{name}: expected {minimum} or more {unit}, got {value}"
        raise ValueError(msg)
    return value


def _check_seconds(name: str, value: object, *, zero: bool = True, infinite: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name}: expected seconds as a number, got {type(value).__name__}"
        raise TypeError(msg)
    try:
        seconds = float(value)
    except OverflowError:
        msg = f"{name}: expected seconds, got an integer that is too large for a float"
        raise ValueError(msg) from None
    # NaN fails every comparison, and so this one.
    if not seconds >= 0 or (seconds == 0 and not zero) or (seconds == math.inf and not infinite):
        bounds = "0 or more" if zero else "more than 0"
        msg = f"{name}: expected seconds, {bounds}{'' if infinite else ' and finite'}, got {seconds}"
        raise ValueError(msg)
    return seconds


def _check_path(name: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        msg = f"{name}: expected the path of a file as str or PathLike, got {type(value).__name__}"
        raise TypeError(msg)
    path = os.fspath(value)
    if not path or "\0" in path:
        msg = f"{name}: expected the path of a file, got {path!r}"
        raise ValueError(msg)
    return Path(path)


def _check_callable(name: str, value: object) -> None:
    if value is not None and not callable(value):
        msg = f"{name}: expected a function or None, got {type(value).__name__}"
        raise TypeError(msg)
    if inspect.iscoroutinefunction(value):
        msg = f"{name}: expected a plain function, got an async one, which nobody would await"
        raise TypeError(msg)


def check_settings(
    *,
    filter: Filter | None,  # noqa: A002 - the name of the argument that it checks
    batch_size: int,
    flush_interval: float,
    retry_buffer_cap: int,
    retry_buffer_max_bytes: int,
    max_event_bytes: int,
    append_timeout: float,
    grace_period: float,
    retry: RetryPolicy,
    on_failure: OnFailure | None,
    spill: str | os.PathLike[str] | None,
    spill_max_bytes: int,
) -> Settings:
    _check_callable("filter", filter)
    _check_callable("on_failure", on_failure)
    batch_size = max(_check_count("batch_size", batch_size, 0), 1)
    _check_count("retry_buffer_cap", retry_buffer_cap, 1)
    if batch_size > retry_buffer_cap:
        msg = f"batch_size: expected at most retry_buffer_cap ({retry_buffer_cap}) events, got {batch_size}"
        raise ValueError(msg)
    _check_count("max_event_bytes", max_event_bytes, 1, "bytes")
    _check_count("retry_buffer_max_bytes", retry_buffer_max_bytes, 1, "bytes")
    if max_event_bytes > retry_buffer_max_bytes:
        msg = (
            f"max_event_bytes: expected at most retry_buffer_max_bytes ({retry_buffer_max_bytes}), got"
            f" {max_event_bytes}"
        )
        raise ValueError(msg)
    if not isinstance(retry, RetryPolicy):
        msg = f"retry: expected a RetryPolicy, got {type(retry).__name__}"
        raise TypeError(msg)
    return Settings(
        filter=filter,
        batch_size=batch_size,
        flush_interval=_check_seconds("flush_interval", flush_interval) or _MIN_FLUSH_INTERVAL,
        retry_buffer_cap=retry_buffer_cap,
        retry_buffer_max_bytes=retry_buffer_max_bytes,
        max_event_bytes=max_event_bytes,
        append_timeout=_check_seconds("append_timeout", append_timeout, zero=False, infinite=True),
        grace_period=_check_seconds("grace_period", grace_period),
        retry=retry,
        on_failure=on_failure,
        spill=_check_path("spill", spill),
        spill_max_bytes=_check_count("spill_max_bytes", spill_max_bytes, _LEAST_SPILL_BYTES, "bytes"),
    )


_METHODS: Final = ("append_batch", "query", "last_seq")


def check_store(store: object) -> None:
    """Whether ``store`` is a store, and not what one is made of.

    Raises:
      TypeError: it is not; the message says what to write instead.
    """
    if isinstance(store, type):
        way = (
            f"async with {store.__name__}.open(…) as store"
            if hasattr(store, "open")
            else f"{store.__name__}()"
        )
        found = f"the class {store.__name__}; write: {way}"
    elif isinstance(store, EventStore):
        return
    elif isinstance(store, str | bytes | os.PathLike):
        # Not the text itself: a URL may have a password in it.
        found = f"{type(store).__name__}; open it first: async with open_store(url) as store"
    elif hasattr(type(store), "__aenter__"):
        found = "an async context manager that was not entered; write: async with … as store"
    elif inspect.isawaitable(store):
        found = f"{type(store).__name__}, which was not awaited"
    else:
        missing = ", ".join(method for method in _METHODS if not hasattr(store, method))
        found = f"{type(store).__name__}, which has no {missing}"
    msg = f"store: expected an open store, an object with append_batch, query and last_seq, got {found}"
    raise TypeError(msg)


async def check_methods(store: EventStore) -> None:  # noqa: ASYNC910 - the checkpoint is the store's
    """Whether the log can append to ``store``.

    Raises:
      StoreUnusable: it is read-only.
      TypeError: a method of it is not async.
    """
    if getattr(store, "read_only", False) is True:
        msg = f"{store!r} is read-only, and a log writes to its store: open it without read_only=True"
        raise StoreUnusable(msg)
    for name, nothing in (("append_batch", ()), ("query", EventQuery(limit=0))):
        method: Any = getattr(store, name)
        is_plain = isinstance(method, FunctionType | MethodType) and not inspect.iscoroutinefunction(method)
        if is_plain:
            # It may hand on to one that is async: ask it for nothing.
            await awaitable(store, name, method(nothing))


def awaitable(store: object, method: str, returned: T) -> T:
    """``returned``, which a method of ``store`` returned and which must be awaited.

    Raises:
      TypeError: it cannot be.
    """
    if inspect.isawaitable(returned):
        return returned
    msg = (
        f"store: {method} of {type(store).__name__} returned {type(returned).__name__} and nothing to await;"
        f" append_batch, query and last_seq must be async: async def {method}(…)"
    )
    raise TypeError(msg)


def most_offered_to(store: object) -> int:
    """Returns the most events of one append."""
    check_store(store)
    max_batch: object = getattr(store, "max_batch", None)
    if max_batch is None:
        return _MOST_OFFERED
    return _check_count("max_batch of the store", max_batch, 1)


def log_id_of(store: object) -> str | None:
    """Returns what tells the log of ``store`` from all others; None if the store does not say."""
    log_id: object = getattr(store, "log_id", None)
    if log_id is not None and not isinstance(log_id, str):
        msg = f"log_id of the store: expected a str, got {type(log_id).__name__}"
        raise TypeError(msg)
    return log_id


def survives_of(store: object) -> str:
    """Returns what an acknowledged append of ``store`` survives: ``"process"`` or ``"power"``."""
    # Of one that does not say, such as one around another that hands nothing on, the least: copies too many
    # cost room, copies too few cost events.
    survives: object = getattr(store, "survives", "process")
    if not isinstance(survives, str):
        msg = f"survives of the store: expected a str, got {type(survives).__name__}"
        raise TypeError(msg)
    if survives not in {"process", "power"}:
        msg = f"survives of the store: expected 'process' or 'power', got {survives!r}"
        raise ValueError(msg)
    return survives


def sync_of(store: object) -> Callable[[], Awaitable[object]] | None:
    """Returns ``sync`` of a store whose appends do not survive a loss of power; None if it has none."""
    sync: object = getattr(store, "sync", None)
    if survives_of(store) == "power" or sync is None:
        return None
    if not callable(sync):
        msg = f"sync of the store: expected an async method, got {type(sync).__name__}"
        raise TypeError(msg)
    return cast("Callable[[], Awaitable[object]]", sync)
