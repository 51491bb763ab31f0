"""Ctrl-C while a reader is opened or closed leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests._helpers.interrupts import interrupt_in_contextlib
from trio_eventlog import open_event_log
from trio_eventlog.abc import ChangeWatch
from trio_eventlog.reading import tail
from trio_eventlog.stores import MemoryStore

METHODS = pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])


class Watched(MemoryStore):
    """Counts the watches that are open."""

    watches = 0

    @asynccontextmanager
    async def watch_changes(self) -> AsyncIterator[ChangeWatch]:
        self.watches += 1
        try:
            yield Never()
        finally:
            self.watches -= 1


class Never:
    """A watch that has nothing to say."""

    async def wait(self) -> None:
        await trio.sleep_forever()


@METHODS
def test_a_tail_leaves_no_watch_open(method: str) -> None:
    """The interrupt of contextlib's own frames arrives at a checkpoint instead."""
    store = Watched()
    watches = []

    async def main() -> None:
        try:
            with interrupt_in_contextlib(method):
                async with tail(store):
                    pass
            await trio.lowlevel.checkpoint()
        finally:
            # Before the garbage collector has a chance to tidy up.
            watches.append(store.watches)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert watches == [0]


@METHODS
def test_a_subscription_is_not_left_in_the_log(method: str) -> None:
    """It would make the log keep events in memory for nobody."""
    subscriptions = []

    async def main() -> None:
        async with open_event_log(MemoryStore()) as log:
            try:
                with interrupt_in_contextlib(method):
                    async with log.subscribe():
                        pass
                await trio.lowlevel.checkpoint()
            finally:
                subscriptions.append(len(log._core.feed._subscriptions))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert subscriptions == [0]
