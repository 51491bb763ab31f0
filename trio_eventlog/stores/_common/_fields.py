"""Keys of payloads, as stores look them up and index them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

from trio_eventlog._model._checks import check_string, shown

MAX_KEY_BYTES: Final = 128
"""Of a key that is indexed."""

_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\x7f]')


def is_plain(key: str) -> bool:
    """Whether a key is written in JSON as it is, between quotes. What databases make of others differs."""
    return key != "" and not _ESCAPED.search(key)


def quoted(key: str) -> str:
    """A plain key as JSON."""
    return json.dumps(key, ensure_ascii=False)


def checked_index(index: Iterable[str]) -> tuple[str, ...]:
    """Check the argument ``index`` of ``open``: payload keys, which are returned once each.

    Raises:
      TypeError: it is a single string, or they are not strings.
      ValueError: a key is empty, too long, or has a quote, a backslash or a control character.
    """
    if isinstance(index, str | bytes) or not isinstance(index, Iterable):
        raise TypeError(f"index: expected keys of payloads, got {shown(index)}")
    keys = tuple(dict.fromkeys(index))
    for key in keys:
        try:
            check_string(key)
        except (TypeError, ValueError) as exc:
            raise type(exc)(f"index: {exc}") from None
        if not is_plain(key):
            raise ValueError(
                "index: a key with a quote, a backslash or a control character, or an empty one, cannot be"
                f" indexed, got {key!a:.100}"
            )
        if len(key.encode()) > MAX_KEY_BYTES:
            raise ValueError(f"index: a key has up to {MAX_KEY_BYTES} bytes, got {len(key.encode())}")
    return keys
