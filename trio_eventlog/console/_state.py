"""What all requests of a console share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import attrs
import trio

from trio_eventlog.console._errors import ApiError, busy, not_found
from trio_eventlog.console._guard import Sessions
from trio_eventlog.console._limits import ConsoleLimits
from trio_eventlog.console._parameters import shown
from trio_eventlog.console._sampler import Sampler
from trio_eventlog.console._source import Source
from trio_eventlog.console._task_tree import TaskTree

_AT_THE_STORE: Final = 2
"""Requests that are with the store at a time: it has one thread for reading, and must not have a queue."""


@attrs.define(eq=False, kw_only=True)
class Console:
    """What a console shows, and how much of it is in use."""

    sources: Mapping[str, Source]
    """The logs, by name."""

    limits: ConsoleLimits
    sessions: Sessions
    allowed_hosts: frozenset[str]

    sampler: Sampler | None = None
    """Of the live log, if there is one and something runs it."""

    tasks: TaskTree | None = None
    """The tasks of the program, if they are to be shown."""

    waiting: int = 0
    """Requests that wait for the store, or are with it."""

    streams: int = 0
    """Streams that are open."""

    _turns: trio.Semaphore = attrs.Factory(lambda: trio.Semaphore(_AT_THE_STORE))

    def source(self, name: str | None) -> Source:
        """The log that a request asks for.

        Raises:
          ApiError: there is none of that name, or none at all.
        """
        if name is None:
            source = next(iter(self.sources.values()), None)
            if source is None:
                raise not_found("this console shows no log")
            return source
        if name not in self.sources:
            raise not_found(f"log: there is no log {shown(name)}", field="log")
        return self.sources[name]

    @asynccontextmanager
    async def at_the_store(self) -> AsyncIterator[None]:
        """Wait for a turn to ask the store, for the length of the block. Bounded in number and time.

        Raises:
          ApiError: too many wait.
          trio.TooSlowError: the block, with the wait for it, took too long.
        """
        if self.waiting >= self.limits.requests:
            raise busy("too many requests wait for the store")
        self.waiting += 1
        try:
            with trio.fail_after(self.limits.request_timeout):
                async with self._turns:
                    yield
        finally:
            self.waiting -= 1

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Count the block as a stream.

        Raises:
          ApiError: there are too many.
        """
        if self.streams >= self.limits.streams:
            raise busy(f"there are {self.streams} streams already")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


def no_live_log() -> ApiError:
    """The error for what only the program of a live log can answer."""
    return ApiError(501, "not_supported", "this console is not part of a program with a log of its own")
