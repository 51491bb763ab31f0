"""The arguments of ``open_event_log``, checked. Floor 3, beside the log."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import attrs

from trio_eventlog._declared import check_count
from trio_eventlog._engine._policy import RetryPolicy
from trio_eventlog._model._events import UnifiedEvent
from trio_eventlog._model._reports import Report

T = TypeVar("T")

Filter: TypeAlias = Callable[[UnifiedEvent], bool]
OnFailure: TypeAlias = Callable[[Report], object]

DEFAULT_RETRY: Final = RetryPolicy()

DEFAULT_MAX_SPILL_BYTES: Final = 1024 * 1024 * 1024

DEFAULT_MAX_EVENT_BYTES: Final = 1024 * 1024

DEFAULT_MAX_PENDING_BYTES: Final = 64 * 1024 * 1024

_MIN_FLUSH_INTERVAL: Final = 0.001

_LEAST_SPILL_BYTES: Final = 4096


@attrs.frozen(kw_only=True)
class Settings:
    """The arguments of :func:`open_event_log`, checked."""

    filter: Filter | None
    batch_size: int
    flush_interval: float
    retry_buffer_cap: int
    max_pending_bytes: int
    max_event_bytes: int
    append_timeout: float
    grace_period: float
    retry: RetryPolicy
    on_failure: OnFailure | None
    spill: Path | None
    max_spill_bytes: int


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
    max_pending_bytes: int,
    max_event_bytes: int,
    append_timeout: float,
    grace_period: float,
    retry: RetryPolicy,
    on_failure: OnFailure | None,
    spill: str | os.PathLike[str] | None,
    max_spill_bytes: int,
) -> Settings:
    _check_callable("filter", filter)
    _check_callable("on_failure", on_failure)
    batch_size = max(check_count("batch_size", batch_size, 0), 1)
    check_count("retry_buffer_cap", retry_buffer_cap, 1)
    if batch_size > retry_buffer_cap:
        msg = f"batch_size: expected at most retry_buffer_cap ({retry_buffer_cap}) events, got {batch_size}"
        raise ValueError(msg)
    check_count("max_event_bytes", max_event_bytes, 1, "bytes")
    check_count("max_pending_bytes", max_pending_bytes, 1, "bytes")
    if max_event_bytes > max_pending_bytes:
        msg = (
            f"max_event_bytes: expected at most max_pending_bytes ({max_pending_bytes}), got"
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
        max_pending_bytes=max_pending_bytes,
        max_event_bytes=max_event_bytes,
        append_timeout=_check_seconds("append_timeout", append_timeout, zero=False, infinite=True),
        grace_period=_check_seconds("grace_period", grace_period),
        retry=retry,
        on_failure=on_failure,
        spill=_check_path("spill", spill),
        max_spill_bytes=check_count("max_spill_bytes", max_spill_bytes, _LEAST_SPILL_BYTES, "bytes"),
    )
