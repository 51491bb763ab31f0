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
_POSTGRES_FORM: Final = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE?log=NAME&schema=NAME&notify=true"
_POSTGRES_OPTIONS: Final = ("log", "schema", "notify")
_SECRET: Final = re.compile(r"(//[^:@/?]*:).*@|(?<=password=)[^&\s]*", re.DOTALL)
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
    ``postgresql://HOST/DATABASE?log=NAME``     :meth:`PostgresStore.open`; also ``postgres://``. ``log``,
                                                ``schema`` and ``notify`` are its own, all other
                                                options libpq's
    =========================================== ==================================================

    Path and values are percent-decoded: write ``%3F``, ``%26`` and ``%25`` for ``?``, ``&`` and ``%``.
    Errors show no password.

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
            f"{_shown(url)!r} is no store URL; for a file write {'sqlite:' + _shown(url)!r}"
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
    elif scheme in ("postgresql", "postgres"):
        conninfo, settings = _postgres_parts(url)
        from trio_eventlog.stores._postgres import PostgresStore  # noqa: PLC0415 - who does not use it need not load it

        async with PostgresStore.open(conninfo, read_only=read_only, **settings) as postgres:
            yield postgres
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
        known = f"memory:, null:, {_SQLITE_FORM} and {_POSTGRES_FORM}"
        msg = f"unknown scheme {scheme!r} in {_shown(url)!r}; known are {known}"
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
    options: dict[str, str] = {}
    for item in option_text.split("&") if option_text else ():
        name, separator, value = item.partition("=")
        if name not in _SQLITE_OPTIONS:
            msg = f"unknown option {name!r} in {url!r}; write {_SQLITE_FORM}"
            raise ValueError(msg)
        if not separator:
            msg = f"option {name!r} in {url!r} has no value; write {_SQLITE_FORM}"
            raise ValueError(msg)
        if name in options:
            msg = f"option {name!r} appears twice in {url!r}"
            raise ValueError(msg)
        options[name] = _decoded(url, value)
    return _decoded(url, path), options


def _postgres_parts(url: str) -> tuple[str, dict[str, Any]]:
    """What is libpq's, and what is ours."""
    shown = _shown(url)
    base, mark, option_text = url.partition("?")
    theirs: list[str] = []
    options: dict[str, Any] = {}
    for item in option_text.split("&") if option_text else ():
        name, _, value = item.partition("=")
        if name not in _POSTGRES_OPTIONS:
            theirs.append(item)
            continue
        if not value:
            msg = f"option {name!r} in {shown!r} has no value; write {_POSTGRES_FORM}"
            raise ValueError(msg)
        if name in options:
            msg = f"option {name!r} appears twice in {shown!r}"
            raise ValueError(msg)
        options[name] = _decoded(shown, value)
    if "notify" in options:
        if options["notify"] not in ("true", "false"):
            msg = f"option 'notify' in {shown!r} is true or false, not {options['notify']!r}"
            raise ValueError(msg)
        options["notify"] = options["notify"] == "true"
    return base + (mark + "&".join(theirs) if theirs else ""), options


def _shown(url: str) -> str:
    """A URL for a message: without a password."""
    return _SECRET.sub(lambda found: f"{found[1]}***@" if found[1] else "***", url)


def _decoded(url: str, text: str) -> str:
    if _BAD_ESCAPE.search(text):
        msg = f"{text!r} in {url!r} has a % that starts no escape; write %25 for a plain one"
        raise ValueError(msg)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as exc:
        msg = f"{text!r} in {url!r} is not UTF-8 once its % escapes are decoded"
        raise ValueError(msg) from exc
