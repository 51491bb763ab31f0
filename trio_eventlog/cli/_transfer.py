"""``trio-eventlog copy`` and ``export``: from one log to another, and to files of JSON lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
    to_json,
)
from trio_eventlog.cli._envelopes import MAX_LINE
from trio_eventlog.cli._options import USAGE_STATUS
from trio_eventlog.cli._pages import PAGE, Pruned, bounded, next_page, pruned_for
from trio_eventlog.cli._patience import patiently
from trio_eventlog.cli._progress import progress_bar
from trio_eventlog.cli._query import json_lines
from trio_eventlog.cli._signals import stopping_on_signals
from trio_eventlog.cli._terminal import (
    CommandError,
    complain,
    counted,
    error_console,
    output_console,
    write,
    write_summary,
)
from trio_eventlog.reading import iter_events

_LINE_START: Final = b'{"id":"'

_PAGE: Final = PAGE
"""Events of one append, too."""

_BYTES: Final = 16 * 1024 * 1024
"""Of one append, unless a single event has more; and of a page, as far as events are like those before."""

_PATIENCE_AT_END: Final = 10.0

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
    in_doubt: bool = False
    """Whether more may be there than is counted."""


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
    pruned = await pruned_for(source, start, console)
    error: StoreError | None = None
    async with stopping_on_signals("stopping; run the same command once more to go on", console) as stop:
        with stop.stoppable():
            async with progress_bar(
                console, max(last_seq - start, 1), lambda: (copied.seq - start, f"{copied.events:,} events")
            ):
                try:
                    await _copy(source, target, copied, most_shown, pruned)
                except StoreError as exc:
                    error = exc
        if stop.status:
            await _count_cut_off(target, copied)
        parts = [f"{'at least ' if copied.in_doubt else ''}{counted(copied.events, 'event')} copied"]
        if copied.elsewhere:
            parts.append(f"{copied.elsewhere:,} held under another seq already")
        if copied.rejected:
            parts.append(f"{copied.rejected:,} rejected")
        is_told = await write_summary(", ".join(parts) + f"; up to seq {copied.seq}")
    if error is not None:
        again = "" if isinstance(error, StoreUnusable) else "; run the same command once more to go on"
        complain(f"{error}{again}", console)
    all_is_well = is_told and error is None and not (copied.rejected or pruned.is_told)
    return stop.status or (0 if all_is_well else 1)


async def _count_cut_off(target: EventStore, copied: _Copied) -> None:  # noqa: ASYNC910 - asks the store
    """The append that was running when a signal came may have been made: its events are there, or not."""
    copied.in_doubt = True
    with trio.move_on_after(_PATIENCE_AT_END), suppress(StoreError):
        # A store answers this after the append.
        last_seq = await target.last_seq()
        if last_seq > copied.seq:
            copied.events += len(await target.query(EventQuery(after_seq=copied.seq)))
            copied.seq = last_seq
        copied.in_doubt = False


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
    source: EventStore, target: EventStore, copied: _Copied, most_shown: int, pruned: Pruned
) -> None:
    # As the log does: a store may say how much it takes at once.
    most: int = min(_PAGE, getattr(target, "max_batch", None) or _PAGE)
    events = iter_events(source, EventQuery(after_seq=copied.seq), page_size=most)
    while page := await patiently(
        partial(next_page, events, pruned),
        pruned.console,
        what="the store of --from",
        seconds=_PATIENCE,
    ):
        for batch in _batches(page):
            await _append(target, batch, copied, most_shown, pruned.console)


def _batches(page: Sequence[PersistedEvent]) -> Iterator[list[PersistedEvent]]:
    """What to append at once."""
    batch: list[PersistedEvent] = []
    size = 0
    for event in page:
        more = len(to_json(event))
        if batch and size + more > _BYTES:
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += more
    if batch:
        yield batch


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
    # Before there is a file: if the store cannot be read, there shall be none.
    last_seq = await store.last_seq()
    file: _OutputFile | None = None
    written = 0
    try:
        if output is not None:
            file = await trio.to_thread.run_sync(_OutputFile, output, resume)
            if file.last is not None:
                await _require_event(store, file.last, output)
                query = attrs.evolve(query, after_seq=max(file.last.seq, query.after_seq or 0))
            await trio.to_thread.run_sync(file.begin)
        start = seq = query.after_seq or 0
        pruned = await pruned_for(store, start, console)
        async with stopping_on_signals("stopping", console) as stop:
            with stop.stoppable():
                events = iter_events(store, bounded(query), page_size=_PAGE)
                async with progress_bar(
                    console, max(last_seq - start, 1), lambda: (seq - start, f"{written:,} events")
                ):
                    while page := await next_page(events, pruned):
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
    elif file is not None and not await write_summary(f"{counted(written, 'event')} written to {output}"):
        return 1
    return stop.status or (1 if pruned.is_told else 0)


async def _require_event(store: EventStore, last: PersistedEvent, output: str) -> None:
    """Before a file is gone on with.

    Raises:
      StoreError: the store failed.
      CommandError: its last event is not one of the log.
    """
    found = await store.query(EventQuery(after_seq=max(last.seq - 1, 0), limit=1))
    if found and found[0].seq == last.seq and found[0].id == last.id:
        return
    pruned_seq = getattr(store, "pruned_seq", None)
    if found and found[0].seq == last.seq:
        why = f"the log has event {found[0].id!a} there: it is another one, or was replaced"
    elif last.seq > (end := await store.last_seq()):
        why = f"the log ends with seq {end}: it is another one, or went back to an older state"
    elif pruned_seq is not None and last.seq <= await pruned_seq():
        why = "it was pruned from the log, and what came next perhaps with it"
    else:
        why = "the log has no event there: it is another one, or that event was pruned"
    msg = (
        f"--output: {output} ends with event {last.id!a}, seq {last.seq}, but {why}; nothing was written;"
        " export into another file"
    )
    raise CommandError(msg)


class _OutputFile:
    """A file of JSON lines, new or to be continued. Blocks, and belongs in a thread.

    Nothing in it is changed before :meth:`begin`.
    """

    def __init__(self, name: str, resume: bool) -> None:
        self._name = name
        self.last: PersistedEvent | None = None
        """Its last event, if it is continued and has one."""

        self._end = 0
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
                self.last = from_json(last, PersistedEvent)
            except CodecError as exc:
                msg = f"--output: {Path(self._name)} does not end in an event: {exc}"
                raise CommandError(msg) from exc
        self._end = start + len(complete)

    def begin(self) -> None:
        """Cut off what was being written when the process ended."""
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
        try:
            os.fsync(self._fd)
        except OSError:
            # Not every file can: a pipe, for example.
            pass
        finally:
            os.close(self._fd)
