"""What a console may use of the program that it is part of."""

from __future__ import annotations

import math

import attrs


def _check_count(_limits: ConsoleLimits, field: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field.name}: expected an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{field.name}: expected 1 or more, got {value}")


def _check_seconds(_limits: ConsoleLimits, field: attrs.Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{field.name}: expected a number of seconds, got {type(value).__name__}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{field.name}: expected a finite number of seconds above 0, got {value}")


@attrs.frozen(kw_only=True)
class ConsoleLimits:
    """What a console may use of the program that it is part of.

    Attributes:
      connections: most connections at once. The next one is answered with 503. Each takes a file descriptor
        of the program.
      streams: most streams of events at once. The next one is answered with 503.
      requests: most requests that wait for the store at once; the next one is answered with 503. Two of them
        are with the store at a time.
      request_timeout: seconds that a request may take of the store.
      header_timeout: seconds within which a client must send a request once it has connected, and after the
        request before.
      slow_client: seconds that a client may leave part of a stream unread before it is told to connect again.
      write_timeout: seconds that a client may read nothing before it is disconnected.
      keep_alive: seconds between two comments in a stream without events.

    Raises:
      TypeError: a value is not a number.
      ValueError: a value is too small, or not finite.
    """

    connections: int = attrs.field(default=128, validator=_check_count)
    streams: int = attrs.field(default=64, validator=_check_count)
    requests: int = attrs.field(default=32, validator=_check_count)
    request_timeout: float = attrs.field(default=30.0, validator=_check_seconds)
    header_timeout: float = attrs.field(default=10.0, validator=_check_seconds)
    slow_client: float = attrs.field(default=5.0, validator=_check_seconds)
    write_timeout: float = attrs.field(default=15.0, validator=_check_seconds)
    keep_alive: float = attrs.field(default=15.0, validator=_check_seconds)
