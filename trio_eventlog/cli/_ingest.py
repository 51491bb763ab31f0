"""``trio-eventlog ingest``: store events from files of envelopes."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Final

import trio
from cyclopts import Parameter

from trio_eventlog import (
    CodecError,
    EventEnvelope,
    EventLog,
    EventsLost,
    LogState,
    StoreError,
    open_event_log,
)
from trio_eventlog.abc import EventStore
from trio_eventlog.cli._envelopes import MAX_LINE, STDIN, EnvelopeFile, Line
from trio_eventlog.cli._mob_stream import follow_stream, is_stream
from trio_eventlog.cli._options import USAGE_STATUS, Count, StoreUrl, opened_store
from trio_eventlog.cli._repeats import Repeats
from trio_eventlog.cli._running import progress_bar, stopping_on_signals
from trio_eventlog.cli._tally import Place, Tally
from trio_eventlog.cli._terminal import (
    PROGRAM,
    CommandError,
    complain,
    error_console,
    is_terminal,
    write_summary,
)
from trio_eventlog.mobkit import MobEvent
from trio_eventlog.retention import ArchiveError, segments_of
from trio_eventlog.stores import without_secrets

EXAMPLES: Final = """
trio-eventlog ingest events.jsonl.gz --store sqlite:events.db
zcat logs/*.gz | trio-eventlog ingest --store 'sqlite:events.db?log=import'
trio-eventlog ingest http://localhost:8080/mobkit/mob_events/stream --store sqlite:events.db
"""

_BATCH_SIZE: Final = 1024
_MAX_PENDING: Final = 4096

_MAX_PENDING_BYTES: Final = 32 * 2**20
"""Bytes of lines after which the log is flushed."""

_GRACE_PERIOD: Final = 30.0


def _refuse_option(_type: object, name: str) -> None:
    if name.startswith("-") and name != STDIN:
        raise CommandError(
            f"unknown option {name} (see {PROGRAM} ingest --help); for a file of this name write ./{name}",
            USAGE_STATUS,
        )


async def ingest(
    # A single hyphen is a file here; the validator catches everything else that begins with one.
    *files: Annotated[str, Parameter(metavar="FILE", allow_leading_hyphen=True, validator=_refuse_option)],
    store: StoreUrl,
    show_rejected: Count = 20,
) -> int:
    """Store events from files of JSON lines, plain or compressed with gzip or Zstandard.

    Each line is an envelope, or a message of a stream of MobKit. Lines that are not are reported and skipped.
    A URL is such a stream itself, and is followed until Ctrl-C. Events whose `event_id` the log
    already holds are not stored again, so repeat the command to continue after an interruption. Ctrl-C,
    SIGTERM and SIGHUP stop reading and store what has been read.

    Args:
      files: Files to read, in this order, or archives, which are directories; `-`, or no file, for standard
        input. URLs of streams come last.
      store: The log.
      show_rejected: Number of rejected lines to show; all are counted.
    """
    names = await trio.to_thread.run_sync(_files_of, files or (STDIN,))
    async with opened_store(store) as opened:
        return await ingest_files(opened, names, max_shown=show_rejected)


def _files_of(names: Sequence[str]) -> list[str]:
    """The files to read: those of an archive for its directory."""
    found: list[str] = []
    for name in names:
        try:
            segments = segments_of(name) if name != STDIN and os.path.isdir(name) else []  # noqa: PTH112 - str all along
        except ArchiveError as exc:
            raise CommandError(str(exc)) from exc
        except OSError as exc:
            raise CommandError(f"{name}: {exc.strerror}") from exc
        # Of any other directory, opening it says what it is.
        found += [str(segment.path_in(name)) for segment in segments] or [name]
    return found


async def ingest_files(store: EventStore, names: Sequence[str], *, max_shown: int) -> int:
    """Store the envelopes of files; return the exit status.

    Args:
      store: the store of the log.
      names: paths of files, ``-`` for standard input.
      max_shown: how many of the lines that are rejected or lost to show.

    Raises:
      StoreError: the store could not tell where its log ends.
    """
    console = error_console()
    tally = Tally(max_shown, console)
    log: EventLog | None = None
    error: StoreError | None = None
    async with stopping_on_signals(
        f"stopping once everything read so far is stored, within {_GRACE_PERIOD:.0f} seconds; interrupt again"
        " to stop immediately",
        console,
    ) as stop:
        # Here, and not outside, where the nursery of that context manager puts exceptions into a group.
        try:
            async with open_event_log(
                store,
                batch_size=_BATCH_SIZE,
                retry_buffer_cap=_MAX_PENDING,
                max_event_bytes=MAX_LINE,
                grace_period=_GRACE_PERIOD,
                on_failure=tally.on_failure,
            ) as log:
                with stop.stoppable():
                    await _read_files(log, names, tally)
        except EventsLost:
            pass  # they are in the tally
        except StoreError as exc:
            error = exc
        except KeyboardInterrupt:
            complain("stopped immediately", console)
    if log is None:
        assert error is not None, "the log has not opened"
        raise error
    is_reported = await write_summary(tally.summary(log.statistics()))
    if error is not None:
        complain(str(error), console)
    if tally.lost:
        complain("lost events were not stored; repeat the command to store them", console)
    if stop.status:
        return stop.status
    is_complete = is_reported and error is None and not (tally.rejected or tally.lost or tally.unreadable)
    return 0 if is_complete else 1


async def _read_files(log: EventLog, names: Sequence[str], tally: Tally) -> None:
    files = [EnvelopeFile(name) for name in names if not is_stream(name)]
    if STDIN in names and is_terminal(sys.stdin):
        complain("reading from the terminal; end with Ctrl-D", tally.console)
    repeats = Repeats(log.store, log.statistics().last_assigned_seq, tally.console)
    async with _progress_shown(files, log, tally):
        for file in files:
            if log.statistics().state is LogState.OPEN:
                repeats.begin_file()
                await _read_file(log, file, tally, repeats)
        await _flush(log)
    async with trio.open_nursery() as nursery:
        for name in filter(is_stream, names):
            nursery.start_soon(_read_stream, log, name, tally)


async def _read_stream(log: EventLog, url: str, tally: Tally) -> None:
    repeats = Repeats(log.store, log.statistics().last_assigned_seq, tally.console)
    repeats.begin_file()
    label = without_secrets(url)
    count = 0

    async def take(page: Sequence[MobEvent | str]) -> None:
        nonlocal count
        envelopes = [item.envelope() for item in page if isinstance(item, MobEvent)]
        known = await repeats.find(envelopes)
        for item in page:
            count += 1
            content = item.envelope() if isinstance(item, MobEvent) else item
            if isinstance(content, EventEnvelope) and content.event_id in known:
                tally.already_there()
            else:
                await _ingest_line(log, Place(label, count), Line(count, 0, content), tally)
        tally.note_settled(log.statistics())

    await follow_stream(url, tally, take)


async def _read_file(log: EventLog, file: EnvelopeFile, tally: Tally, repeats: Repeats) -> None:
    before, unflushed = tally.position, 0
    with file:
        while True:
            # Abandoned when cancelled: a pipe may stay silent forever.
            block = await trio.to_thread.run_sync(file.read_block, abandon_on_cancel=True)
            known = await repeats.find(
                [line.content for line in block.lines if isinstance(line.content, EventEnvelope)]
            )
            for line in block.lines:
                if isinstance(line.content, EventEnvelope) and line.content.event_id in known:
                    tally.already_there()
                    continue
                await _ingest_line(log, Place(file.label, line.number), line, tally)
                unflushed += line.size
                if unflushed > _MAX_PENDING_BYTES:
                    await _flush(log)
                    unflushed = 0
            tally.position = before + block.position
            tally.note_settled(log.statistics())
            if block.problem is not None:
                place = file.label if block.problem_line is None else f"{file.label}:{block.problem_line}"
                tally.cannot_read(place, block.problem)
            # Once the store is unusable, reading on would only lose more events.
            if block.is_last or log.statistics().state is not LogState.OPEN:
                return


async def _ingest_line(log: EventLog, place: Place, line: Line, tally: Tally) -> None:
    if isinstance(line.content, str):
        tally.malformed(place, line.content)
        return
    try:
        seq = await log.ingest_wait(line.content)
    except CodecError as exc:
        tally.malformed(place, str(exc))
        return
    assert seq is not None, "there is no filter"
    tally.accepted(seq, place)


async def _flush(log: EventLog) -> None:
    with suppress(EventsLost):  # they are in the tally
        await log.flush()


@asynccontextmanager
async def _progress_shown(files: Sequence[EnvelopeFile], log: EventLog, tally: Tally) -> AsyncIterator[None]:
    """Show the progress on a terminal."""
    sizes = await trio.to_thread.run_sync(lambda: [file.size() for file in files])
    total = sum(size or 0 for size in sizes)

    def state() -> tuple[float, str]:
        statistics = log.statistics()
        settled = statistics.ingested - statistics.pending + tally.rejected + tally.repeated
        return tally.position, f"{settled:,} done, {statistics.pending:,} waiting"

    async with progress_bar(tally.console, total if total and None not in sizes else None, state):
        yield
