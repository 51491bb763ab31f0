"""The report of ``trio-eventlog check``. Needs the extra ``testing``."""

from __future__ import annotations

import re
import sys
from typing import assert_never

from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from trio_eventlog.cli._terminal import counted, is_terminal, rendered, visible, visible_lines
from trio_eventlog.testing import (
    ClauseFailure,
    ClausePassed,
    ClauseSkipped,
    ClauseUnfinished,
    ConformanceReport,
)


def report_text(report: ConformanceReport) -> str:
    """The report as text for standard output."""
    # A table pads its columns with blanks, which do not belong in a file.
    table = re.sub(r" +$", "", rendered(_table(report)), flags=re.MULTILINE)
    texts = [text for failure in report.failures for text in _failure(failure)]
    # What is to be pasted is neither wrapped nor cut, whatever the width.
    return table + rendered(*texts, *_summary(report), soft_wrap=True)


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
                notes = [f"left out: {visible(reason)}" for reason in result.left_out]
                notes += [f"cut short by the budget: {what}" for what in result.cut_short]
                if result.deviation is not None:
                    notes.append(
                        f"declared as a deviation ({visible(result.deviation)}), but not seen to be one"
                    )
                row = (Text("passed", "green"), *_effort(result), Text("\n".join([result.sentence, *notes])))
            case ClauseUnfinished():
                notes = [*result.unfinished, *(f"left out: {visible(reason)}" for reason in result.left_out)]
                note = Text("\n".join([result.sentence, *notes]))
                row = (Text("NOT FINISHED", "bold red"), *_effort(result), note)
            case ClauseFailure() if result.deviation is not None:
                note = Text(f"{result.sentence}\ndeclared: {visible(result.deviation)}")
                row = (Text("deviates", "yellow"), *_effort(result), note)
            case ClauseFailure():
                verdict = Text("intermittent" if result.intermittent else "FAILED", "bold red")
                row = (verdict, *_effort(result), Text(f"{result.sentence}\nin: {result.check}"))
            case ClauseSkipped():
                row = (Text("skipped", "yellow"), "", "", Text(visible(result.reason)))
            case _:
                assert_never(result)
        table.add_row(result.clause, *row)
    return table


def _effort(result: ClausePassed | ClauseFailure | ClauseUnfinished) -> tuple[str, str]:
    return f"{result.examples:,}", f"{result.seconds:.1f}"


def _failure(failure: ClauseFailure) -> list[Text]:
    parts = [
        Text(""),
        Text(f"{failure.clause} {failure.sentence}", "bold"),
        Text(visible_lines(failure.message)),
    ]
    if failure.intermittent:
        parts.append(Text("It passed when it was repeated. This is the history of the run that failed:"))
    parts.append(Text(""))
    # The programs are ASCII, so they are safe to print.
    program = failure.example.rstrip("\n")
    is_coloured = is_terminal(sys.stdout)
    parts.append(Syntax("", "python").highlight(program) if is_coloured else Text(program))
    parts.append(Text(""))
    return parts


def _summary(report: ConformanceReport) -> list[Text]:
    counts = [
        f"{counted(len(report.passed), 'clause')} passed",
        f"{len(report.failures)} failed",
        *([f"{len(report.deviations)} deviate as declared"] if report.deviations else []),
        *([f"{len(report.unfinished)} NOT FINISHED"] if report.unfinished else []),
        f"{len(report.skipped)} skipped",
    ]
    lines = [Text(f"{', '.join(counts)} in {report.seconds:.1f} s (seed {report.seed})")]
    if report.interrupted:
        lines.append(Text("Interrupted: this is what was found so far, and no pass.", "bold red"))
    elif report.unfinished:
        lines.append(
            Text(
                f"Not everything could be tried within {report.settings.budget:g} s, so this is no pass:"
                " raise --budget.",
                "bold red",
            )
        )
    return lines
