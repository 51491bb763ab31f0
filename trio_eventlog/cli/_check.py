"""``trio-eventlog check``: the harness for stores, and its report as a table."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Collection
from typing import Any, assert_never

import attrs
from rich.console import Console, Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from trio_eventlog._util import how_to_install
from trio_eventlog.cli._options import USAGE_STATUS
from trio_eventlog.cli._terminal import (
    CommandError,
    counted,
    error_console,
    output_console,
    rendered,
    visible,
)

try:
    from trio_eventlog.testing import (
        ClauseFailure,
        ClausePassed,
        ClauseSkipped,
        ConformanceReport,
        check_store,
    )
except ModuleNotFoundError as exc:
    if (exc.name or "").split(".")[0] != "hypothesis":
        raise
    msg = f"check needs Hypothesis: {how_to_install('testing')}"
    raise CommandError(msg) from exc


@attrs.frozen(kw_only=True)
class Limits:
    """What :func:`check_store` takes, as far as it is numbers."""

    budget: float
    op_timeout: float
    max_examples: int
    seed: int | None


def check(
    target: str,
    *,
    in_memory: bool,
    reader: str | None,
    drop: str | None,
    clauses: Collection[str],
    limits: Limits,
) -> tuple[int, str]:
    """Check a store.

    Args:
      target: where the function that opens it is, ``MODULE:NAME``.
      in_memory: the store keeps nothing when it is left.
      reader: where the function that opens it read-only is.
      drop: where the function that removes it is.
      clauses: which clauses; empty for all.
      limits: how long, how often.

    Returns:
      The exit status, and what to print.

    Raises:
      CommandError: something is not where it should be, or is no function; an option is out of range.
    """
    # As `python -m` does it: the module of somebody who is at work on it is here.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - text
    open_store = _found(target)
    console = error_console()
    with console.status(f"checking {target}") as status:
        try:
            report = check_store(
                open_store,
                durable=not in_memory,
                open_reader=None if reader is None else _found(reader),
                drop_store=None if drop is None else _found(drop),
                clauses=[clause.upper() for clause in clauses] or None,
                budget=limits.budget,
                op_timeout=limits.op_timeout,
                max_examples=limits.max_examples,
                seed=limits.seed,
                on_result=lambda result: status.update(f"checking {target}: {result.clause} done"),
            )
        except (TypeError, ValueError) as exc:
            message = str(exc)
            if not message.startswith(("open_store:", "clauses:", "max_batch:", "lock_timeout:")):
                raise
            raise CommandError(message, USAGE_STATUS) from exc
    output = output_console()
    text = rendered(output, _rendered_report(report, output))
    # A table fills its columns with blanks, which nobody wants in a file.
    return int(bool(report.failures)), re.sub(r" +$", "", text, flags=re.MULTILINE)


def _found(target: str) -> Callable[..., Any]:
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        msg = f"{target!a} names no function; write MODULE:NAME, for example mypackage.stores:open_store"
        raise CommandError(msg, USAGE_STATUS)
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            msg = f"there is no module {exc.name}, neither in the current directory nor where Python looks"
            raise CommandError(msg, USAGE_STATUS) from exc
        raise
    for part in name.split("."):
        if not hasattr(value, part):
            msg = f"{module_name} has no {name}"
            raise CommandError(msg, USAGE_STATUS)
        value = getattr(value, part)
    if not callable(value):
        msg = f"{target} is no function but {type(value).__name__}"
        raise CommandError(msg, USAGE_STATUS)
    found: Callable[..., Any] = value
    return found


# --- the report -----------------------------------------------------------------------------------


def _rendered_report(report: ConformanceReport, console: Console) -> Group:
    parts: list[RenderableType] = [_table(report)]
    for failure in report.failures:
        parts += _failure(failure, console)
    parts.append(Text(_summary(report)))
    return Group(*parts)


def _table(report: ConformanceReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("", no_wrap=True)
    table.add_column("examples", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("")
    row: tuple[Text, str, str, Text]
    for result in report.results():
        match result:
            case ClausePassed():
                left_out = [f"left out: {visible(reason)}" for reason in result.left_out]
                note = Text("\n".join([result.sentence, *left_out]))
                row = (Text("passed", "green"), f"{result.examples:,}", f"{result.seconds:.1f}", note)
            case ClauseFailure():
                verdict = Text("intermittent" if result.intermittent else "FAILED", "bold red")
                note = Text(f"{result.sentence}\nin: {result.check}")
                row = (verdict, f"{result.examples:,}", f"{result.seconds:.1f}", note)
            case ClauseSkipped():
                row = (Text("skipped", "yellow"), "", "", Text(visible(result.reason)))
            case _:
                assert_never(result)
        table.add_row(result.clause, *row)
    return table


def _failure(failure: ClauseFailure, console: Console) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(""),
        Text(f"{failure.clause} {failure.sentence}", "bold"),
        Text(visible(failure.message)),
    ]
    if failure.intermittent:
        parts.append(Text("It passed when it was repeated. This is the history of the run that failed:"))
    parts.append(Text(""))
    # The programs are ASCII, and go into a file as they are.
    colours = console.is_terminal
    parts.append(Syntax(failure.example, "python", word_wrap=True) if colours else Text(failure.example))
    return parts


def _summary(report: ConformanceReport) -> str:
    failed = len({failure.clause for failure in report.failures})
    kept = f"{counted(len(report.passed), 'clause')} passed, {failed} failed, {len(report.skipped)} skipped"
    return f"{kept} in {report.seconds:.1f} s (seed {report.seed})"
