"""Stores by URL: for command lines and settings."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import unquote

import trio

from trio_eventlog.abc import EventStore
from trio_eventlog.stores._memory import MemoryStore
from trio_eventlog.stores._null import NullStore

_SQLITE_FORM: Final = "sqlite:PATH?log=NAME&synchronous=full"
_SQLITE_OPTIONS: Final = ("log", "synchronous")
_NATS_FORM: Final = "nats://HOST:4222,HOST2:4222/STREAM?log=NAME&replicas=3"
_NATS_OPTIONS: Final = ("log", "replicas", "max_age", "lock_timeout", "credentials")
_USERS: Final = re.compile(r"//.*@", re.DOTALL)
"""Whatever may be a password, with all before it."""
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@asynccontextmanager
async def open_store(url: str, *, read_only: bool = False) -> AsyncIterator[EventStore]:
    """Open the store that ``url`` names, for the length of an ``async with`` block.

    =========================================== ==================================================
    ``memory:``                                 a new :class:`MemoryStore`
    ``null:``                                   a :class:`NullStore`
    ``sqlite:PATH?log=NAME&synchronous=normal`` :meth:`SqliteStore.open`; both options may be left
                                                out. ``sqlite:///abs/path`` is ``/abs/path``
    ``nats://HOST:4222,HOST2/STREAM?log=NAME``  :meth:`JetStreamStore.open`; further options are
                                                ``replicas``, ``max_age``, ``lock_timeout`` and
                                                ``credentials``. ``nats://USER:PASSWORD@HOST`` or
                                                ``nats://TOKEN@HOST`` say who asks, ``tls://``
                                                insists on TLS
    =========================================== ==================================================

    Path and values are percent-decoded: write ``%3F``, ``%26`` and ``%25`` for ``?``, ``&`` and ``%``. Users
    and passwords, too: ``%40`` for ``@``, ``%2C`` for ``,``. They appear in no message.

    Entering is a checkpoint; cancellation and errors beyond those below are those of the store.

    Args:
      url: which store.
      read_only: open it for reading only. Meaningless for ``memory:`` and ``null:``, and refused.

    Raises:
      ValueError: the URL is malformed; the message names the part and shows the right form.
      TypeError: ``url`` is no string.
      StoreUnusable: the store cannot be opened, :class:`LogBusy` included.
      StoreError: it cannot be opened now.
    """
    if not isinstance(url, str):
        msg = f"url must be a str, got {type(url).__name__}"
        raise TypeError(msg)
    found = _SCHEME.fullmatch(url)
    if found is None:
        msg = (
            f"{url!r} is no store URL; for a file write {'sqlite:' + url!r}"
            if url
            else "the store URL is empty"
        )
        raise ValueError(msg)
    scheme, rest = found.group(1).lower(), found.group(2)
    if scheme == "sqlite":
        path, options = _sqlite_parts(url, rest)
        from trio_eventlog.stores._sqlite import SqliteStore  # noqa: PLC0415 - loads the driver

        async with SqliteStore.open(path, read_only=read_only, **options) as store:
            yield store
    elif scheme in ("nats", "tls"):
        servers, stream, nats_options = _nats_parts(_USERS.sub("//", url), f"{scheme}:", rest)
        from trio_eventlog.stores._jetstream import JetStreamStore  # noqa: PLC0415 - few have a server

        async with JetStreamStore.open(
            servers, stream=stream, read_only=read_only, **nats_options
        ) as jetstream_store:
            yield jetstream_store
    elif scheme in ("memory", "null"):
        if rest:
            msg = (
                f"{scheme}: takes neither a path nor options, got {rest!r} in {url!r}; write {scheme + ':'!r}"
            )
            raise ValueError(msg)
        if read_only:
            msg = f"{scheme}: starts empty, so that opening it read-only would show nothing, ever"
            raise ValueError(msg)
        await trio.lowlevel.checkpoint()
        yield MemoryStore() if scheme == "memory" else NullStore()
    else:
        shown = _USERS.sub("//", url)
        known = f"memory:, null:, {_SQLITE_FORM} and {_NATS_FORM}"
        msg = f"unknown scheme {scheme!r} in {shown!r}; known are {known}"
        raise ValueError(msg)


def _sqlite_parts(url: str, rest: str) -> tuple[str, dict[str, str]]:
    path, _, option_text = rest.partition("?")
    if path.startswith("//"):
        # An empty authority, as in file:///path; anything else there would be a host.
        if path != "//" and not path.startswith("///"):
            host = path[2:].partition("/")[0]
            msg = f"host {host!r} in {url!r}: a file has none; write sqlite:PATH or sqlite:///ABSOLUTE/PATH"
            raise ValueError(msg)
        path = path[2:]
    if not path:
        msg = f"{url!r} names no file; write {_SQLITE_FORM}"
        raise ValueError(msg)
    return _decoded(url, path), _options(url, option_text, _SQLITE_OPTIONS, _SQLITE_FORM)


def _nats_parts(url: str, scheme: str, rest: str) -> tuple[str, str, dict[str, Any]]:
    """Servers, stream and options; ``url`` is for messages, and names no users."""
    place, _, option_text = rest.partition("?")
    if not place.startswith("//"):
        msg = f"{url!r} names no server; write {_NATS_FORM}"
        raise ValueError(msg)
    hosts, _, stream = place.removeprefix("//").partition("/")
    if not hosts or not stream:
        msg = f"{url!r} names no {'stream' if hosts else 'server'}; write {_NATS_FORM}"
        raise ValueError(msg)
    options: dict[str, Any] = dict(_options(url, option_text, _NATS_OPTIONS, _NATS_FORM))
    for name, kind, what in (
        ("replicas", int, "an integer"),
        ("max_age", float, "seconds"),
        ("lock_timeout", float, "seconds"),
    ):
        if name in options:
            try:
                options[name] = kind(options[name])
            except ValueError:
                msg = f"option {name!r} in {url!r}: expected {what}, got {options[name]!r:.50}"
                raise ValueError(msg) from None
    # All servers of a cluster are of one kind.
    servers = ",".join(f"{scheme}//{host}" for host in hosts.split(","))
    return servers, _decoded(url, stream), options


def _options(url: str, text: str, known: tuple[str, ...], form: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in text.split("&") if text else ():
        name, separator, value = item.partition("=")
        if name not in known:
            msg = f"unknown option {name!r} in {url!r}; write {form}"
            raise ValueError(msg)
        if not separator:
            msg = f"option {name!r} in {url!r} has no value; write {form}"
            raise ValueError(msg)
        if name in options:
            msg = f"option {name!r} appears twice in {url!r}"
            raise ValueError(msg)
        options[name] = _decoded(url, value)
    return options


def _decoded(url: str, text: str) -> str:
    if _BAD_ESCAPE.search(text):
        msg = f"{text!r} in {url!r} has a % that starts no escape; write %25 for a plain one"
        raise ValueError(msg)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as exc:
        msg = f"{text!r} in {url!r} is not UTF-8 once its % escapes are decoded"
        raise ValueError(msg) from exc
