"""Whatever a record carries, as JSON of a bounded size, in a bounded time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice, takewhile
from types import MappingProxyType
from typing import Any, Final, TypeAlias

MAX_STRING: Final = 32 * 1024
_MAX_CHARACTERS: Final = 128 * 1024
"""Each can take seven bytes of JSON; an event has 1 MiB, if nothing else is said."""

MAX_SHORT_STRING: Final = 200

_MAX_DEPTH: Final = 8
_MAX_ITEMS: Final = 1000
_MAX_VALUES: Final = 4000
_MAX_SECONDS: Final = 1.0
"""After which no more objects of the program are asked what they look like."""

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1
_MAX_BITS: Final = 1024

_SHOW_THEIR_ITEMS: Final[tuple[type, ...]] = (
    *(list, tuple, set, frozenset, dict, deque, MappingProxyType),
    *(type({}.keys()), type({}.values()), type({}.items())),
)
"""The repr of these has that of all their items, even of one that is in them many times."""

_Container: TypeAlias = "list[Any] | dict[str, Any]"
_Waiting: TypeAlias = "deque[tuple[_Container, list[Any], int]]"


class _Brief:
    """Stands in a message for what is too large for one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class Plain:
    """Turns the values of one record into JSON, with bounds for all of them together.

    A record must never fail for what it carries, and never take longer than it has to: what JSON does not
    know becomes its ``repr``, what raises is named, and what is too much is left out.
    """

    def __init__(self) -> None:
        self._characters = _MAX_CHARACTERS
        self._values = _MAX_VALUES
        self._until = time.monotonic() + _MAX_SECONDS
        self.is_cut = False

    def text(self, value: object, show: Callable[[object], str] = str) -> str:
        """``value`` as a string, cut where it gets too long."""
        most = min(MAX_STRING, self._characters)
        # With nothing left, no object is asked.
        text = value if type(value) is str else self.shown(value, show) if most else "…"
        if len(text) > most:
            text = f"{text[:most]}…"
            self.is_cut = True
        self._characters -= min(len(text), self._characters)
        # JSON cannot carry a lone surrogate.
        return text if text.isascii() else text.encode(errors="backslashreplace").decode()

    def shown(self, value: object, show: Callable[[object], str]) -> str:
        """What an object of the program says of itself."""
        try:
            if not self._has_time():
                return "…"
            it: Any = value
            if issubclass(type(value), bytes | bytearray):
                it = it[:MAX_STRING]
            elif not all(map(self.is_small, it.args if issubclass(type(value), BaseException) else [it])):
                return self._too_large(value)
            return str.__str__(show(it))
        except Exception:  # noqa: BLE001 - whatever the object raises
            return cannot_be_shown(value)

    def _too_large(self, value: object) -> str:
        self.is_cut = True
        return f"<{_class_name(value)} that is too large to be shown>"

    def _has_time(self, _item: object = None) -> bool:
        if time.monotonic() <= self._until:
            return True
        self.is_cut = True
        return False

    def is_small(self, value: object, inside: tuple[int, ...] = ()) -> bool:
        """Whether the repr of ``value`` is short enough to be made.

        A list that holds another one twice, which does so too, and so on, is small and its repr is not.
        """
        kind = type(value)
        if issubclass(kind, int):
            return int.bit_length(value) <= _MAX_BITS  # type: ignore[arg-type] # it is one
        it: Any = value
        if issubclass(kind, str | bytes | bytearray):
            if inside:
                self._values -= len(it) // 100
                return self._values >= 0
            # A string by itself is cut.
            return issubclass(kind, str) or len(it) <= MAX_STRING
        # Where it is inside itself, it is shown as [...].
        if not issubclass(kind, _SHOW_THEIR_ITEMS) or id(value) in inside:
            return True
        if len(inside) == 2 * _MAX_DEPTH:
            return False
        for item in chain.from_iterable(it.items()) if issubclass(kind, dict | MappingProxyType) else it:
            self._values -= 1
            if self._values < 0 or not self.is_small(item, (*inside, id(value))):
                return False
        return True

    def brief(self, args: object) -> object:
        """The arguments of a message, without those whose repr would be too large."""
        if type(args) is tuple:
            return tuple(self._briefly(arg) for arg in args)
        if type(args) is dict:
            return {key: self._briefly(arg) for key, arg in args.items()}
        return args

    def _briefly(self, arg: object) -> object:
        return arg if self.is_small(arg) else _Brief(self._too_large(arg))

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
                # Two keys may look the same.
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
            elif depth < _MAX_DEPTH:
                if issubclass(kind, Mapping):
                    pairs = ((key, item) for key, item in it.items())
                    return self._opened({}, pairs, depth, waiting)
                if issubclass(kind, list | tuple | set | frozenset):
                    return self._opened([], it, depth, waiting)
        except Exception:  # noqa: BLE001 - as in shown()
            return self.text(cannot_be_shown(value))
        return self.text(value, repr)

    def _opened(self, shown: _Container, items: Iterable[Any], depth: int, waiting: _Waiting) -> Any:
        """``shown``, which gets its items when its turn comes."""
        most = min(_MAX_ITEMS, self._values)
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


def _class_name(value: object) -> str:
    # A metaclass may say what it likes, or raise.
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name[:MAX_SHORT_STRING]


def cannot_be_shown(value: object) -> str:
    """What is shown in place of an object that raises."""
    return f"<{_class_name(value)} that cannot be shown>"
