"""The commands: options, help texts, and how errors become exit statuses."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final, TextIO

import trio
from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number as Validated

from trio_eventlog import CodecError, EventsLost, EventsPruned, StaleCursor, StoreError
from trio_eventlog.cli._envelopes import STDIN
from trio_eventlog.cli._options import (
    USAGE_STATUS,
    Filters,
    Number,
    StoreUrl,
    Time,
    age,
    opened_store,
)
from trio_eventlog.cli._terminal import (
    PROGRAM,
    CommandError,
    HelpConsole,
    OutputError,
    ReaderGone,
    complain,
    write,
    writing,
)
from trio_eventlog.stores import without_secrets

_STATUSES: Final = """\
A store is named by its URL; without `log=`, it is the log `default`:

```
sqlite:PATH?log=NAME
postgresql://USER@HOST:PORT/DATABASE?log=NAME
nats://HOST:4222,HOST2:4222/STREAM?log=NAME&replicas=3
```

Exit status: 0 if all is well; 1 if the command failed, if events were rejected or lost, or if a store breaks
a clause; 2 if the command line was not understood; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP. A
reader of the output that goes away, such as `head`, ends the command quietly, with 0.
"""

_INGEST_EXAMPLES: Final = """\
Examples:

```
trio-eventlog ingest events.jsonl.gz --store sqlite:events.db
zcat logs/*.gz | trio-eventlog ingest --store 'sqlite:events.db?log=import'
```
"""

_QUERY_EXAMPLES: Final = """\
Examples:

```
trio-eventlog query --store sqlite:events.db --run-id r-1 --limit 20
trio-eventlog query --store sqlite:events.db --since 2026-07-14 --event-type run_failed --event-type run_lost
trio-eventlog query --store sqlite:events.db --json | jq .event.payload
trio-eventlog query --store sqlite:workers.db --all-logs --limit 100
```
"""

_TAIL_EXAMPLES: Final = """\
Examples:

```
trio-eventlog tail --store sqlite:events.db --run-id r-1
trio-eventlog tail --store sqlite:events.db --last 0 --json | jq .event.payload
trio-eventlog tail --store sqlite:workers.db --all-logs
```
"""

_TASKS_EXAMPLES: Final = """\
Examples:

```
trio-eventlog tasks --store sqlite:events.db
trio-eventlog tasks --store sqlite:events.db --run-id trio-2f6a --json | jq .name
```
"""

_STATS_EXAMPLES: Final = """\
Examples:

```
trio-eventlog stats --store sqlite:events.db
trio-eventlog stats --store sqlite:events.db --json | jq .events
```
"""

_VERIFY_EXAMPLES: Final = """\
Examples:

```
trio-eventlog verify --store sqlite:events.db
trio-eventlog verify --store sqlite:events.db --no-gaps --json | jq .findings
```
"""

_PRUNE_EXAMPLES: Final = """\
Examples:

```
trio-eventlog prune --store sqlite:events.db --older-than 30d --dry-run
trio-eventlog prune --store sqlite:events.db --before 2026-07-01
trio-eventlog prune --store 'sqlite:events.db?log=worker-3' --keep 100000
```
"""

_COPY_EXAMPLES: Final = """\
Examples:

```
trio-eventlog copy --from sqlite:events.db --to sqlite:backup.db
trio-eventlog copy --from 'sqlite:all.db?log=worker-3' --to sqlite:worker-3.db
trio-eventlog copy --from sqlite:events.db --to 'postgresql://db.example/app?log=worker-3'
trio-eventlog copy --from sqlite:events.db --to 'nats://n1,n2,n3/EVENTS?log=worker-3&replicas=3'
```
"""

_EXPORT_EXAMPLES: Final = """\
Examples:

```
trio-eventlog export --store sqlite:events.db | gzip > events.jsonl.gz
trio-eventlog export --store sqlite:events.db --output events.jsonl --resume
trio-eventlog export --store sqlite:events.db --after-seq 5000 --run-id r-1
```
"""

_DEMO_EXAMPLES: Final = """\
Examples:

```
trio-eventlog demo
trio-eventlog demo --store sqlite:demo.db --seconds 10
```
"""

_CHECK_EXAMPLES: Final = """\
Examples:

```
trio-eventlog check mypackage.stores:open_store
trio-eventlog check mypackage.stores:open_memory --in-memory --clause S5 --clause S6
```
"""

_AllLogs = Annotated[bool, Parameter(negative=(), show_default=False)]

_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]


def _no_option(_type: object, name: str) -> None:
    if name.startswith("-") and name != STDIN:
        msg = f"unknown option {name} (see {PROGRAM} ingest --help); for a file of this name write ./{name}"
        raise CommandError(msg, USAGE_STATUS)


def _version() -> str:
    try:
        return f"{PROGRAM} {version('trio-eventlog')}"
    except PackageNotFoundError:
        return f"{PROGRAM} (not installed, run from its source)"


app = App(
    name=PROGRAM,
    help="Put events into a log, and find them again.",
    help_epilogue=_STATUSES,
    help_format="markdown",
    version=_version,
    backend="trio",
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    # Told by run(), with the status that is the custom for it.
    print_error=False,
    exit_on_error=False,
)


@app.command(help_epilogue=_INGEST_EXAMPLES)
async def ingest(
    # A hyphen alone is a file here; what else begins with one is caught by the validator.
    *files: Annotated[str, Parameter(metavar="FILE", allow_leading_hyphen=True, validator=_no_option)],
    store: StoreUrl,
    show_rejected: Annotated[int, Parameter(metavar="N", validator=Validated(gte=0))] = 20,
) -> int:
    """Store envelopes: files of JSON lines, plain or gzipped.

    Events that the log holds already, by their `event_id`, are not stored again: after an interruption, run
    the same command once more. Lines that are not envelopes are named and skipped. Ctrl-C, SIGTERM and SIGHUP
    stop reading, and store what was read.

    Args:
      files: What to read, in this order; `-` or nothing for standard input.
      store: Which log.
      show_rejected: How many rejected lines to show; all are counted.
    """
    from trio_eventlog.cli._ingest import ingest_files  # noqa: PLC0415 - loads what only this command needs

    async with opened_store(store) as opened:
        return await ingest_files(opened, files or (STDIN,), most_shown=show_rejected)


@app.command(help_epilogue=_QUERY_EXAMPLES)
async def query(
    *,
    store: StoreUrl,
    filters: Filters = Filters(),  # noqa: B008 - immutable
    all_logs: _AllLogs = False,
    as_json: _Json = False,
) -> int:
    """Print events, ascending by seq: a table on a terminal, JSON lines otherwise.

    Reads only, also while another process writes. Text is compared exactly, and all that is asked for must
    hold.

    Args:
      store: Which log.
      filters: Which events.
      all_logs: Read all logs of the file, database or stream as one, by time; `--limit` is for all of them
        together.
      as_json: Print JSON lines on a terminal, too.
    """
    from trio_eventlog.cli._query import print_events, print_merged  # noqa: PLC0415 - as above

    wanted = filters.query()
    if all_logs:
        _no_cursor(wanted.after_seq)
        return await print_merged(store, wanted, as_json=as_json)
    async with opened_store(store, read_only=True) as opened:
        return await print_events(opened, wanted, as_json=as_json)


def _no_cursor(after_seq: int | None) -> None:
    if after_seq is not None:
        msg = "--after-seq: every log has seqs of its own, so not with --all-logs"
        raise CommandError(msg, USAGE_STATUS)


@app.command(help_epilogue=_TAIL_EXAMPLES)
async def tail(
    *,
    store: StoreUrl,
    filters: Filters = Filters(),  # noqa: B008 - immutable
    last: Annotated[Number, Parameter(show_default=False)] = None,
    all_logs: _AllLogs = False,
    as_json: _Json = False,
) -> int:
    """Print the last events, and then those that come, until Ctrl-C. Reads only.

    Each event once and in order, within half a second after it was stored. Goes on by itself after a store
    could not be read for a while. Text is compared exactly, and all that is asked for must hold.

    Args:
      store: Which log.
      filters: Which events; with `--limit`, the command ends after so many.
      last: How many of the events that are there to print; 10 unless `--after-seq` says where to begin.
      all_logs: Follow all logs of the file, database or stream, new ones, too; what is found together is
        printed by time.
      as_json: Print JSON lines on a terminal, too.
    """
    from trio_eventlog.cli._tail import follow, follow_all  # noqa: PLC0415 - as above

    wanted = filters.query()
    if last is not None and wanted.after_seq is not None:
        msg = "--last, --after-seq: expected one of them"
        raise CommandError(msg, USAGE_STATUS)
    count = 10 if last is None else last
    if all_logs:
        _no_cursor(wanted.after_seq)
        return await follow_all(store, wanted, last=count, as_json=as_json)
    async with opened_store(store, read_only=True) as opened:
        return await follow(opened, wanted, last=count, as_json=as_json)


@app.command(help_epilogue=_TASKS_EXAMPLES)
async def tasks(
    *,
    store: StoreUrl,
    run_id: Annotated[str | None, Parameter(metavar="TEXT", show_default=False)] = None,
    as_json: _Json = False,
) -> int:
    """Print the tasks of a recorded run as a tree, with how long each lived. Reads only.

    A run is recorded by `trio_eventlog.recorder.record_tasks`.

    Args:
      store: Which log.
      run_id: Which run; by default the one that began last.
      as_json: Print one JSON object per task.
    """
    from trio_eventlog.cli._tasks import print_tasks  # noqa: PLC0415 - as above

    async with opened_store(store, read_only=True) as opened:
        return await print_tasks(opened, run_id, as_json=as_json)


@app.command(help_epilogue=_STATS_EXAMPLES)
async def stats(
    *,
    store: StoreUrl,
    top: Annotated[int, Parameter(metavar="N", validator=Validated(gte=0))] = 10,
    as_json: _Json = False,
) -> int:
    """Print what a log holds, in numbers. Reads only.

    Args:
      store: Which log.
      top: How many event types and members to name, the most frequent first.
      as_json: Print one JSON object.
    """
    from trio_eventlog.cli._stats import print_statistics  # noqa: PLC0415 - as above

    async with opened_store(store, read_only=True) as opened:
        return await print_statistics(opened, without_secrets(store), top=top, as_json=as_json)


@app.command(help_epilogue=_VERIFY_EXAMPLES)
async def verify(
    *,
    store: StoreUrl,
    no_gaps: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    show: Annotated[int, Parameter(metavar="N", validator=Validated(gte=0))] = 100,
    as_json: _Json = False,
) -> int:
    """Look a log over: does it hold what was stored? Reads only, also while another process writes.

    Checks the structure of a file, the indexes of a database, the subjects of a stream; and everywhere that
    every event can be read, the order, that no id stands twice. Exit status 1 if something is wrong. Gaps in
    seq are listed; they are what was lost, was a duplicate, or was pruned.

    Args:
      store: Which log.
      no_gaps: A gap is a problem, too.
      show: How many problems to name; all are counted.
      as_json: Print one JSON object.
    """
    from trio_eventlog.cli._maintenance import print_verification  # noqa: PLC0415 - as above

    async with opened_store(store, read_only=True) as opened:
        return await print_verification(
            opened, without_secrets(store), no_gaps=no_gaps, most_shown=show, as_json=as_json
        )


@app.command(help_epilogue=_PRUNE_EXAMPLES)
async def prune(
    *,
    store: StoreUrl,
    before: Time = None,
    older_than: Annotated[int | None, Parameter(converter=age, metavar="AGE")] = None,
    keep: Number = None,
    dry_run: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Take old events out of a log, for good. May run beside a program that writes to it.

    In small steps: after an interruption, run the same command once more. Numbering goes on as if nothing had
    gone, and the room is used again.

    Args:
      store: Which log.
      before: Events before this time go: milliseconds since 1970, or ISO 8601.
      older_than: Events older than this go: a number and s, m, h, d or w.
      keep: All but so many events go, those with the highest seqs.
      dry_run: Only say how many would go.
    """
    from trio_eventlog.cli import _maintenance as _upkeep  # noqa: PLC0415 - as above

    _upkeep.check_criteria(before, older_than, keep)
    if older_than is not None:
        before = max(time.time_ns() // 1_000_000 - older_than, 0)
    # Beyond what a store can hold is as good as all of it.
    before, keep = (None if value is None else min(value, 2**63 - 1) for value in (before, keep))
    async with opened_store(store, read_only=True) as opened:
        return await _upkeep.prune(
            opened, without_secrets(store), before_ms=before, keep=keep, dry_run=dry_run
        )


@app.command(help_epilogue=_COPY_EXAMPLES)
async def copy(
    *,
    from_: Annotated[str, Parameter(name="--from", metavar="URL")],
    to: Annotated[str, Parameter(metavar="URL")],
    show_rejected: Annotated[int, Parameter(metavar="N", validator=Validated(gte=0))] = 20,
) -> int:
    """Copy a log into another one, with the ids and seqs of its events.

    From any store to any other, with URLs as for `--store` elsewhere. Goes on after the last event that is
    there already: after an interruption, or when more has come, run the same command once more.

    Args:
      from_: Which log. Another process may write to it meanwhile.
      to: Where it goes: an empty log, or an earlier copy.
      show_rejected: How many events to name that this store cannot hold; all are counted.
    """
    from trio_eventlog.cli import _transfer  # noqa: PLC0415 - as above

    async with opened_store(from_, "--from", read_only=True) as source, opened_store(to, "--to") as target:
        return await _transfer.copy(source, target, most_shown=show_rejected)


@app.command(help_epilogue=_EXPORT_EXAMPLES)
async def export(
    *,
    store: StoreUrl,
    filters: Filters = Filters(),  # noqa: B008 - immutable
    output: Annotated[str | None, Parameter(metavar="FILE")] = None,
    resume: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Write events as JSON lines. Reads only, also while another process writes.

    Args:
      store: Which log.
      filters: Which events.
      output: A new file, for its owner alone; by default standard output.
      resume: Go on at the end of that file, if its last event is in the log; what was cut off there is
        written again.
    """
    from trio_eventlog.cli import _transfer  # noqa: PLC0415 - as above

    wanted = filters.query()
    async with opened_store(store, read_only=True) as opened:
        return await _transfer.export(opened, wanted, output=output, resume=resume)


@app.command(help_epilogue=_DEMO_EXAMPLES)
async def demo(
    *,
    store: Annotated[StoreUrl | None, Parameter(show_default=False)] = None,
    seconds: Annotated[float, Parameter(metavar="N", validator=Validated(gt=0, lte=3600))] = 4.0,
) -> int:
    """Watch a small program log its work into a store that fails for a while.

    Args:
      store: Which log; by default a new file, `trio-eventlog-demo.db`, in the current directory.
      seconds: How long the program works.
    """
    from trio_eventlog.cli._demo import run_demo  # noqa: PLC0415 - as above

    return await run_demo(store, seconds=seconds)


@app.command(help_epilogue=_CHECK_EXAMPLES)
def check(
    target: Annotated[str, Parameter(metavar="MODULE:NAME")],
    /,
    *,
    in_memory: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    reader: Annotated[str | None, Parameter(metavar="MODULE:NAME")] = None,
    drop: Annotated[str | None, Parameter(metavar="MODULE:NAME")] = None,
    clause: Annotated[
        tuple[str, ...], Parameter(metavar="CLAUSE", negative=(), show_default=False, consume_multiple=False)
    ] = (),
    budget: Annotated[float, Parameter(metavar="SECONDS", validator=Validated(gt=0, lte=1_000_000))] = 45.0,
    op_timeout: Annotated[
        float, Parameter(metavar="SECONDS", validator=Validated(gt=0, lte=1_000_000))
    ] = 5.0,
    max_examples: Annotated[int, Parameter(metavar="N", validator=Validated(gte=1))] = 100,
    seed: Annotated[int | None, Parameter(metavar="N")] = None,
) -> int:
    """Check a store against the contract: for those who write one.

    The function takes a directory and returns an async context manager that yields the store. Each clause of
    the contract is tried with examples; those that fail are printed as small programs. Needs the extra
    `testing`.

    Args:
      target: The function that opens the store.
      in_memory: The store keeps nothing when it is left.
      reader: The function that opens it read-only.
      drop: An async function that removes what the store keeps outside of the directory.
      clause: Only this clause, such as S5; give it several times for several.
      budget: How long to look for failures.
      op_timeout: When an operation of the store counts as hung.
      max_examples: Most examples of a check.
      seed: Try the examples of a run before, which printed it.
    """
    from trio_eventlog.cli import _check  # noqa: PLC0415 - as above

    limits = _check.Limits(budget=budget, op_timeout=op_timeout, max_examples=max_examples, seed=seed)
    status, report = _check.check(
        target, in_memory=in_memory, reader=reader, drop=drop, clauses=clause, limits=limits
    )
    trio.run(write, report)
    return status


def run(arguments: Sequence[str]) -> int:
    """Run the command line ``arguments``.

    Returns:
      The exit status.

    Raises:
      KeyboardInterrupt: a signal has ended it.
    """
    try:
        status = app(arguments, console=HelpConsole())
        # Help and version go through Python's buffer, which only now meets what they are written to.
        with writing():
            sys.stdout.flush()
    except BaseException as exc:  # noqa: ASYNC103 - Trio has ended: no Cancelled comes here
        inner = _innermost(exc)
        if isinstance(inner, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # noqa: ASYNC104 - as above
        told = _tell(inner)
        if told is None:
            raise
        return told  # noqa: ASYNC104 - as above
    finally:
        _forget_if_gone(sys.stderr)
    return status if isinstance(status, int) else 0


def _innermost(exc: BaseException) -> BaseException:
    # Every nursery on the way puts what leaves it into a group.
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        (exc,) = exc.exceptions
    return exc


def _tell(exc: BaseException) -> int | None:
    """Tell the user what went wrong. Returns the exit status; None if ``exc`` is a bug."""
    match exc:
        case ReaderGone():
            _forget(sys.stdout)
            return 0
        case CycloptsError():
            # It may repeat what it did not expect, a URL for example.
            complain(f"{without_secrets(str(exc))} (see {PROGRAM} --help)")
            return USAGE_STATUS
        case OutputError():
            _forget(sys.stdout)
            complain(str(exc))
            return exc.status
        case CommandError():
            complain(str(exc))
            return exc.status
        # What is damaged in a store shows when it is read.
        case StoreError() | EventsLost() | EventsPruned() | CodecError() | StaleCursor():
            complain(str(exc))
            return 1
        case _:
            return None


def _forget(stream: TextIO) -> None:
    # Python would try once more to write what it has buffered, and complain.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def _forget_if_gone(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _forget(stream)
