"""Stores by URL: for command lines and settings."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Final

import trio

from trio_eventlog._ki import ki_protected
from trio_eventlog._util import adopt
from trio_eventlog.abc import EventStore
from trio_eventlog.stores._urls import parse_url
from trio_eventlog.stores.memory import MemoryStore
from trio_eventlog.stores.null import NullStore

_READER_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "sqlite": (),
    "postgresql": ("schema",),
    "nats": ("stream", "credentials"),
}
"""The options that matter for reading. The others say how to write, and have no effect there."""

_CLASSES: Final = {"sqlite": "SqliteStore", "postgresql": "PostgresStore", "nats": "JetStreamStore"}

LAZY: Final = {
    "JetStreamStore": "trio_eventlog.stores.jetstream._store",
    "PostgresStore": "trio_eventlog.stores.postgres._store",
    "SqliteStore": "trio_eventlog.stores.sqlite._store",
}
"""Classes with their modules, which load a database driver: only a program that uses one waits for that."""


def load(name: str) -> Any:
    """A class of :data:`LAZY`."""
    found = getattr(import_module(LAZY[name]), name)
    adopt("trio_eventlog.stores", found)
    return found


@ki_protected
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
    ``nats://HOST:4222,HOST2/STREAM?log=NAME``  :meth:`JetStreamStore.open`; further options are
                                                ``replicas``, ``max_age``, ``max_bytes``,
                                                ``lock_timeout``, ``sync_interval`` and
                                                ``credentials``. ``nats://USER:PASSWORD@HOST`` or
                                                ``nats://TOKEN@HOST`` say who is asking, ``tls://``
                                                insists on TLS
    =========================================== ==================================================

    Path, values, users and passwords are percent-decoded: write ``%3F``, ``%26``, ``%25``, ``%40`` and
    ``%2C`` for ``?``, ``&``, ``%``, ``@`` and ``,``. No message shows a password.

    Entering is a checkpoint; cancellation and errors beyond those below are those of the store.

    Args:
      url: which store.
      read_only: open it for reading only. Refused for ``memory:`` and ``null:``, where it makes no sense.

    Raises:
      ValueError: the URL is malformed; the message names the part and shows the right form.
      TypeError: ``url`` is not a string.
      StoreUnusable: the store cannot be opened, :class:`LogBusy` and :class:`LogNotFound` included.
      StoreError: it cannot be opened now.
    """
    parsed = parse_url(url)
    if not isinstance(read_only, bool):
        raise TypeError(f"read_only: expected a bool, got {type(read_only).__name__}")
    if parsed.kind in ("memory", "null"):
        if read_only:
            raise ValueError(
                f"{parsed.kind}: starts empty, so that opening it read-only would never show anything"
            )
        await trio.lowlevel.checkpoint()
        yield MemoryStore() if parsed.kind == "memory" else NullStore()
    else:
        async with load(_CLASSES[parsed.kind]).open(
            parsed.place, read_only=read_only, **parsed.options
        ) as store:
            yield store


async def restore_backup(
    source: str | os.PathLike[str],
    url: str,
    *,
    replace: bool = False,
    on_progress: Callable[[int, int], object] | None = None,
) -> int:
    """Restore a SQLite file with all of its logs from a backup, as :meth:`SqliteStore.backup` makes them.

    The backup is copied, the copy verified, and an epoch begun in each of its logs (:func:`begin_epoch`), so
    that no seq is given out a second time. Only then does the copy get its name: whoever kills this at any
    moment leaves the file as it was before, or the whole new one. The backup itself is not changed. A
    checkpoint; cancelled, nothing has changed, or all is done.

    Args:
      source: the backup, or any other file of logs that no program writes.
      url: where to, as for :func:`open_store`; ``sqlite:PATH``.
      replace: if there is a file already, replace it. No program may have it open.
      on_progress: called with the pages copied so far, and how many there are.

    Returns:
      The number of events in all logs, without those that begin the epochs.

    Raises:
      TypeError, ValueError: an argument is not as described; or the URL is not of a SQLite file, or names one
        log of it.
      LogBusy: ``replace``, and a program has one of the logs open for writing.
      StoreUnusable: there is a file already, or the one to replace is damaged, of another program, or the
        backup itself; or there is no backup, or it has no log, or problems.
      StoreError: a file cannot be read or written now; or a reader has the one to replace open.
    """
    parsed = parse_url(url)
    if parsed.kind != "sqlite":
        raise ValueError(f"{parsed.shown!r}: only SQLite files are restored like this; write sqlite:PATH")
    if "log" in parsed.options:
        raise ValueError(f"{parsed.shown!r} names one log, and a file is restored with all; leave out log=")
    module = import_module("trio_eventlog.stores.sqlite._restore")
    restored: int = await module.restore(source, parsed.place, replace=replace, on_progress=on_progress)
    return restored


@ki_protected
@asynccontextmanager
async def open_readers(
    url: str, *, logs: Iterable[str] | None = None
) -> AsyncIterator[Mapping[str, EventStore]]:
    """Open logs of one file, database or stream for reading, for the length of an ``async with`` block.

    However many they are, they share their connections. For
    :func:`trio_eventlog.reading.merge_events`, for example.

    Entering is a checkpoint; cancellation and errors beyond those below are those of the store.

    Args:
      url: where, as for :func:`open_store` but without ``log``; options that say how to write have no effect.
      logs: their names; by default all that are there now.

    Yields:
      The stores by the names of their logs, read-only.

    Raises:
      ValueError: the URL is malformed, names one log, or is ``memory:`` or ``null:``, which have one.
      TypeError: ``url`` is not a string, or ``logs`` is one.
      StoreUnusable: the file, database or stream cannot be opened.
      StoreError: it cannot be opened now.
    """
    parsed = parse_url(url)
    if parsed.kind in ("memory", "null"):
        raise ValueError(f"{parsed.kind}: has one log, which starts empty: there is nothing to read")
    if "log" in parsed.options:
        raise ValueError(f"{parsed.shown!r} names one log; leave out log=")
    options = {name: value for name, value in parsed.options.items() if name in _READER_OPTIONS[parsed.kind]}
    async with load(_CLASSES[parsed.kind]).open_readers(parsed.place, logs=logs, **options) as readers:
        yield readers
