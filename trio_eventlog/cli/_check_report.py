"""The report of ``trio-eventlog check``. Needs the extra ``testing``."""

from __future__ import annotations

import re
import sys
from typing import assert_never

from rich.console import RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from trio_eventlog.cli._terminal import counted, is_terminal, rendered, visible
from trio_eventlog.testing import ClauseFailure, ClausePassed, ClauseSkipped, ConformanceReport


def report_text(report: ConformanceReport) -> str:
    """The report as text for standard output."""
    parts: list[RenderableType] = [_table(report)]
    for failure in report.failures:
        parts += _failure(failure)
    parts.append(Text(_summary(report)))
    # A table pads its columns with blanks, which do not belong in a file.
    return re.sub(r" +$", "", rendered(*parts), flags=re.MULTILINE)


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


def _failure(failure: ClauseFailure) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(""),
        Text(f"{failure.clause} {failure.sentence}", "bold"),
        Text(visible(failure.message)),
    ]
    if failure.intermittent:
        parts.append(Text("It passed when it was repeated. This is the history of the run that failed:"))
    parts.append(Text(""))
    # The programs are ASCII, so they are safe to print.
    is_coloured = is_terminal(sys.stdout)
    parts.append(Syntax(failure.example, "python", word_wrap=True) if is_coloured else Text(failure.example))
    return parts


def _summary(report: ConformanceReport) -> str:
    failed = len({failure.clause for failure in report.failures})
    outcome = (
        f"{counted(len(report.passed), 'clause')} passed, {failed} failed, {len(report.skipped)} skipped"
    )
    return f"{outcome} in {report.seconds:.1f} s (seed {report.seed})"
