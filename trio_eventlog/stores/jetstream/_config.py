"""The configuration of a stream: what a new one gets, and what an existing one has to be like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._numbers import check_integer, check_number
from trio_eventlog.stores.jetstream._head import SCHEMA_VERSION
from trio_eventlog.stores.jetstream._subjects import root

MIN_PAYLOAD: Final = 128 * 1024
"""Bytes. An event of 64 KiB with its headers must fit into a message."""

_MAX_REPLICAS: Final = 5

_MAX_AGE: Final = 9e9
"""Seconds. Servers count them in nanoseconds, in 64 bits."""

_NEEDED: Final[Mapping[str, Any]] = {
    "retention": "limits",
    "max_msgs_per_subject": 1,
    "allow_atomic": True,
    "allow_msg_ttl": True,
    "allow_direct": True,
    "deny_delete": False,
    "deny_purge": False,
}

_NEEDED_TO_READ: Final = ("allow_direct",)

_FOR_MAINTENANCE: Final = ("deny_delete", "deny_purge")
"""What cannot be taken back, and what appending does without."""


def stream_config(stream: str, replicas: int, max_age: float | None, max_bytes: int | None) -> dict[str, Any]:
    """The configuration of a new stream.

    Raises:
      TypeError: a number is of another type.
      ValueError: a number is out of range.
    """
    check_integer("replicas", replicas, 1, _MAX_REPLICAS)
    if max_age is not None:
        check_number("max_age", max_age, minimum=1, maximum=_MAX_AGE, unit="seconds")
    if max_bytes is not None:
        check_integer("max_bytes", max_bytes, 1, MAX_STORED)
    return {
        "name": stream,
        "description": "event logs of trio-eventlog",
        "subjects": [f"{root(stream)}.>"],
        "storage": "file",
        "num_replicas": replicas,
        "max_age": 0 if max_age is None else int(max_age * 1e9),
        "max_bytes": -1 if max_bytes is None else max_bytes,
        # A full stream refuses, rather than forget what nothing allows it to.
        "discard": "new",
        "metadata": {"trio_eventlog": str(SCHEMA_VERSION)},
        **_NEEDED,
    }


def check_stream(stream: str, config: Mapping[str, Any], *, writes: bool) -> None:
    """Check the configuration of a stream that is to be opened.

    Raises:
      StoreUnusable: it was made for something else, has a newer layout, or lacks what is needed.
    """
    version = (config.get("metadata") or {}).get("trio_eventlog", str(SCHEMA_VERSION))
    if version != str(SCHEMA_VERSION):
        raise StoreUnusable(
            f"stream {stream} has layout {version!r:.20}, known is {SCHEMA_VERSION}; update trio-eventlog"
        )
    if config.get("subjects") != [f"{root(stream)}.>"]:
        raise StoreUnusable(
            f"stream {stream} is none of ours: its subjects are {config.get('subjects')!r:.200},"
            f" expected ['{root(stream)}.>']; name another stream"
        )
    wrong = _wrong(config, _NEEDED if writes else _NEEDED_TO_READ)
    if writes:
        wrong += _harmful(config)
        if config.get("sealed"):
            wrong.append("it is sealed")
    if wrong:
        raise StoreUnusable(
            f"stream {stream} cannot hold logs: {'; '.join(wrong)}; change that, or name another stream"
        )


def misfit(stream: str, config: Mapping[str, Any]) -> str | None:
    """What was changed in a stream, open for appending, so that it cannot be relied on any more.

    It can be changed back. None if there is nothing.
    """
    wrong = _wrong(config, [name for name in _NEEDED if name not in _FOR_MAINTENANCE]) + _harmful(config)
    if config.get("subjects") != [f"{root(stream)}.>"]:
        wrong.append(f"subjects is {config.get('subjects')!r:.200}, not ['{root(stream)}.>']")
    return "; ".join(wrong) or None


def _wrong(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [
        f"{name} is {config.get(name, False)!r}, not {_NEEDED[name]!r}"
        for name in names
        if config.get(name, False) != _NEEDED[name]
    ]


def _harmful(config: Mapping[str, Any]) -> list[str]:
    """Settings with which the server would lose, hide or invent events, or forget which seqs there were."""
    harmful = [
        f"{name} is {config[name]!r:.100}, which must not be set"
        for name in ("no_ack", "discard_new_per_subject", "subject_transform", "sources", "mirror")
        if config.get(name)
    ]
    if config.get("subject_delete_marker_ttl"):
        harmful.append("subject_delete_marker_ttl is set, and its markers would stand in the place of events")
    if config.get("storage", "file") != "file":
        harmful.append(f"storage is {config['storage']!r}, not 'file'")
    if config.get("persist_mode") == "async":
        harmful.append("persist_mode is 'async', with which the server answers before it has written")
    limits = [name for name in ("max_msgs", "max_bytes") if config.get(name, -1) > 0]
    if config.get("discard", "old") == "old" and limits:
        harmful.append(
            f"discard is 'old' with {' and '.join(limits)}: a full stream would forget which seqs there were;"
            " set it to 'new'"
        )
    if 0 < config.get("max_msg_size", -1) < MIN_PAYLOAD:
        harmful.append(f"max_msg_size is {config['max_msg_size']}; set it to {MIN_PAYLOAD} or more, or to -1")
    return harmful
