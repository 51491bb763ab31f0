"""What ``trio-eventlog check`` runs. Needs the extra ``testing``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from trio_eventlog.cli._check_options import Instead, Outputs
from trio_eventlog.cli._check_report import report_text
from trio_eventlog.cli._options import USAGE_STATUS
from trio_eventlog.cli._terminal import CommandError, error_console, visible, write
from trio_eventlog.testing import (
    ConformanceInterrupted,
    ConformanceProfile,
    check_fixtures,
    check_harness,
    check_store,
    measure_growth,
    report_json,
    report_junit,
    write_fixtures,
)

UNFINISHED_STATUS: Final = 3
"""Exit status where nothing is broken, but not everything could be tried in time."""

_BUDGET: Final = 45.0
_MUTATION_BUDGET: Final = 300.0

_ARGUMENTS: Final = ("open_store:", "clauses:", "deviations", "max_batch:", "lock_timeout:")
"""How the errors of :func:`~trio_eventlog.testing.check_store` about its arguments begin."""


def run_check(
    target: str, open_store: Callable[..., Any], options: dict[str, Any], outputs: Outputs, instead: Instead
) -> int:
    """Do what the options say; return the exit status.

    Args:
      target: the name of the store in reports.
      open_store: opens it.
      options: the arguments of :func:`~trio_eventlog.testing.check_store`.
      outputs: the files to write.
      instead: what to do instead of checking the clauses.
    """
    chosen = [
        instead.mutate,
        instead.growth,
        instead.fixtures is not None,
        instead.write_fixtures is not None,
    ]
    if sum(chosen) > 1:
        raise CommandError(
            "only one of --mutate, --growth, --fixtures and --write-fixtures can be given", USAGE_STATUS
        )
    if any(chosen) and any((outputs.junit, outputs.json, outputs.profile)):
        raise CommandError("--junit, --json and --profile are for a check of the clauses", USAGE_STATUS)
    with _usage_errors():
        if instead.mutate:
            return _mutate(target, open_store, options)
        if instead.growth:
            return _growth(target, open_store, options)
        if instead.fixtures is not None:
            return _fixtures(open_store, instead.fixtures)
        if instead.write_fixtures is not None:
            return _write_fixtures(open_store, instead.write_fixtures)
        return _clauses(target, open_store, options, outputs)


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as exc:
        if not str(exc).startswith(_ARGUMENTS):
            raise
        raise CommandError(str(exc), USAGE_STATUS) from exc


@contextmanager
def _progress(words: str) -> Iterator[Callable[[str], None]]:
    """Show ``words`` meanwhile, and what the function that is yielded is told."""
    spinner = Spinner("dots", text=Text(visible(words)))
    # Not Console.status(), which puts a proxy in place of sys.stderr that writes to this very console.
    with Live(spinner, console=error_console(), transient=True, redirect_stdout=False, redirect_stderr=False):
        yield lambda news: spinner.update(text=Text(visible(f"{words}: {news}")))


def _clauses(target: str, open_store: Callable[..., Any], options: dict[str, Any], outputs: Outputs) -> int:
    interrupted = False
    options["budget"] = options["budget"] or _BUDGET
    with _progress(f"checking {target}") as tell:
        try:
            report = check_store(
                open_store, **options, on_result=lambda result: tell(f"{result.clause} done")
            )
        except ConformanceInterrupted as exc:
            report, interrupted = exc.report, True
    if outputs.junit is not None:
        _write(outputs.junit, report_junit(report, store=target))
    if outputs.json is not None:
        _write(outputs.json, report_json(report, store=target))
    if outputs.profile is not None:
        _write(outputs.profile, ConformanceProfile.of(report, store=target).to_markdown())
    trio.run(write, report_text(report))
    if interrupted:
        raise KeyboardInterrupt
    if report.failures:
        return 1
    return UNFINISHED_STATUS if report.unfinished else 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc


def _mutate(target: str, open_store: Callable[..., Any], options: dict[str, Any]) -> int:
    with _progress(f"breaking {target}") as tell:
        report = check_harness(
            open_store,
            durable=options["durable"],
            drop_store=options["drop_store"],
            budget=options["budget"] or _MUTATION_BUDGET,
            op_timeout=options["op_timeout"],
            seed=options["seed"],
            on_result=lambda result: tell(f"{result.mutant}: {result.verdict}"),
        )
    trio.run(write, f"{visible_lines(str(report))}\n")
    return 1 if report.missed else 0


def _growth(target: str, open_store: Callable[..., Any], options: dict[str, Any]) -> int:
    with _progress(f"filling {target}"):
        report = measure_growth(open_store, drop_store=options["drop_store"])
    trio.run(write, f"{report}\n")
    return 0


def _fixtures(open_store: Callable[..., Any], directory: Path) -> int:
    try:
        report = check_fixtures(open_store, directory)
    except (OSError, ValueError) as exc:
        raise CommandError(f"--fixtures: {exc}") from exc
    trio.run(write, f"{visible_lines(str(report))}\n")
    return 1 if report.problems else 0


def _write_fixtures(open_store: Callable[..., Any], directory: Path) -> int:
    try:
        events = write_fixtures(open_store, directory)
    except OSError as exc:
        raise CommandError(f"--write-fixtures: {exc}") from exc
    trio.run(write, f"{events:,} events written to {visible(str(directory))}\n")
    return 0


def visible_lines(text: str) -> str:
    """``text`` as :func:`visible` makes it, with its ends of lines."""
    return "\n".join(map(visible, text.splitlines()))
