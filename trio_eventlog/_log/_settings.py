"""The arguments of ``open_event_log``, checked. Floor 4."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from trio_eventlog._engine._policy import RetryPolicy
from trio_eventlog._model._events import UnifiedEvent
from trio_eventlog._model._reports import Report
from trio_eventlog._numbers import check_integer, check_number

Filter: TypeAlias = Callable[[UnifiedEvent], bool]
Transform: TypeAlias = Callable[[UnifiedEvent], UnifiedEvent | None]
OnFailure: TypeAlias = Callable[[Report], object]

DEFAULT_RETRY: Final = RetryPolicy()

DEFAULT_MAX_SPILL_BYTES: Final = 1024 * 1024 * 1024

DEFAULT_MAX_EVENT_BYTES: Final = 1024 * 1024

DEFAULT_MAX_PENDING_BYTES: Final = 64 * 1024 * 1024

_MIN_FLUSH_INTERVAL: Final = 0.001

_MIN_SPILL_BYTES: Final = 4096

_Validator: TypeAlias = "Callable[[Settings, attrs.Attribute[Any], Any], None]"


def _seconds(name: str, value: Any, *, above: bool = False, infinite: bool = False) -> float:
    return check_number(name, value, above=above, infinite=infinite, unit="seconds")


def _batch_size(value: Any) -> int:
    return max(check_integer("batch_size", value, 0, unit="events"), 1)


def _flush_interval(value: Any) -> float:
    return _seconds("flush_interval", value) or _MIN_FLUSH_INTERVAL


def _append_timeout(value: Any) -> float:
    return _seconds("append_timeout", value, above=True, infinite=True)


def _grace_period(value: Any) -> float:
    return _seconds("grace_period", value)


def _spill_path(value: Any) -> Path | None:
    if value is None:
        return None
    path: object = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"spill: expected the path of a file as str or PathLike, got {type(value).__name__}")
    if not path or "\0" in path:
        raise ValueError(f"spill: expected the path of a file, got {path!r}")
    return Path(path)


def _count(minimum: int, unit: str = "events") -> _Validator:
    def validate(_settings: Settings, field: attrs.Attribute[Any], value: Any) -> None:
        check_integer(field.name, value, minimum, unit=unit)

    return validate


def _plain_function(_settings: Settings, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    if not callable(value):
        raise TypeError(f"{field.name}: expected a function or None, got {type(value).__name__}")
    # An object can have a method __call__ that is async.
    for function in (value, type(value).__call__):
        if inspect.iscoroutinefunction(function):
            found = "an async one, which is never awaited"
        elif inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            found = "a generator, which is never run"
        else:
            continue
        raise TypeError(f"{field.name}: expected a plain function, got {found}")


def _retry_policy(_settings: Settings, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, RetryPolicy):
        raise TypeError(f"{field.name}: expected a RetryPolicy, got {type(value).__name__}")


@attrs.frozen(kw_only=True)
class Settings:
    """The arguments of :func:`open_event_log`, checked.

    Raises:
      TypeError: an argument is of the wrong type.
      ValueError: an argument is out of range.
    """

    filter: Filter | None = attrs.field(validator=_plain_function)
    transform: Transform | None = attrs.field(validator=_plain_function)
    on_failure: OnFailure | None = attrs.field(validator=_plain_function)
    batch_size: int = attrs.field(converter=_batch_size)
    retry_buffer_cap: int = attrs.field(validator=_count(1))
    max_event_bytes: int = attrs.field(validator=_count(1, "bytes"))
    max_pending_bytes: int = attrs.field(validator=_count(1, "bytes"))
    retry: RetryPolicy = attrs.field(validator=_retry_policy)
    flush_interval: float = attrs.field(converter=_flush_interval)
    append_timeout: float = attrs.field(converter=_append_timeout)
    grace_period: float = attrs.field(converter=_grace_period)
    spill: Path | None = attrs.field(converter=_spill_path)
    max_spill_bytes: int = attrs.field(validator=_count(_MIN_SPILL_BYTES, "bytes"))

    def __attrs_post_init__(self) -> None:
        _require_at_most(self, "batch_size", "retry_buffer_cap", " events")
        _require_at_most(self, "max_event_bytes", "max_pending_bytes")


def _require_at_most(settings: Settings, name: str, bound_name: str, unit: str = "") -> None:
    value, bound = getattr(settings, name), getattr(settings, bound_name)
    if value > bound:
        raise ValueError(f"{name}: expected at most {bound_name} ({bound}){unit}, got {value}")
