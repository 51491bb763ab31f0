"""Values at the top level of a payload, as a query asks for them: which JSON values are equal, said once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Final

import msgspec

from trio_eventlog._model._checks import check_string, path_of, shown
from trio_eventlog._model._payload import find_flaw

_encode: Final = msgspec.json.Encoder(order="sorted").encode
"""Payloads are encoded alike, but for the order of keys."""

_SCALARS: Final = (type(None), bool, int, float, str)


def same_json(found: object, wanted: object) -> bool:
    """Whether two JSON values are the same.

    They are if they are of one type (1, 1.0 and true are three values) and equal: the same number (0.0 and
    -0.0 are two), the same characters, the same items in the same order, the same values under the same keys
    in any order. Nothing that is not JSON is the same as anything.
    """
    kind = type(wanted)
    if type(found) is not kind:
        return False
    if kind is dict:
        return _same_dicts(found, wanted)
    if kind is list:
        return _same_lists(found, wanted)
    if kind is float:
        return found == wanted and _sign(found) == _sign(wanted)
    return kind in _SCALARS and found == wanted


def _same_dicts(found: Any, wanted: Any) -> bool:
    return len(found) == len(wanted) and all(
        key in found and same_json(found[key], value) for key, value in wanted.items()
    )


def _same_lists(found: Any, wanted: Any) -> bool:
    return len(found) == len(wanted) and all(map(same_json, found, wanted))


def _sign(number: Any) -> float:
    return math.copysign(1.0, number)


class FieldValues(Mapping[str, Any]):
    """What some keys of a payload must hold. Immutable, and hashable.

    Equal to another one, and to any mapping, with the same keys and values by :func:`same_json`.

    Args:
      values: by key; JSON values.

    Raises:
      TypeError: it is not a mapping, a key is not a string, or a value is not of a JSON type; the message
        begins with ``fields``.
      ValueError: a value is not JSON, such as NaN or an integer beyond 64 bits, or a string has a lone
        surrogate.
    """

    __slots__ = ("_texts", "_values")

    def __init__(self, values: Mapping[str, object]) -> None:
        if not isinstance(values, Mapping):
            raise TypeError(f"fields: expected a mapping of keys to JSON values, got {shown(values)}")
        for key, value in values.items():
            _check(key, value)
        encoded = {key: _encode(value) for key, value in sorted(values.items())}
        self._texts = tuple((key, text.decode()) for key, text in encoded.items())
        # Not those that were given, which may change.
        self._values: dict[str, Any] = {key: msgspec.json.decode(text) for key, text in encoded.items()}

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Each key, and its value as compact JSON; the keys ascend, also those of objects within."""
        return self._texts

    def is_scalar(self, key: str) -> bool:
        """Whether the value of ``key`` is neither a list nor an object, and so has one text only."""
        return type(self._values[key]) in _SCALARS

    def are_in(self, payload: object) -> bool:
        """Whether ``payload`` is an object that has all of them."""
        return type(payload) is dict and all(
            key in payload and same_json(payload[key], value) for key, value in self._values.items()
        )

    def __getitem__(self, key: str) -> Any:
        return deepcopy(self._values[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FieldValues):
            return self._texts == other._texts
        return isinstance(other, Mapping) and self.are_in(dict(other)) and len(other) == len(self)

    def __hash__(self) -> int:
        return hash(self._texts)

    def __repr__(self) -> str:
        return repr(self._values)


def _check(key: object, value: object) -> None:
    if type(key) is not str:
        raise TypeError(f"fields: keys must be strings, got {shown(key)}")
    try:
        check_string(key)
    except ValueError as exc:
        raise ValueError(f"fields: a key has a {exc}") from None
    flaw = find_flaw(value, 1)
    if flaw is not None:
        reason, steps = flaw
        kind = ValueError if steps or type(value) in (*_SCALARS, list, dict) else TypeError
        raise kind(f"{path_of('fields', [key, *reversed(steps)])}: {reason}")


NO_FIELDS: Final = FieldValues({})
"""Nothing is asked for."""


def to_fields(values: Mapping[str, object] | None) -> FieldValues:
    """``values`` as a query keeps them; None for none."""
    if isinstance(values, FieldValues):
        return values
    return NO_FIELDS if values is None else FieldValues(values)
