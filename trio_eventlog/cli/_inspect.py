"""``trio-eventlog stats`` and ``verify``: what a log contains, and whether it is intact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from trio_eventlog.abc import (
    DescribableStore,
    EventStore,
    MultiLogStore,
    StoreDescription,
    StoreVerification,
    VerifiableStore,
)
from trio_eventlog.audit import CheckpointVerification
from trio_eventlog.cli._audit_options import CheckpointOptions, Seal
from trio_eventlog.cli._epochs import epoch_lines, without_skipped
from trio_eventlog.cli._histogram import count_by_time
from trio_eventlog.cli._options import USAGE_STATUS, AsJson, Count, Flag, StoreUrl, opened_store
from trio_eventlog.cli._running import progress_bar
from trio_eventlog.cli._terminal import (
    CommandError,
    counted,
    error_console,
    json_line,
    rendered,
    time_text,
    visible,
    write,
)
from trio_eventlog.reading import Epoch
from trio_eventlog.retention import ArchiveError, ArchiveVerification, verify_archive
from trio_eventlog.stores import without_secrets

Facts = Iterable[tuple[str, Sequence[str]]]
"""What the table of a log shows: names, and the lines beside each."""


def _table(facts: Facts) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, lines in facts:
        # Text, so that square brackets are not markup.
        table.add_row(name, Text("\n".join(visible(line) for line in lines) or "none"))
    return table


def _gaps(
    found: StoreDescription | StoreVerification, explanation: str = "missing"
) -> tuple[str, Sequence[str]]:
    lines: list[str] = []
    if found.gaps:
        lines.append(f"{counted(found.gaps, 'gap')}, {counted(found.missing, 'seq')} {explanation}")
        lines += [f"{first}" if first == last else f"{first} to {last}" for first, last in found.first_gaps]
        lines += _more(found.gaps - len(found.first_gaps))
    return "gaps in seq", lines


def _more(count: int) -> list[str]:
    return [f"and {count:,} more"] if count > 0 else []


# --- stats ----------------------------------------------------------------------------------------

STATS_EXAMPLES: Final = """
trio-eventlog stats --store sqlite:events.db
trio-eventlog stats --store sqlite:events.db --histogram
trio-eventlog stats --store sqlite:events.db --json | jq .events
"""


async def stats(*, store: StoreUrl, top: Count = 10, histogram: Flag = False, as_json: AsJson = False) -> int:
    """Print statistics about a log.

    Args:
      store: The log.
      top: Number of event types and members to list, most frequent first.
      histogram: Also print how many events there are in each stretch of time.
      as_json: Print one JSON object.
    """
    async with opened_store(store, read_only=True) as opened:
        return await print_statistics(
            opened, without_secrets(store), top=top, histogram=histogram, as_json=as_json
        )


async def print_statistics(
    store: EventStore, url: str, *, top: int, histogram: bool = False, as_json: bool
) -> int:
    """Print what a log contains; return the exit status.

    Args:
      store: the log.
      url: its URL, without secrets.
      top: how many event types and members to list.
      histogram: also print how many events there are by time.
      as_json: print one JSON object.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: standard output cannot be written to, or the store has no statistics.
    """
    if not isinstance(store, DescribableStore):
        raise CommandError(f"{url}: stores of this kind have no statistics")
    description = await store.describe(top=top)
    logs = await store.log_names() if isinstance(store, MultiLogStore) else []
    counts = await count_by_time(store, url, description) if histogram else None
    description, epochs = await without_skipped(store, description)
    if as_json:
        fields = attrs.asdict(description) | {"epochs": [attrs.asdict(epoch) for epoch in epochs]}
        if counts is not None:
            fields["histogram"] = counts.as_json()
        await write(json_line({"store": url, "logs": logs, **fields}))
    else:
        facts = _statistics(url, logs, description, epochs)
        await write(rendered(_table(facts if counts is None else chain(facts, counts.facts()))))
    return 0


def _statistics(
    url: str, logs: Sequence[str], description: StoreDescription, epochs: Sequence[Epoch]
) -> Facts:
    yield "store", [url]
    if logs:
        yield "logs", logs
    yield "events", [f"{description.events:,}"]
    if description.first_seq is not None:
        yield "seq", [f"{description.first_seq} to {description.last_seq}"]
    yield "highest seq ever", [str(description.highest_seq)]
    if description.first_timestamp_ms is not None and description.last_timestamp_ms is not None:
        first, last = description.first_timestamp_ms, description.last_timestamp_ms
        yield "time (UTC)", [f"{time_text(first)} to {time_text(last)}"]
    if epochs:
        yield "epochs", epoch_lines(epochs)
    yield _gaps(description)
    yield "event types", _ranking(description.event_types, description.distinct_event_types)
    yield "members", _ranking(description.members, description.distinct_members)
    if description.size_bytes is not None:
        yield "size", [_size(description.size_bytes)]
    if description.wal_bytes:
        yield "of which write-ahead log", [_size(description.wal_bytes)]


def _ranking(counts: Sequence[tuple[str, int]], distinct: int) -> list[str]:
    width = max((len(f"{count:,}") for _, count in counts), default=0)
    return [*(f"{count:>{width},}  {name}" for name, count in counts), *_more(distinct - len(counts))]


def _size(count: int) -> str:
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:  # noqa: PLR2004 - the factor from one unit to the next
            break
        size, unit = size / 1024, larger
    return f"{size:,.1f} {unit} ({count:,} bytes)"


# --- verify ---------------------------------------------------------------------------------------

VERIFY_EXAMPLES: Final = """
trio-eventlog verify --store sqlite:events.db
trio-eventlog verify --store sqlite:events.db --no-gaps --json | jq .findings
trio-eventlog verify --store sqlite:events.db --checkpoints events.checkpoints --public-key audit.key.pub
trio-eventlog verify --archive archive
"""


async def verify(
    *,
    store: StoreUrl | None = None,
    archive: Annotated[str | None, Parameter(metavar="DIR")] = None,
    no_gaps: Flag = False,
    against: CheckpointOptions = CheckpointOptions(),  # noqa: B008 - immutable
    show: Count = 100,
    as_json: AsJson = False,
) -> int:
    """Check the integrity of a log, or of an archive.

    Checks that every event can be read, that seqs ascend and ids are unique, and the structure of the file,
    the indexes of the database, or the subjects of the stream. With `--checkpoints`, also that the events are
    those that were sealed. The exit status is 1 if there is a problem. Gaps in seq are listed: those events
    were lost, were duplicates, or were pruned. So are the epochs that began when the log was restored; the
    seqs that are skipped there are no gap. Another process may write to the log at the same time.

    Args:
      store: The log.
      archive: Check this archive instead: every segment against its manifest. With `--checkpoints`, also that
        its events are those that were sealed; together with `--store`, as the beginning of that log.
      no_gaps: Treat gaps as problems.
      against: What to compare it with.
      show: Number of problems to list; all are counted.
      as_json: Print one JSON object.
    """
    seal = await against.load()
    if store is None if archive is None else (store is not None and seal is None):
        raise CommandError(
            "specify one of --store and --archive, or both of them with --checkpoints", USAGE_STATUS
        )
    if store is None:
        assert archive is not None, "one of them is given"
        if no_gaps:
            raise CommandError(
                "--no-gaps: --store is missing: in an archive, gaps are not looked for", USAGE_STATUS
            )
        return await print_archive(archive, max_shown=show, as_json=as_json, seal=seal)
    async with opened_store(store, read_only=True) as opened:
        return await print_verification(
            opened,
            without_secrets(store),
            no_gaps=no_gaps,
            max_shown=show,
            as_json=as_json,
            seal=seal,
            archive=archive,
        )


async def print_verification(
    store: EventStore,
    url: str,
    *,
    no_gaps: bool,
    max_shown: int,
    as_json: bool,
    seal: Seal | None = None,
    archive: str | None = None,
) -> int:
    """Check a log and print its problems; return the exit status, 1 if there are any.

    Raises:
      StoreError: the store failed.
      AuditError: the checkpoints cannot be read.
      ReaderGone, CommandError: standard output cannot be written to, or the store cannot be verified, or the
        archive cannot be read.
    """
    if not isinstance(store, VerifiableStore):
        raise CommandError(f"{url}: stores of this kind cannot be verified")
    seen = 0

    def note(seq: int) -> None:
        nonlocal seen
        seen = seq

    last_seq = await store.last_seq()
    sealed: CheckpointVerification | None = None
    archived: ArchiveVerification | None = None
    async with progress_bar(error_console(), last_seq or None, lambda: (seen, f"seq {seen:,}")):
        found = await store.verify(most_findings=max_shown, on_progress=note)
        if seal is not None:
            if archive is not None:
                archived = await _verified_archive(archive, seal)
            sealed = await seal.compare(store, archive, max_shown, note)
    epochs: list[Epoch] = []
    if not found.problems:
        found, epochs = await without_skipped(store, found)
    is_sound = not found.problems and not (no_gaps and found.gaps) and not (sealed and sealed.problems)
    is_sound = is_sound and not (archived and archived.problems)
    if as_json:
        more: dict[str, object] = {"epochs": [attrs.asdict(epoch) for epoch in epochs]}
        if sealed is not None:
            more["checkpoints"] = attrs.asdict(sealed)
        if archived is not None:
            more["archive"] = {"directory": archive, **attrs.asdict(archived)}
        await write(json_line({"store": url, "sound": is_sound, **attrs.asdict(found), **more}))
    else:
        facts = list(_verification(url, found, epochs, no_gaps=no_gaps))
        if archive is not None and archived is not None:
            facts += _archive_facts(archive, archived, max_shown)
        await write(rendered(_table(facts + list(_comparison(sealed)))))
    return 0 if is_sound else 1


def _verification(url: str, found: StoreVerification, epochs: Sequence[Epoch], *, no_gaps: bool) -> Facts:
    yield "store", [url]
    yield "events", [f"{found.events:,}"]
    if found.first_seq is not None:
        yield "seq", [f"{found.first_seq} to {found.last_seq}"]
    if epochs:
        yield "epochs", epoch_lines(epochs)
    yield _gaps(found, "(not allowed)" if no_gaps else "(lost, duplicate or pruned)")
    yield "problems", _problems(found)


def _comparison(sealed: CheckpointVerification | None, *, is_whole: bool = True) -> Facts:
    if sealed is None:
        return
    lines = [f"{sealed.checkpoints:,}"]
    if sealed.origin is not None:
        lines.append(f"the last one covers {counted(sealed.sealed, 'event')}, up to seq {sealed.sealed_seq}")
    if sealed.erased:
        lines.append(f"{counted(sealed.erased, 'event')} erased, with commitments in place of payloads")
    if sealed.skipped_seq:
        lines.append(f"events up to seq {sealed.skipped_seq} were not compared: some of them are pruned")
    if sealed.unsealed and not is_whole:
        lines.append(
            f"{counted(sealed.unsealed, 'event')} not compared: their checkpoint covers others, too;"
            " add --store"
        )
    elif sealed.unsealed:
        lines.append(f"{counted(sealed.unsealed, 'event')} after the last one, which none vouches for yet")
    yield "checkpoints", lines
    yield "not as sealed", _problems(sealed)


def _problems(found: StoreVerification | CheckpointVerification) -> list[str]:
    problems = [
        finding.problem if finding.seq is None else f"seq {finding.seq}: {finding.problem}"
        for finding in found.findings
    ]
    return problems + _more(found.problems - len(problems))


async def print_archive(directory: str, *, max_shown: int, as_json: bool, seal: Seal | None = None) -> int:
    """Check an archive and print its problems; return the exit status, 1 if there are any.

    Raises:
      AuditError: the checkpoints cannot be read.
      ReaderGone, CommandError: standard output cannot be written to, or the archive cannot be read.
    """
    found = await _verified_archive(directory, seal)
    sealed = None if seal is None else await seal.compare(None, directory, max_shown, lambda _seq: None)
    is_sound = not found.problems and not (sealed and sealed.problems)
    if as_json:
        more = {} if sealed is None else {"checkpoints": attrs.asdict(sealed)}
        await write(json_line({"archive": directory, "sound": is_sound, **attrs.asdict(found), **more}))
    else:
        facts = [*_archive_facts(directory, found, max_shown), *_comparison(sealed, is_whole=False)]
        await write(rendered(_table(facts)))
    return 0 if is_sound else 1


async def _verified_archive(directory: str, seal: Seal | None) -> ArchiveVerification:
    """Compare an archive with its manifests, and these with checkpoints.

    Raises:
      CommandError: the archive cannot be read.
    """
    checkpoints = None if seal is None else await trio.to_thread.run_sync(seal.read)
    try:
        found = await trio.to_thread.run_sync(verify_archive, directory, checkpoints, abandon_on_cancel=True)
    except ArchiveError as exc:
        raise CommandError(f"--archive: {exc}") from exc
    except OSError as exc:
        raise CommandError(f"--archive: {directory}: {exc.strerror}") from exc
    if not found.segments and not found.problems:
        # That nothing is wrong would be a strange answer for a directory that was named by mistake.
        raise CommandError(f"--archive: {directory}: there are no segments in it")
    return found


def _archive_facts(directory: str, found: ArchiveVerification, max_shown: int) -> Facts:
    yield "archive", [directory]
    yield "segments", [f"{found.segments:,}"]
    yield "events", [f"{found.events:,}"]
    yield "problems", [*found.problems[:max_shown], *_more(len(found.problems) - max_shown)]
