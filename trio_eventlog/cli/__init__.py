"""The command line: ``trio-eventlog``, or ``python -m trio_eventlog``.

On the public API alone. Needs the extra ``cli``; this module itself does not, so that :func:`main` can say
so. Beside it, one module for each subcommand, and what they share:

* ``_app``: the commands, their options and help texts, and how errors become exit statuses
* ``_options``: options that several commands have
* ``_terminal``: writing to standard output and to terminals, safely
* ``_pages``: reading page by page
* ``_patience``: going on when a store has failed for a reason that may pass
* ``_progress``: how far a command is, on a terminal
* ``_process``: standard streams that are closed, and signals that end a process
* ``_signals``: ending in good order when a signal asks for it
* ``_envelopes``: reading files of envelopes, in blocks, off the event loop
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from trio_eventlog._util import how_to_install
from trio_eventlog.cli._process import ending_alike, open_standard_streams

_EXTRA: Final = ("cyclopts", "rich")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
      arguments: what comes after the name of the program; by default, what the process was given.

    Raises:
      SystemExit: always. The status is 0 for success; 1 if the command failed, or did less than it was asked
        to; 2 if it was not understood; 128 and the number of the signal if a signal ended it.
    """
    open_standard_streams()
    with ending_alike() as ending:
        try:
            status = _run(sys.argv[1:] if arguments is None else arguments)
        except KeyboardInterrupt:
            status = ending.status
    sys.exit(status)


def _run(arguments: Sequence[str]) -> int:
    try:
        from trio_eventlog.cli._app import run  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.stderr.write(
            f"trio-eventlog: the command line needs {missing}; install it with: {how_to_install('cli')}\n"
        )
        return 1
    return run(arguments)
