"""Payloads: checked and encoded once, then carried as JSON text.

Two walks check a payload. The fast one runs for every event and only says whether there is a flaw. The slow
one runs for a payload that has one, and finds the path and the reason for the error.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Final, cast

import msgspec

from trio_eventlog._model._base_errors import CodecError
from trio_eventlog._model._checks import check_string, path_of, shown
from trio_eventlog._model._events import MAX_U64, Scopes
from trio_eventlog._numbers import shown_integer
from trio_eventlog._speedups import core

MAX_DEPTH: Final = 200
"""Highest number of levels of lists and dicts in a payload."""

MIN_INT: Final = -(2**63)
"""The smallest integer in a payload; the largest is 2**64 - 1."""

SCOPES: Final = ("identity", "mob_id", "run_id", "step_id")
"""Payload keys whose string values put an event into a scope that a query can ask for."""

NO_SCOPES: Final[Scopes] = (None, None, None, None)
"""None stands for a key that is absent, or whose value is not a string."""

encode: Final = msgspec.json.Encoder().encode


def encode_payload(payload: object, prefix: str = "", max_bytes: int = sys.maxsize) -> bytes:
    """``payload`` as compact JSON; ``prefix`` goes before ``payload`` in the path of an error.

    A payload of more than ``max_bytes`` may be refused. It is refused before all of it is walked or encoded
    if its JSON would be far larger than its objects are: a list that holds another list twice, which holds
    another one twice, and so on. A smaller payload is never refused.

    Raises:
      CodecError: it holds something that would not come back as an equal value, or it is too large.
    """
    if core is not None:
        # None if there is something to look at more closely.
        encoded: bytes | None = core.encode(payload, max_bytes)
        if encoded is not None:
            return encoded
    return encode_in_python(payload, prefix, max_bytes)


def encode_in_python(payload: object, prefix: str = "", max_bytes: int = sys.maxsize) -> bytes:
    """The same without the core."""
    if payload is None:
        return b"null"
    try:
        # Most payloads are objects.
        if type(payload) is dict:
            _check_fast(payload, 1, max_bytes - len(payload), max_bytes - _FEW_BYTES)
        else:
            _check_fast((payload,), 0, max_bytes, max_bytes - _FEW_BYTES)
        return encode(payload)
    except _TooLarge:
        raise CodecError("event", too_large(max_bytes, "more than ")) from None
    except (_Flawed, UnicodeEncodeError):
        pass
    flaw = find_flaw(payload, 0)
    if flaw is None:  # pragma: no cover - only if another thread mended the payload meanwhile
        return encode(payload)
    reason, steps = flaw
    raise CodecError(path_of(f"{prefix}payload", reversed(steps)), reason)


def too_large(max_bytes: int, than: str = "", size: int | None = None) -> str:
    """The reason for refusing an event that has more than ``max_bytes`` bytes."""
    shown_size = max_bytes if size is None else size
    return f"the event has {than}{shown_size:,} bytes; max_event_bytes is {max_bytes:,}"


# --- the fast walk ----------------------------------------------------------------------------------


class _Flawed(Exception):
    """A payload would not come back from JSON as an equal value of the same types."""


class _TooLarge(Exception):
    """A payload has more bytes than allowed."""


_is_finite: Final = math.isfinite

_FEW_BYTES: Final = 512
"""Bytes of a payload, strings left aside, that can hold only so few keys that their lengths do not matter."""


def _check_fast(container: Any, depth: int, room: int, few: int) -> int:  # noqa: C901, PLR0912 - for speed
    """Check the items of a list or dict whose own bytes are already counted; what is left of ``room``.

    Lone surrogates are left to the encoder, which refuses them anyway. The bytes of numbers and short strings
    are counted as one each; those of keys are not counted while more than ``few`` bytes are left.
    """
    if room < 0:
        raise _TooLarge
    if depth > MAX_DEPTH:
        raise _Flawed
    if type(container) is dict:
        for key in container:
            if type(key) is not str:
                raise _Flawed
        if room < few:
            # Checked with the next list or dict: the keys of this one are in memory already.
            room -= sum(map(len, container))
        container = container.values()
    for value in container:
        kind = type(value)
        if kind is str:
            if len(value) > 64:  # noqa: PLR2004 - here and below: looking up a name each time would cost more
                room -= len(value)
                if room < 0:
                    raise _TooLarge
        elif kind is int:
            # MIN_INT and MAX_U64
            if not -0x8000000000000000 <= value <= 0xFFFFFFFFFFFFFFFF:  # noqa: PLR2004 - see above
                raise _Flawed
        elif value is None or kind is bool:
            pass
        elif kind is dict:
            # With its quotes, colon and comma, an item of a dict has at least five bytes,
            room = _check_fast(value, depth + 1, room - 5 * len(value), few)
        elif kind is list:
            # and one of a list at least two.
            room = _check_fast(value, depth + 1, room - 2 * len(value), few)
        elif not (kind is float and _is_finite(value)):
            raise _Flawed
    return room


# --- the slow walk ----------------------------------------------------------------------------------


def find_flaw(value: object, depth: int) -> tuple[str, list[str | int]] | None:
    """The first flaw in ``value``: the reason and the steps that lead there, last first."""
    kind = type(value)
    if kind is str:
        return _string_flaw(cast("str", value))
    if kind is int:
        number = cast("int", value)
        in_range = MIN_INT <= number <= MAX_U64
        return None if in_range else (f"{shown_integer(number)} is outside -2**63 to 2**64 - 1", [])
    if kind is float:
        return None if math.isfinite(cast("float", value)) else (f"{value} is not a JSON number", [])
    if kind is dict or kind is list:
        if depth == MAX_DEPTH:
            return f"nested more than {MAX_DEPTH} levels deep", []
        if kind is dict:
            return _find_flaw_in_dict(cast("dict[object, object]", value), depth + 1)
        for index, item in enumerate(cast("list[object]", value)):
            if flaw := find_flaw(item, depth + 1):
                flaw[1].append(index)
                return flaw
        return None
    if value is None or kind is bool:
        return None
    types = "None, bool, int, float, str, list or dict themselves, not subclasses"
    return f"{kind.__name__} is not a JSON type; use {types}", []


def _find_flaw_in_dict(value: dict[object, object], depth: int) -> tuple[str, list[str | int]] | None:
    for key in value:
        if type(key) is not str:
            return f"keys must be str, got {shown(key)}", []
    for key, item in cast("dict[str, object]", value).items():
        if flaw := _string_flaw(key) or find_flaw(item, depth):
            flaw[1].append(key)
            return flaw
    return None


def _string_flaw(value: str) -> tuple[str, list[str | int]] | None:
    try:
        check_string(value)
    except ValueError as exc:
        return str(exc), []
    return None


# --- scopes -----------------------------------------------------------------------------------------


def scopes_in(payload: Any) -> Scopes:
    """The scopes of a payload."""
    if type(payload) is not dict:
        return NO_SCOPES
    identity = payload.get("identity")
    mob_id = payload.get("mob_id")
    run_id = payload.get("run_id")
    step_id = payload.get("step_id")
    if identity is mob_id is run_id is step_id is None:
        return NO_SCOPES
    return (
        identity if type(identity) is str else None,
        mob_id if type(mob_id) is str else None,
        run_id if type(run_id) is str else None,
        step_id if type(step_id) is str else None,
    )


class _Found(msgspec.Struct):
    """The scope keys of a payload that is an object; the rest of it is skipped, not built."""

    identity: Any = None
    mob_id: Any = None
    run_id: Any = None
    step_id: Any = None


_decode_scopes: Final = msgspec.json.Decoder(_Found).decode


def scopes_of(encoded: bytes | str) -> Scopes:
    """The scopes of an encoded payload, read from the text."""
    if encoded[:1] not in (b"{", "{"):
        return NO_SCOPES
    found = _decode_scopes(encoded)
    values = (found.identity, found.mob_id, found.run_id, found.step_id)
    identity, mob_id, run_id, step_id = (value if type(value) is str else None for value in values)
    return identity, mob_id, run_id, step_id
