"""Ready transforms that keep secrets out of a log.

For ``open_event_log(…, transform=…)`` and ``capture_logging(…, transform=…)``. They are pure: they
make copies of what they mask, and the event that they are given does not change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from trio_eventlog import AgentEvent, Transform, UnifiedEvent

__all__ = ["mask_keys", "mask_text"]


def __dir__() -> list[str]:
    # What is imported for the module's own use is not offered by completion.
    return __all__


_MASK: Final = "***"

_MAX_DEPTH: Final = 200
"""Levels of lists and dicts that a payload may have. A log refuses one with more."""


def mask_keys(*names: str, mask: str = _MASK) -> Transform:
    """Make a transform that masks what a payload has under some keys.

    ::

        transform = mask_keys("password", "authorization", "api_key")

    A key counts at any depth, also in the dicts of a list, and whatever its case. The whole value is replaced
    by ``mask``: a list or a dict does not even show its length. The rest of the event stays as it is. Text
    that holds a secret among other words is for :func:`mask_text`.

    Args:
      names: the keys, at least one.
      mask: what stands in the place of a value.

    Raises:
      TypeError: a name or the mask is not a string.
      ValueError: there is no name.
    """
    for name in names:
        _require_string("names", name)
    if not names:
        raise ValueError("names: expected at least one key")
    _require_string("mask", mask)
    secret = frozenset(name.casefold() for name in names)

    def mask_dict(found: dict[Any, Any], walk: Callable[[Any], Any]) -> Iterable[tuple[Any, Any]]:
        for key, value in found.items():
            is_secret = type(key) is str and key.casefold() in secret
            yield key, mask if is_secret else walk(value)

    def transform(event: UnifiedEvent) -> UnifiedEvent:
        return _with_payload(event, _Walk(mask_dict).value(event.payload))

    return transform


def mask_text(pattern: str | re.Pattern[str], *, mask: str = _MASK) -> Transform:
    r"""Make a transform that masks what a pattern matches in the text of an event.

    ::

        transform = mask_text(r"[\w.+-]+@[\w-]+\.[\w.]+")  # addresses of mail

    It looks at every string: at any depth of the payload, in its keys, and at the agent or module and the
    type. Each match is replaced by ``mask``. Of keys that are the same then, all but one get a number.
    Numbers are not text, and the id of an envelope is not part of the event.

    Args:
      pattern: a regular expression, as text or compiled.
      mask: what stands in the place of a match, taken literally.

    Raises:
      TypeError: ``pattern`` is neither a string nor a compiled pattern of strings, or the mask is not a
        string.
      ValueError: ``pattern`` is not a regular expression, or matches the empty text.
    """
    compiled = _compiled(pattern)
    _require_string("mask", mask)

    def masked(text: str) -> str:
        # A match can be empty where it stands between others, as that of \b is.
        return compiled.sub(lambda match: mask if match[0] else "", text)

    def mask_dict(found: dict[Any, Any], walk: Callable[[Any], Any]) -> Iterable[tuple[Any, Any]]:
        names = {key: masked(key) for key in found if type(key) is str}
        taken = {name for key, name in names.items() if name == key}
        for key, value in found.items():
            name: Any = names.get(key, key)
            if name != key:
                name = _free_name(name, taken)
                taken.add(name)
            yield name, walk(value)

    def masked_field(value: str) -> str:
        # What is not text is refused by the log, which names the field.
        return masked(value) if type(value) is str else value

    def transform(event: UnifiedEvent) -> UnifiedEvent:
        found = _with_payload(event, _Walk(mask_dict, masked).value(event.payload))
        event_type = masked_field(found.event_type)
        if isinstance(found, AgentEvent):
            actor, masked_actor = found.agent_id, masked_field(found.agent_id)
        else:
            actor, masked_actor = found.module, masked_field(found.module)
        if masked_actor == actor and event_type == found.event_type:
            return found
        if isinstance(found, AgentEvent):
            return attrs.evolve(found, agent_id=masked_actor, event_type=event_type)
        return attrs.evolve(found, module=masked_actor, event_type=event_type)

    return transform


def _compiled(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    if not isinstance(pattern, str | re.Pattern) or isinstance(getattr(pattern, "pattern", ""), bytes):
        raise TypeError(f"pattern: expected a regular expression for str, got {type(pattern).__name__}")
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"pattern: expected a regular expression, got {pattern!r}: {exc}") from exc
    if compiled.search(""):
        raise ValueError(f"pattern: expected one that needs some text to match, got {compiled.pattern!r}")
    return compiled


def _free_name(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free


def _with_payload(event: UnifiedEvent, payload: Any) -> UnifiedEvent:
    """``event`` with another payload; itself if that is its own."""
    return event if payload is event.payload else attrs.evolve(event, payload=payload)


def _require_string(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {type(value).__name__}")


class _Walk:
    """Walks a payload, and copies of it what changes.

    What is not JSON stays as it is: the log refuses it, and names it. A list that is in the payload many
    times is walked once, or a small payload could take forever.

    Args:
      mask_dict: the new items of a dict, given the dict and how to walk a value.
      mask_string: the new text of a string.
    """

    def __init__(
        self,
        mask_dict: Callable[[dict[Any, Any], Callable[[Any], Any]], Iterable[tuple[Any, Any]]],
        mask_string: Callable[[str], str] | None = None,
    ) -> None:
        self._mask_dict = mask_dict
        self._mask_string = mask_string
        self._done: dict[int, Any] = {}
        self._depth = 0

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return value if self._mask_string is None else self._mask_string(value)
        if kind is not dict and kind is not list:
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        # In a payload that holds itself there is no end. This deep, the log refuses all of it.
        if self._depth > _MAX_DEPTH:
            return value
        self._depth += 1
        copy: Any
        if kind is dict:
            copy = dict(self._mask_dict(value, self.value))
            is_same = len(copy) == len(value) and all(
                key is old_key and item is old
                for (key, item), (old_key, old) in zip(copy.items(), value.items(), strict=True)
            )
        else:
            copy = [self.value(item) for item in value]
            is_same = all(item is old for item, old in zip(copy, value, strict=True))
        self._depth -= 1
        self._done[id(value)] = result = value if is_same else copy
        return result
