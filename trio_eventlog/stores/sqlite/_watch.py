"""Noticing that others have written to the file."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from trio_eventlog.stores.sqlite._reader import LogReader
from trio_eventlog.stores.sqlite._worker import SerialWorker

_SECONDS: Final = 0.05


@attrs.define(eq=False)
class Watch:
    """See :meth:`SqliteStore.watch_changes`."""

    _reader: SerialWorker
    _log_reader: LogReader
    _version: int | None

    async def wait(self) -> None:
        """Wait until another connection has written since this last returned. A checkpoint."""
        # SQLite does not notify of changes.
        while (version := await self._reader.run(self._log_reader.data_version)) == self._version is not None:  # noqa: ASYNC110 - as above
            await trio.sleep(_SECONDS)
        self._version = version
