"""``trio-eventlog copy`` and ``export``: from one log to another, and to files of JSON lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio
from rich.console import Console

from trio_eventlog import (
    CodecError,
    EventQuery,
    EventRejected,
    EventStore,
    PersistedEvent,
    StoreError,
    StoreUnusable,
    from_json,
    iter_events,
    to_json,
)
from trio_eventlog.cli._envelopes import MAX_LINE
from trio_eventlog.cli._options import USAGE_STATUS
from trio_eventlog.cli._pages import PAGE, next_page
from trio_eventlog.cli._patience import patiently
from trio_eventlog.cli._progress import progress_bar
from trio_eventlog.cli._query import json_lines
from trio_eventlog.cli._signals import stopping_on_signals
from trio_eventlog.cli._terminal import CommandError, complain, counted, error_console, output_console, write

_LINE_START: Final = b'{"id":"'

_PAGE: Final = PAGE
"""Events of one append, too."""

_BYTES: Final = 16 * 1024 * 1024
"""Of one append, unless a single event has more; and of a page, as far as events are like those before."""

_PATIENCE: Final = 60.0
"""Seconds for which a copy goes on while a store fails: a cluster needs a few for a new leader."""


# --- copy -----------------------------------------------------------------------------------------


@attrs.define
class _Copied:
    seq: int
    """The last one that was dealt with."""

    events: int = 0
    elsewhere: int = 0
    rejected: int = 0


async def copy(source: EventStore, target: EventStore, *, most_shown: int) -> int:
    """Copy all events that come after the last one of ``target``, with their ids and seqs.

    Returns:
      The exit status.

    Raises:
      StoreError: one of the stores failed at the beginning.
      CommandError: ``target`` holds something else than a part of ``source``.
    """
    console = error_console()
    start = await target.last_seq()
    await _require_prefix(source, target, start)
    last_seq = await source.last_seq()
    copied = _Copied(start)
    error: StoreError | None = None
    async with stopping_on_signals("stopping; run the same command once more to go on", console) as stop:
        with stop.stoppable():
            async with progress_bar(
                console, max(last_seq - start, 1), lambda: (copied.seq - start, f"{copied.events:,} events")
            ):
                try:
                    await _copy(source, target, copied, most_shown, console)
                except StoreError as exc:
                    error = exc
        parts = [f"{counted(copied.events, 'event')} copied"]
        if copied.elsewhere:
            parts.append(f"{copied.elsewhere:,} held under another seq already")
        if copied.rejected:
            parts.append(f"{copied.rejected:,} rejected")
        await write(", ".join(parts) + f"; up to seq {copied.seq}\n")
    if error is not None:
        again = "" if isinstance(error, StoreUnusable) else "; run the same command once more to go on"
        complain(f"{error}{again}", console)
    return stop.status or (1 if error is not None or copied.rejected else 0)


async def _require_prefix(source: EventStore, target: EventStore, last_seq: int) -> None:
    if not last_seq:
        await trio.lowlevel.checkpoint()
        return
    at_end = EventQuery(after_seq=last_seq - 1, limit=1)
    ours, theirs = await source.query(at_end), await target.query(at_end)
    if await source.last_seq() < last_seq:
        msg = f"--to: its log goes up to seq {last_seq}, beyond that of --from; copy into an empty log"
        raise CommandError(msg)
    if not (ours and theirs and ours[0].seq == theirs[0].seq):
        # One of them was pruned. Going on could mix two logs, which nobody could part again.
        msg = (
            f"--to: its last event, seq {last_seq}, cannot be compared with that of --from: it is gone from"
            " one of them; copy into an empty log"
        )
        raise CommandError(msg)
    if ours[0].id != theirs[0].id:
        msg = (
            f"--to: its log is no part of that of --from: seq {last_seq} is event {theirs[0].id!a} there and"
            f" {ours[0].id!a} here; copy into an empty log"
        )
        raise CommandError(msg)


async def _copy(
    source: EventStore, target: EventStore, copied: _Copied, most_shown: int, console: Console
) -> None:
    # As the log does: a store may say how much it takes at once.
    most: int = min(_PAGE, getattr(target, "max_batch", None) or _PAGE)
    count = most
    while True:
        query = EventQuery(after_seq=copied.seq, limit=count)
        page = await patiently(
            partial(source.query, query), console, what="the store of --from", seconds=_PATIENCE
        )
        size = 0
        for batch, batch_size in _batches(page):
            await _append(target, batch, copied, most_shown, console)
            size += batch_size
        if len(page) < count:
            return
        count = min(most, max(_BYTES * len(page) // size, 1))


def _batches(page: Sequence[PersistedEvent]) -> Iterator[tuple[list[PersistedEvent], int]]:
    """What to append at once, and what it weighs."""
    batch: list[PersistedEvent] = []
    size = 0
    for event in page:
        more = len(to_json(event))
        if batch and size + more > _BYTES:
            yield batch, size
            batch, size = [], 0
        batch.append(event)
        size += more
    if batch:
        yield batch, size


async def _append(
    target: EventStore, page: Sequence[PersistedEvent], copied: _Copied, most_shown: int, console: Console
) -> None:
    batch = list(page)
    while batch:
        try:
            elsewhere = await patiently(
                partial(target.append_batch, batch), console, what="the store of --to", seconds=_PATIENCE
            )
        except EventRejected as exc:
            rejected = {event.seq for event in exc.events}
            rest = [event for event in batch if event.seq not in rejected]
            if len(rest) == len(batch):
                raise
            for event in batch:
                if event.seq in rejected:
                    copied.rejected += 1
                    if copied.rejected <= most_shown:
                        why = f"the store rejects event {event.id!a}: {exc.reason}"
                        complain(f"seq {event.seq}: {why}", console)
            batch = rest
        else:
            copied.events += len(batch) - len(elsewhere)
            copied.elsewhere += len(elsewhere)
            break
    copied.seq = page[-1].seq
    await trio.lowlevel.checkpoint()


# --- export ---------------------------------------------------------------------------------------


async def export(store: EventStore, query: EventQuery, *, output: str | None, resume: bool) -> int:
    """Write events as JSON lines, to a file or to standard output.

    Returns:
      The exit status.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: what is written to cannot be, or ``output`` is there already.
    """
    if resume and output is None:
        msg = "--resume goes on with a file: name it with --output"
        raise CommandError(msg, USAGE_STATUS)
    console = error_console()
    file: _OutputFile | None = None
    if output is not None:
        file = await trio.to_thread.run_sync(_OutputFile, output, resume)
        if file.last_seq is not None:
            query = attrs.evolve(query, after_seq=max(file.last_seq, query.after_seq or 0))
    written, seq = 0, query.after_seq or 0
    start, last_seq = seq, await store.last_seq()
    try:
        async with stopping_on_signals("stopping", console) as stop:
            with stop.stoppable():
                events = iter_events(store, query, page_size=_PAGE)
                async with progress_bar(
                    console, max(last_seq - start, 1), lambda: (seq - start, f"{written:,} events")
                ):
                    while page := await next_page(events):
                        if file is None:
                            await write(json_lines(page, output_console()))
                        else:
                            lines = b"".join(to_json(event) + b"\n" for event in page)
                            await trio.to_thread.run_sync(file.write, lines)
                        written, seq = written + len(page), page[-1].seq
    finally:
        if file is not None:
            file.close()
    if stop.status:
        # What a pipe has taken of the last page, nobody knows.
        where = "the last whole line that was written has the seq for --after-seq"
        complain(
            f"stopped; {where}" if file is None else f"stopped after seq {seq}; go on with --resume", console
        )
    elif file is not None:
        await write(f"{counted(written, 'event')} written to {output}\n")
    return stop.status


class _OutputFile:
    """A file of JSON lines, new or to be continued. Blocks, and belongs in a thread."""

    def __init__(self, name: str, resume: bool) -> None:
        self._name = name
        self.last_seq: int | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_EXCL)
        try:
            # Events are nobody else's business.
            self._fd = os.open(name, flags, 0o600)
        except FileExistsError:
            msg = f"--output: {name} is there already; --resume goes on with it"
            raise CommandError(msg) from None
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
        return CommandError(f"--output: {self._name}: {exc.strerror}")

    def _find_end(self) -> None:
        size = os.fstat(self._fd).st_size
        start = max(size - 2 * MAX_LINE, 0)
        tail = os.pread(self._fd, size - start, start)
        # What has no end of line was being written when the process ended.
        complete = tail[: tail.rfind(b"\n") + 1]
        cut_off = tail[len(complete) :]
        # It is thrown away: it has to be ours.
        if (start and not complete) or not _LINE_START.startswith(cut_off[: len(_LINE_START)]):
            msg = f"--output: {self._name} does not end in an event, nor in the beginning of one"
            raise CommandError(msg)
        if complete:
            last = complete[:-1].rpartition(b"\n")[2]
            try:
                self.last_seq = from_json(last, PersistedEvent).seq
            except CodecError as exc:
                msg = f"--output: {Path(self._name)} does not end in an event: {exc}"
                raise CommandError(msg) from exc
        os.ftruncate(self._fd, start + len(complete))
        os.lseek(self._fd, 0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as exc:
            raise self._error(exc) from exc

    def close(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError:
            # Not every file can: a pipe, for example.
            pass
        finally:
            os.close(self._fd)
