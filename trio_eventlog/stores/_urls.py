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
_NAMES: Final = "(?:password|passwd|pass|pwd|token|secret)"
_SECRETS: Final = (
    # In a URL, up to the next option: an & that should have been %26 is a part of it.
    re.compile(rf"(?<=[?&])[\w.-]*{_NAMES}=([^&]*(?:&(?![\w.-]*=)[^&]*)*)", re.IGNORECASE),
    # As libpq's keywords.
    re.compile(rf"{_NAMES}\s*=\s*('(?:[^'\\]|\\.)*'|[^&\s]*)", re.DOTALL | re.IGNORECASE),
)
_WORD: Final = re.compile(r"\S+")


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
    """Read a URL. The message of a ValueError names the part, shows the right form, and no secret."""
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, got {type(url).__name__}")
    shown = without_secrets(url)
    found = _SCHEME.fullmatch(url)
    if found is None:
        raise ValueError(
            f"{shown!r} is no store URL; for a file write {'sqlite:' + shown!r}"
            if url
            else "the store URL is empty"
        )
    scheme, rest = found.group(1).lower(), found.group(2)
    parser = _PARSERS.get(scheme)
    if parser is None:
        known = f"memory:, null:, {_SQLITE_FORM}, {_POSTGRES_FORM} and {_NATS_FORM}"
        raise ValueError(f"unknown scheme {scheme!r} in {shown!r}; known are {known}")
    return parser(scheme, rest, shown)


def without_secrets(url: str) -> str:
    """A store's URL for people to see: ``***`` for users, passwords and tokens. Any text will do."""
    # A file has no secrets, and may have an @ in its name.
    if url[:7].lower() == "sqlite:":
        return url
    found = [match.span(1) for pattern in _SECRETS for match in pattern.finditer(url)]
    found += _users(url)
    parts: list[str] = []
    end = 0
    for start, stop in sorted(found):
        if start >= end:
            parts += [url[end:start], "***" if stop > start else ""]
        end = max(end, stop)
    return "".join(parts) + url[end:]


def _users(text: str) -> list[tuple[int, int]]:
    """Where there may be users, and passwords with signs in them that should have been escaped.

    Looks at each sign a few times only: a list of servers may be long.
    """
    end = text.rfind("@")
    if end < 0:
        return []
    found: list[tuple[int, int]] = []
    if _SCHEME.match(text):
        found.append((_after_slashes(text, end), end))
    elif (slashes := text.find("//", 0, end)) >= 0:
        found.append((slashes + 2, end))
    for word in _WORD.finditer(text):
        # Also where the // was forgotten.
        user, at, _ = word[0].rpartition("@")
        if at and ":" in user:
            found.append((word.start() + _after_slashes(word[0], len(user)), word.start() + len(user)))
    return found


def _after_slashes(text: str, end: int) -> int:
    scheme, slashes, _ = text[:end].partition("://")
    return len(scheme) + 3 if slashes and ":" not in scheme else 0


def _no_place(scheme: str, rest: str, shown: str) -> StoreURL:
    if rest:
        raise ValueError(f"{scheme}: takes neither a path nor options, got {shown!r}; write {scheme + ':'!r}")
    return StoreURL(scheme, "", {}, shown)


def _sqlite(_scheme: str, rest: str, shown: str) -> StoreURL:
    path, _, option_text = rest.partition("?")
    if path.startswith("//"):
        # An empty authority, as in file:///path; anything else there would be a host.
        if path != "//" and not path.startswith("///"):
            host = path[2:].partition("/")[0]
            raise ValueError(
                f"host {host!r} in {shown!r}: a file has none; write sqlite:PATH or sqlite:///ABSOLUTE/PATH"
            )
        if path.startswith("///") and len(path) > 3 and "/" not in path[3:]:  # noqa: PLR2004 - the slashes
            # As other libraries write a file in the current directory.
            name = path[3:]
            raise ValueError(
                f"{shown!r} would be /{name}; write sqlite:{name} for a file in the current directory, or"
                f" sqlite:/{name}"
            )
        path = path[2:]
    if not path:
        raise ValueError(f"{shown!r} names no file; write {_SQLITE_FORM}")
    options, unknown = _options(shown, option_text, _SQLITE_OPTIONS, _SQLITE_FORM)
    _refuse(unknown, shown, _SQLITE_FORM)
    return StoreURL("sqlite", _decoded(shown, path), options, shown)


def _postgres(scheme: str, rest: str, shown: str) -> StoreURL:
    place, _, option_text = rest.partition("?")
    _refuse_plain_signs(place, option_text, shown)
    options, theirs = _options(shown, option_text, _POSTGRES_OPTIONS, _POSTGRES_FORM)
    if "notify" in options:
        if options["notify"] not in ("true", "false"):
            raise ValueError(f"option 'notify' in {shown!r} is true or false, not {options['notify']!r}")
        options["notify"] = options["notify"] == "true"
    _refuse_cut_off(theirs, shown)
    # The rest is libpq's to read and to refuse.
    base = f"{scheme}:{place}"
    return StoreURL("postgresql", "?".join((base, "&".join(theirs))) if theirs else base, options, shown)


def _nats(scheme: str, rest: str, shown: str) -> StoreURL:
    place, _, option_text = rest.partition("?")
    _refuse_plain_signs(place, option_text, shown)
    hosts, _, stream = place.removeprefix("//").partition("/")
    if not place.startswith("//") or not hosts or not stream:
        what = "stream" if place.startswith("//") and hosts else "server"
        raise ValueError(f"{shown!r} names no {what}; write {_NATS_FORM}")
    options, unknown = _options(shown, option_text, _NATS_OPTIONS, _NATS_FORM)
    _refuse_cut_off(unknown, shown)
    _refuse(unknown, shown, _NATS_FORM)
    for name, kind, what in _NATS_NUMBERS:
        if name in options:
            try:
                options[name] = kind(options[name])
            except ValueError:
                raise ValueError(
                    f"option {name!r} in {shown!r}: expected {what}, got {options[name]!r:.50}"
                ) from None
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


def _refuse_plain_signs(place: str, option_text: str, shown: str) -> None:
    """A part of a password would be taken for a host, a port or an option, and be shown."""
    servers, _, path = place.removeprefix("//").partition("/")
    # In a list, each server may have a user.
    has_two = any(server.count("@") > 1 for server in servers.split(","))
    if has_two or "@" in path or "@" in option_text.partition("=")[0]:
        raise ValueError(f"{shown!r}: write %2F for a slash in a password, %40 for an @, %3F for a ?")
    ports = (server.rpartition("@")[2].rpartition("]")[2].partition(":")[2] for server in servers.split(","))
    if any(port and not (port.isascii() and port.isdecimal()) for port in ports):
        raise ValueError(
            f"{shown!r}: a port is a number; write %3F, %2F, %2C for ?, /, and a comma in a password"
        )


def _refuse_cut_off(options: list[str], shown: str) -> None:
    # It may be the rest of a secret.
    if any("=" not in option for option in options):
        raise ValueError(f"{shown!r}: an option has no value; write %26 for an & in a password")


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
            raise ValueError(f"option {name!r} in {shown!r} has no value; write {form}")
        if name in options:
            raise ValueError(f"option {name!r} appears twice in {shown!r}")
        options[name] = _decoded(shown, value)
    return options, others


def _refuse(unknown: list[str], shown: str, form: str) -> None:
    if unknown:
        name = unknown[0].partition("=")[0]
        raise ValueError(f"unknown option {name!r} in {shown!r}; write {form}")


def _decoded(shown: str, text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise ValueError(f"{text!r} in {shown!r} has a % that starts no escape; write %25 for a plain one")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{text!r} in {shown!r} is not UTF-8 once its % escapes are decoded") from exc
