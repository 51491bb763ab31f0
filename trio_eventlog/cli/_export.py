"""``trio-eventlog export``: events as JSON lines, to a file or to standard output."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console

from trio_eventlog import CodecError, EventQuery, PersistedEvent, from_json, to_json
from trio_eventlog.abc import EventStore, PrunedStore
from trio_eventlog.cli._envelopes import MAX_LINE
from trio_eventlog.cli._options import USAGE_STATUS, Filters, Flag, StoreUrl, opened_store
from trio_eventlog.cli._query import event_lines
from trio_eventlog.cli._reading import PAGE_SIZE, bounded, next_page, prune_reporter_for
from trio_eventlog.cli._running import progress_bar, stopping_on_signals
from trio_eventlog.cli._terminal import CommandError, complain, counted, error_console, write, write_summary
from trio_eventlog.reading import iter_events

EXAMPLES: Final = """
trio-eventlog export --store sqlite:events.db | gzip > events.jsonl.gz
trio-eventlog export --store sqlite:events.db --output events.jsonl --resume
trio-eventlog export --store sqlite:events.db --after-seq 5000 --run-id r-1
"""

_PAGE_SIZE: Final = PAGE_SIZE
_LINE_START: Final = b'{"id":"'


async def export(
    *,
    store: StoreUrl,
    filters: Filters = Filters(),  # noqa: B008 - immutable
    output: Annotated[str | None, Parameter(metavar="FILE")] = None,
    resume: Flag = False,
) -> int:
    """Write events as JSON lines.

    Args:
      store: The log.
      filters: Which events.
      output: Write to this new file, readable by its owner only, instead of standard output.
      resume: Continue at the end of the file, if its last event is in the log. A line that was cut off is
        written again.
    """
    query = filters.query()
    async with opened_store(store, read_only=True) as opened:
        return await export_events(opened, query, output=output, resume=resume)


async def export_events(store: EventStore, query: EventQuery, *, output: str | None, resume: bool) -> int:
    """Write events as JSON lines to a file or to standard output; return the exit status.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: the output cannot be written to, or ``output`` already exists.
    """
    if resume and output is None:
        raise CommandError("--resume continues a file: name it with --output", USAGE_STATUS)
    # Asked before a file is created: if the store cannot be read, there should be none.
    last_seq = await store.last_seq()
    if output is None:
        return await _Export(store, query, last_seq).run()
    file = await trio.to_thread.run_sync(_OutputFile, output, resume)
    try:
        if file.last is not None:
            await _require_event(store, file.last, output)
            query = attrs.evolve(query, after_seq=max(file.last.seq, query.after_seq or 0))
        await trio.to_thread.run_sync(file.begin)
        return await _Export(store, query, last_seq, file).run()
    finally:
        file.close()


async def _require_event(store: EventStore, last: PersistedEvent, output: str) -> None:
    """Make sure that a file can be continued.

    Raises:
      StoreError: the store failed.
      CommandError: the last event of the file is not in the log.
    """
    found = await store.query(EventQuery(after_seq=max(last.seq - 1, 0), limit=1))
    if found and found[0].seq == last.seq and found[0].id == last.id:
        return
    if found and found[0].seq == last.seq:
        why = f"the log has event {found[0].id!a} there: it is another log, or was replaced"
    elif last.seq > (end := await store.last_seq()):
        why = f"the log ends with seq {end}: it is another log, or went back to an older state"
    elif isinstance(store, PrunedStore) and last.seq <= await store.pruned_seq():
        why = "it was pruned from the log, and events after it may have been, too"
    else:
        why = "the log has no event there: it is another log, or that event was pruned"
    raise CommandError(
        f"--output: {output} ends with event {last.id!a}, seq {last.seq}, but {why}; nothing was written;"
        " export to another file"
    )


class _OutputFile:
    """A file of JSON lines, new or to be continued. Its methods block, so call them in a thread.

    Nothing in it changes before :meth:`begin`.
    """

    def __init__(self, name: str, resume: bool) -> None:
        self.name = name
        self.last: PersistedEvent | None = None
        """Its last event, if it is continued and has one."""

        self._end = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_EXCL)
        try:
            # Events may be confidential.
            self._fd = os.open(name, flags, 0o600)
        except FileExistsError:
            raise CommandError(f"--output: {name} already exists; --resume continues it") from None
        except OSError as exc:
            raise self._error(exc) from exc
        try:
            if resume:
                self._find_end()
        except OSError as exc:
            os.close(self._fd)
            raise self._error(exc) from exc
        except BaseException:
            os.close(self._fd)
            raise

    def _error(self, exc: OSError) -> CommandError:
        return CommandError(f"--output: {self.name}: {exc.strerror}")

    def _find_end(self) -> None:
        size = os.fstat(self._fd).st_size
        start = max(size - 2 * MAX_LINE, 0)
        tail = os.pread(self._fd, size - start, start)
        # A last line without a newline was being written when an earlier process ended.
        complete = tail[: tail.rfind(b"\n") + 1]
        cut_off = tail[len(complete) :]
        # It will be discarded, so make sure that we wrote it.
        if (start and not complete) or not _LINE_START.startswith(cut_off[: len(_LINE_START)]):
            raise CommandError(f"--output: {self.name} ends neither in an event nor in the beginning of one")
        if complete:
            last = complete[:-1].rpartition(b"\n")[2]
            try:
                self.last = from_json(last, PersistedEvent)
            except CodecError as exc:
                raise CommandError(f"--output: {self.name} does not end in an event: {exc}") from exc
        self._end = start + len(complete)

    def begin(self) -> None:
        """Discard a line that was cut off."""
        try:
            os.ftruncate(self._fd, self._end)
            os.lseek(self._fd, self._end, os.SEEK_SET)
        except OSError as exc:
            raise self._error(exc) from exc

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as exc:
            raise self._error(exc) from exc

    def close(self) -> None:
        # Not every file can be synced: a pipe, for example.
        with suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)


@attrs.define
class _Export:
    """An export that is running."""

    store: EventStore
    query: EventQuery
    last_seq: int
    file: _OutputFile | None = None
    console: Console = attrs.Factory(error_console)
    seq: int = 0
    """The last one that was written."""

    written: int = 0

    async def run(self) -> int:
        """Write all events and report; return the exit status."""
        start = self.seq = self.query.after_seq or 0
        pruned = await prune_reporter_for(self.store, start, self.console)
        events = iter_events(self.store, bounded(self.query), page_size=_PAGE_SIZE)
        async with stopping_on_signals("stopping", self.console) as stop:
            with stop.stoppable():
                async with progress_bar(
                    self.console,
                    max(self.last_seq - start, 1),
                    lambda: (self.seq - start, f"{self.written:,} events"),
                ):
                    while page := await next_page(events, pruned):
                        await self._write(page)
        if stop.status:
            self._report_stop()
        elif self.file is not None and not await write_summary(
            f"{counted(self.written, 'event')} written to {self.file.name}"
        ):
            return 1
        return stop.status or (1 if pruned.has_reported else 0)

    async def _write(self, page: list[PersistedEvent]) -> None:
        if self.file is None:
            await write(event_lines(page))
        else:
            lines = b"".join(to_json(event) + b"\n" for event in page)
            await trio.to_thread.run_sync(self.file.write, lines)
        self.written, self.seq = self.written + len(page), page[-1].seq

    def _report_stop(self) -> None:
        if self.file is None:
            # How much of the last page a pipe has taken is unknown.
            advice = "stopped; to continue, pass the seq of the last complete line as --after-seq"
        else:
            advice = f"stopped after seq {self.seq}; continue with --resume"
        complain(advice, self.console)
