"""``trio-eventlog check-history``: judge what was recorded of a log."""

from __future__ import annotations

from typing import Annotated, Final

import trio
from cyclopts import Parameter
from cyclopts.validators import Number as InRange

from trio_eventlog._util import how_to_install
from trio_eventlog.cli._options import USAGE_STATUS, Count
from trio_eventlog.cli._terminal import CommandError, visible, write

EXAMPLES: Final = """
trio-eventlog check-history history.jsonl
trio-eventlog check-history writer.jsonl reader.jsonl --after-seq 1000
"""


def check_history(
    file: Annotated[str, Parameter(metavar="FILE")],
    /,
    *more: Annotated[str, Parameter(metavar="FILE")],
    after_seq: Count = 0,
    max_skew: Annotated[
        float | None, Parameter(metavar="SECONDS", validator=InRange(gte=0, lte=1_000_000))
    ] = None,
) -> int:
    """Check whether a store that keeps the contract could have done what was recorded.

    The files are histories that your programs recorded with `trio_eventlog.testing`. Give those of all
    processes that used the log at the same time. Each anomaly is printed by its name, with the operations
    that show it. The exit status is 1 if there is one, and 2 if a file is not a history. Needs the extra
    `testing`.

    Args:
      file: A file with a history.
      more: Further files, with histories of the same log.
      after_seq: Only check events above this seq: the last seq before the recording began.
      max_skew: How far the wall clocks may differ, if the files come from several machines.
    """
    try:
        from trio_eventlog import testing  # noqa: PLC0415 - needs another extra
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "hypothesis":
            raise
        raise CommandError(f"check-history needs Hypothesis: {how_to_install('testing')}") from exc
    try:
        report = testing.check_history([file, *more], after_seq=after_seq, max_skew=max_skew)
    except ValueError as exc:
        # The command line is as wrong as a file that it names, or as an option that it lacks.
        if not isinstance(exc, testing.HistoryFormatError) and not str(exc).startswith("max_skew:"):
            raise
        raise CommandError(str(exc).replace("max_skew:", "--max-skew:"), USAGE_STATUS) from exc
    except OSError as exc:
        raise CommandError(f"{exc.filename}: {exc.strerror}", USAGE_STATUS) from exc
    trio.run(write, "".join(f"{visible(line)}\n" for line in str(report).splitlines()))
    return 1 if report.anomalies else 0
