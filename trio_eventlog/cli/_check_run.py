"""What ``trio-eventlog check`` runs. Needs the extra ``testing``."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from trio_eventlog.cli._check_options import Instead, Outputs
from trio_eventlog.cli._check_report import report_text
from trio_eventlog.cli._options import USAGE_STATUS
from trio_eventlog.cli._terminal import CommandError, error_console, visible, visible_lines, write
from trio_eventlog.testing import (
    ConformanceInterrupted,
    ConformanceProfile,
    MutationInterrupted,
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

_ARGUMENTS: Final = ("open_store:", "clauses:", "deviations", "max_batch:", "lock_timeout:")
"""How the errors of :func:`~trio_eventlog.testing.check_store` about its arguments begin."""


_ARGUMENT: Final = {
    "--reader": "open_reader",
    "--drop": "drop_store",
    "--clause": "clauses",
    "--deviation": "deviations",
    "--budget": "budget",
    "--op-timeout": "op_timeout",
    "--max-examples": "max_examples",
    "--seed": "seed",
}
"""What an option is called in Python; ``--in-memory`` is the opposite of ``durable``."""

_GO_WITH: Final = {
    "--mutate": ("--in-memory", "--drop", "--budget", "--op-timeout", "--seed"),
    "--growth": ("--drop",),
    "--fixtures": (),
    "--write-fixtures": (),
}
"""The options that mean something together with what is done instead of checking the clauses."""


def run_check(
    target: str, open_store: Callable[..., Any], options: dict[str, Any], outputs: Outputs, instead: Instead
) -> int:
    """Do what the options say; return the exit status.

    Args:
      target: the name of the store in reports.
      open_store: opens it.
      options: those that were given, by name.
      outputs: the files to write.
      instead: what to do instead of checking the clauses.
    """
    chosen = {
        "--mutate": instead.mutate,
        "--growth": instead.growth,
        "--fixtures": instead.fixtures is not None,
        "--write-fixtures": instead.write_fixtures is not None,
    }
    names = [name for name, is_chosen in chosen.items() if is_chosen]
    if len(names) > 1:
        raise CommandError(f"only one of {_listed(list(chosen))} can be given", USAGE_STATUS)
    if names and any((outputs.junit, outputs.json, outputs.profile)):
        raise CommandError("--junit, --json and --profile are for a check of the clauses", USAGE_STATUS)
    for name in names:
        if useless := [option for option in options if option not in _GO_WITH[name]]:
            raise CommandError(f"{_listed(useless)} cannot be given with {name}", USAGE_STATUS)
    arguments = {_ARGUMENT[name]: value for name, value in options.items() if name in _ARGUMENT}
    if "--in-memory" in options:
        arguments["durable"] = False
    with _usage_errors():
        if instead.mutate:
            return _mutate(target, open_store, arguments)
        if instead.growth:
            return _growth(target, open_store, arguments)
        if instead.fixtures is not None:
            return _fixtures(open_store, instead.fixtures)
        if instead.write_fixtures is not None:
            return _write_fixtures(open_store, instead.write_fixtures)
        return _clauses(target, open_store, arguments, outputs)


def _listed(names: list[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


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
    _check_outputs(outputs)
    interrupted = False
    with _progress(f"checking {target}") as tell:
        try:
            report = check_store(
                open_store, **options, on_result=lambda result: tell(f"{result.clause} done")
            )
        except ConformanceInterrupted as exc:
            report, interrupted = exc.report, True
    # First, because what cannot be written must not take it along.
    trio.run(write, report_text(report))
    _write(outputs.junit, report_junit(report, store=target))
    _write(outputs.json, report_json(report, store=target))
    _write(outputs.profile, ConformanceProfile.of(report, store=target).to_markdown())
    if interrupted:
        raise KeyboardInterrupt
    if report.failures:
        return 1
    return UNFINISHED_STATUS if report.unfinished else 0


def _check_outputs(outputs: Outputs) -> None:
    """Refuse what could not be written in the end, before the time is spent."""
    places: dict[Path, str] = {}
    for field, path in attrs.asdict(outputs, recurse=False).items():
        if path is None:
            continue
        name = f"--{field}"
        if (reason := _obstacle(path)) is not None:
            raise CommandError(f"cannot write {path}: {os.strerror(reason)}")
        first = places.setdefault(path.resolve(), name)
        if first != name:
            raise CommandError(f"{first} and {name} name the same file", USAGE_STATUS)


def _obstacle(path: Path) -> int | None:
    """The error by which writing to ``path`` would fail, as far as that can be told without trying."""
    if path.is_dir():
        return errno.EISDIR
    if not path.parent.is_dir():
        return errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    return None if os.access(path if path.exists() else path.parent, os.W_OK) else errno.EACCES


def _write(path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc


def _mutate(target: str, open_store: Callable[..., Any], options: dict[str, Any]) -> int:
    interrupted = False
    with _progress(f"breaking {target}") as tell:
        try:
            report = check_harness(
                open_store, **options, on_result=lambda result: tell(f"{result.mutant}: {result.verdict}")
            )
        except MutationInterrupted as exc:
            report, interrupted = exc.report, True
    trio.run(write, f"{visible_lines(str(report))}\n")
    if interrupted:
        raise KeyboardInterrupt
    return 1 if report.missed else 0


def _growth(target: str, open_store: Callable[..., Any], options: dict[str, Any]) -> int:
    with _progress(f"filling {target}"):
        report = measure_growth(open_store, **options)
    trio.run(write, f"{report}\n")
    return 0


def _fixtures(open_store: Callable[..., Any], directory: Path) -> int:
    try:
        report = check_fixtures(open_store, directory)
    except (OSError, ValueError) as exc:
        raise CommandError(f"--fixtures: {_told(exc)}") from exc
    trio.run(write, f"{visible_lines(str(report))}\n")
    return 1 if report.problems else 0


def _write_fixtures(open_store: Callable[..., Any], directory: Path) -> int:
    try:
        events = write_fixtures(open_store, directory)
    except OSError as exc:
        raise CommandError(f"--write-fixtures: {_told(exc)}") from exc
    trio.run(write, f"{events:,} events written to {visible(str(directory))}\n")
    return 0


def _told(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.filename is not None:
        return f"{exc.filename}: {exc.strerror}"
    return str(exc)
