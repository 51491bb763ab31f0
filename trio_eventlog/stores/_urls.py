"""URLs of stores: what they say, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

import attrs

_SQLITE_FORM: Final = "sqlite:PATH?log=NAME&synchronous=full"
_SQLITE_OPTIONS: Final = ("log", "synchronous")
_POSTGRES_FORM: Final = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE?log=NAME&schema=NAME&notify=true"
_POSTGRES_OPTIONS: Final = ("log", "schema", "notify")
_NATS_FORM: Final = "nats://HOST:4222,HOST2:4222/STREAM?log=NAME&replicas=3"
_NATS_OPTIONS: Final = (
    "log",
    "replicas",
    "max_age",
    "max_bytes",
    "lock_timeout",
    "sync_interval",
    "credentials",
)

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET: Final = re.compile(
    r"(?<=//).*(?=@)|[^\s'\"/]+:[^\s/]*(?=@)|(?:(?<=password=)|(?<=token=))(?:'(?:[^'\\]|\\.)*'|[^&\s]*)",
    re.DOTALL | re.IGNORECASE,
)
"""Whatever may be a password or a token; a user with it. Also where the ``//`` was forgotten."""


@attrs.frozen
class StoreURL:
    """What a URL says."""

    kind: str
    """``memory``, ``null``, ``sqlite``, ``postgresql`` or ``nats``."""

    place: str = attrs.field(repr=False)
    """What the store's ``open`` takes first: a path, a connection string, servers. May hold secrets."""

    options: dict[str, Any]
    """Further arguments of ``open``; ``log`` only if the URL has it."""

    shown: str
    """The URL for people to see: without secrets."""


def parse_url(url: str) -> StoreURL:
    """Read a URL.

    Raises:
      ValueError: it is malformed; the message names the part and shows the right form, and no secret.
      TypeError: it is no string.
    """
    if not isinstance(url, str):
        msg = f"url must be a str, got {type(url).__name__}"
        raise TypeError(msg)
    shown = without_secrets(url)
    found = _SCHEME.fullmatch(url)
    if found is None:
        msg = (
            f"{shown!r} is no store URL; for a file write {'sqlite:' + shown!r}"
            if url
            else "the store URL is empty"
        )
        raise ValueError(msg)
    scheme, rest = found.group(1).lower(), found.group(2)
    parser = _PARSERS.get(scheme)
    if parser is None:
        known = f"memory:, null:, {_SQLITE_FORM}, {_POSTGRES_FORM} and {_NATS_FORM}"
        msg = f"unknown scheme {scheme!r} in {shown!r}; known are {known}"
        raise ValueError(msg)
    return parser(scheme, rest, shown)


def without_secrets(url: str) -> str:
    """A store's URL for people to see: ``***`` for users, passwords and tokens. Any text will do."""
    # A file has no secrets, and may have an @ in its name.
    return url if url[:7].lower() == "sqlite:" else _SECRET.sub("***", url)


def _no_place(scheme: str, rest: str, shown: str) -> StoreURL:
    if rest:
        msg = f"{scheme}: takes neither a path nor options, got {shown!r}; write {scheme + ':'!r}"
        raise ValueError(msg)
    return StoreURL(scheme, "", {}, shown)


def _sqlite(_scheme: str, rest: str, shown: str) -> StoreURL:
    path, _, option_text = rest.partition("?")
    if path.startswith("//"):
        # An empty authority, as in file:///path; anything else there would be a host.
        if path != "//" and not path.startswith("///"):
            host = path[2:].partition("/")[0]
            msg = f"host {host!r} in {shown!r}: a file has none; write sqlite:PATH or sqlite:///ABSOLUTE/PATH"
            raise ValueError(msg)
        path = path[2:]
    if not path:
        msg = f"{shown!r} names no file; write {_SQLITE_FORM}"
        raise ValueError(msg)
    options, unknown = _options(shown, option_text, _SQLITE_OPTIONS, _SQLITE_FORM)
    _refuse(unknown, shown, _SQLITE_FORM)
    return StoreURL("sqlite", _decoded(shown, path), options, shown)


def _postgres(scheme: str, rest: str, shown: str) -> StoreURL:
    place, _, option_text = rest.partition("?")
    _refuse_slash_in_password(place, shown)
    options, theirs = _options(shown, option_text, _POSTGRES_OPTIONS, _POSTGRES_FORM)
    if "notify" in options:
        if options["notify"] not in ("true", "false"):
            msg = f"option 'notify' in {shown!r} is true or false, not {options['notify']!r}"
            raise ValueError(msg)
        options["notify"] = options["notify"] == "true"
    # The rest is libpq's to read and to refuse.
    base = f"{scheme}:{place}"
    return StoreURL("postgresql", "?".join((base, "&".join(theirs))) if theirs else base, options, shown)


def _nats(scheme: str, rest: str, shown: str) -> StoreURL:
    place, _, option_text = rest.partition("?")
    _refuse_slash_in_password(place, shown)
    hosts, _, stream = place.removeprefix("//").partition("/")
    if not place.startswith("//") or not hosts or not stream:
        what = "stream" if place.startswith("//") and hosts else "server"
        msg = f"{shown!r} names no {what}; write {_NATS_FORM}"
        raise ValueError(msg)
    options, unknown = _options(shown, option_text, _NATS_OPTIONS, _NATS_FORM)
    _refuse(unknown, shown, _NATS_FORM)
    for name, kind, what in _NATS_NUMBERS:
        if name in options:
            try:
                options[name] = kind(options[name])
            except ValueError:
                msg = f"option {name!r} in {shown!r}: expected {what}, got {options[name]!r:.50}"
                raise ValueError(msg) from None
    options["stream"] = _decoded(shown, stream)
    # All servers of a cluster are of one kind.
    return StoreURL("nats", ",".join(f"{scheme}://{host}" for host in hosts.split(",")), options, shown)


_NATS_NUMBERS: Final[tuple[tuple[str, Callable[[str], object], str], ...]] = (
    ("replicas", int, "an integer"),
    ("max_age", float, "seconds"),
    ("max_bytes", int, "an integer"),
    ("lock_timeout", float, "seconds"),
    ("sync_interval", float, "seconds"),
)

_PARSERS: Final[dict[str, Callable[[str, str, str], StoreURL]]] = {
    "memory": _no_place,
    "null": _no_place,
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "postgres": _postgres,
    "nats": _nats,
    "tls": _nats,
}


def _refuse_slash_in_password(place: str, shown: str) -> None:
    """A part of it would be taken for the host, and be shown."""
    if "@" in place.removeprefix("//").partition("/")[2]:
        msg = f"{shown!r}: write %2F for a slash in a password, and %40 for an @"
        raise ValueError(msg)


def _options(shown: str, text: str, known: tuple[str, ...], form: str) -> tuple[dict[str, Any], list[str]]:
    """The options that are known, decoded, and the others as they stand there."""
    options: dict[str, Any] = {}
    others: list[str] = []
    for item in text.split("&") if text else ():
        name, separator, value = item.partition("=")
        if name not in known:
            others.append(item)
            continue
        if not separator:
            msg = f"option {name!r} in {shown!r} has no value; write {form}"
            raise ValueError(msg)
        if name in options:
            msg = f"option {name!r} appears twice in {shown!r}"
            raise ValueError(msg)
        options[name] = _decoded(shown, value)
    return options, others


def _refuse(unknown: list[str], shown: str, form: str) -> None:
    if unknown:
        name = unknown[0].partition("=")[0]
        msg = f"unknown option {name!r} in {shown!r}; write {form}"
        raise ValueError(msg)


def _decoded(shown: str, text: str) -> str:
    if _BAD_ESCAPE.search(text):
        msg = f"{text!r} in {shown!r} has a % that starts no escape; write %25 for a plain one"
        raise ValueError(msg)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as exc:
        msg = f"{text!r} in {shown!r} is not UTF-8 once its % escapes are decoded"
        raise ValueError(msg) from exc
