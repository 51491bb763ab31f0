"""Going on when a store has failed for a reason that may pass."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio
from rich.console import Console

from trio_eventlog import EventRejected, RetryPolicy, StoreError, StoreUnusable
from trio_eventlog.cli._terminal import complain

T = TypeVar("T")

_RETRY: Final = RetryPolicy(initial=0.1, maximum=2.0)

_LONG: Final = 30.0
"""Seconds after which what fails had begun well: no store takes so long to say that it cannot be reached."""


async def patiently(
    function: Callable[[], Awaitable[T]],
    console: Console,
    *,
    what: str = "the store",
    seconds: float = math.inf,
) -> T:
    """What ``function`` returns, called again while it raises errors that may pass.

    Of the first of them the user hears, and so of the first after a time without. A checkpoint if
    ``function`` is one.

    Args:
      function: asks a store for something that can be asked for twice.
      console: where the user hears of it.
      what: that has failed.
      seconds: after which the next error is final.

    Raises:
      StoreError: it has failed for so long, or for good.
    """
    failures = 0
    give_up_at = math.inf
    while True:
        began_at = trio.current_time()
        try:
            return await function()
        except (StoreUnusable, EventRejected):
            raise
        except StoreError as exc:
            now = trio.current_time()
            failures = 1 if now - began_at > _LONG else failures + 1
            if failures == 1:
                complain(f"{what} failed, and is tried again: {exc}", console)
                give_up_at = now + seconds
            elif now >= give_up_at:
                raise
        await trio.sleep(_RETRY.delay(failures))
