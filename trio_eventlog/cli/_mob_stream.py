"""Streams of mob events as an input of ``trio-eventlog ingest``."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Final

from trio_eventlog import CodecError, EventLogError, StaleCursor
from trio_eventlog.cli._serve import TOKEN_VARIABLE
from trio_eventlog.cli._tally import Tally
from trio_eventlog.cli._terminal import CommandError, complain
from trio_eventlog.mobkit import MobEvent, MobStreamError, follow_mob_events
from trio_eventlog.stores import without_secrets

_SCHEMES: Final = ("http://", "https://")


def is_stream(name: str) -> bool:
    """Whether an input is a stream rather than a file."""
    return name.startswith(_SCHEMES)


async def follow_stream(
    url: str, tally: Tally, take: Callable[[list[MobEvent | str]], Awaitable[object]]
) -> None:
    """Hand the events of a stream over until this is cancelled, or the stream ends for good.

    Args:
      url: of the stream.
      tally: takes in what goes wrong.
      take: takes events, and what is wrong with those that are malformed.

    Raises:
      CommandError: the URL is malformed, or a package is missing.
    """
    has_complained = False

    def failed(error: Exception) -> None:
        nonlocal has_complained
        if not has_complained:
            has_complained = True
            complain(f"the stream failed; connecting again: {error}", tally.console)

    token = os.environ.get(TOKEN_VARIABLE) or None
    try:
        # From the first event there is: those that the log has are not stored again.
        start = None if "after_seq=" in url else 0
        async with follow_mob_events(url, after_seq=start, token=token, on_failure=failed) as events:
            while True:
                try:
                    page: list[MobEvent | str] = [*await events.next_page()]
                except CodecError as exc:
                    page = [str(exc)]
                has_complained = False
                await take(page)
    except (StaleCursor, MobStreamError) as exc:
        tally.cannot_read(without_secrets(url), str(exc))
    except (TypeError, ValueError, ModuleNotFoundError) as exc:
        if isinstance(exc, EventLogError):
            raise
        raise CommandError(str(exc)) from exc
