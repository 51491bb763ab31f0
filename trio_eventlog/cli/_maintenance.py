"""``trio-eventlog verify`` and ``prune``: keeping a log in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from inspect import signature
from typing import Protocol, runtime_checkable

import attrs
from rich.table import Table

from trio_eventlog import EventStore
from trio_eventlog.abc import StoreVerification
from trio_eventlog.cli._options import USAGE_STATUS
from trio_eventlog.cli._progress import progress_bar
from trio_eventlog.cli._signals import stopping_on_signals
from trio_eventlog.cli._terminal import (
    CommandError,
    FactSheet,
    counted,
    error_console,
    gap_lines,
    output_console,
    rendered,
    visible_json,
    write,
    write_summary,
)


@runtime_checkable
class _Verifiable(Protocol):
    async def last_seq(self) -> int: ...
    async def verify(
        self, *, most_findings: int = 100, on_progress: Callable[[int], object] | None = None
    ) -> StoreVerification: ...


@runtime_checkable
class _Prunable(Protocol):
    async def prune(
        self,
        *,
        before_ms: int | None = None,
        keep: int | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int: ...


async def print_verification(
    store: EventStore, url: str, *, no_gaps: bool, most_shown: int, as_json: bool
) -> int:
    """Look a log over, and print what is wrong with it.

    Returns:
      The exit status: 1 if something is.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: standard output cannot be written to, or the store cannot be verified.
    """
    if not isinstance(store, _Verifiable):
        msg = f"{url}: a store of this kind cannot be verified"
        raise CommandError(msg)
    seen = 0

    def note(seq: int) -> None:
        nonlocal seen
        seen = seq

    last_seq = await store.last_seq()
    async with progress_bar(error_console(), last_seq or None, lambda: (seen, f"seq {seen:,}")):
        found = await store.verify(most_findings=most_shown, on_progress=note)
    is_sound = not found.problems and not (no_gaps and found.gaps)
    console = output_console()
    if as_json:
        text = json.dumps({"store": url, "sound": is_sound, **attrs.asdict(found)}, ensure_ascii=False)
        line = (visible_json(text) if console.is_terminal else text).encode(errors="backslashreplace")
        await write(line + b"\n")
    else:
        await write(rendered(console, _table(url, found, no_gaps=no_gaps)))
    return 0 if is_sound else 1


def _table(url: str, found: StoreVerification, *, no_gaps: bool) -> Table:
    sheet = FactSheet()
    sheet.add("store", url)
    sheet.add("events", f"{found.events:,}")
    if found.first_seq is not None:
        sheet.add("seq", f"{found.first_seq} to {found.last_seq}")
    why = "(not wanted)" if no_gaps else "(lost, duplicate or pruned)"
    sheet.add("gaps in seq", *gap_lines(found.gaps, found.missing, found.first_gaps, why))
    problems = [
        finding.problem if finding.seq is None else f"seq {finding.seq}: {finding.problem}"
        for finding in found.findings
    ]
    if found.problems > len(problems):
        problems.append(f"and {found.problems - len(problems):,} more")
    sheet.add("problems", *problems)
    return sheet.table


def check_criteria(*criteria: object) -> None:
    """Before a store is opened.

    Raises:
      CommandError: not exactly one is given.
    """
    if criteria.count(None) != len(criteria) - 1:
        msg = "say what is to go: one of --before, --older-than and --keep"
        raise CommandError(msg, USAGE_STATUS)


async def prune(
    store: EventStore, url: str, *, before_ms: int | None, keep: int | None, dry_run: bool
) -> int:
    """Take old events out of a log.

    Returns:
      The exit status.

    Raises:
      StoreError: the store failed.
      CommandError: the store cannot be pruned.
    """
    # One that is neither a file nor a server may do it at once, and has nothing to say meanwhile.
    if not isinstance(store, _Prunable) or "on_progress" not in signature(store.prune).parameters:
        msg = f"{url}: a store of this kind cannot be pruned"
        raise CommandError(msg)
    console = error_console()
    gone = total = 0

    def note(so_far: int, of: int) -> None:
        nonlocal gone, total
        gone, total = so_far, of

    if dry_run:
        count = await store.prune(before_ms=before_ms, keep=keep, dry_run=True)
        await write(f"{counted(count, 'event')} would go\n")
        return 0
    async with stopping_on_signals("stopping; what is gone is gone", console) as stop:
        with stop.stoppable():
            async with progress_bar(console, None, lambda: (gone, f"{gone:,} of {total:,} gone")):
                await store.prune(before_ms=before_ms, keep=keep, on_progress=note)
        # What was being removed when the signal came may be gone as well.
        text = f"{counted(gone, 'event')} pruned"
        is_told = await write_summary(f"at least {text} of {total:,}" if stop.status else text)
    return stop.status or (0 if is_told else 1)
