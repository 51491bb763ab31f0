"""The command line: ``trio-eventlog``, or ``python -m trio_eventlog``.

Built on the public API. Needs the extra ``cli``; this module itself does not, so that :func:`main` can say
so. There is one module for each subcommand, and these shared ones:

* ``_app``: the list of commands, and how errors become exit statuses
* ``_options``: options that several commands share
* ``_terminal``: printing to standard output and to terminals, safely
* ``_reading``: reading page by page
* ``_running``: progress, stopping on signals, and retrying a store that fails
* ``_process``: closed standard streams, and signals that end a process
* ``_envelopes``: reading files of envelopes, in blocks, off the event loop
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from trio_eventlog._util import how_to_install
from trio_eventlog.cli._process import ending_like_ctrl_c, open_standard_streams

__all__ = ["main"]

_EXTRA: Final = ("cyclopts", "rich")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
      arguments: the arguments after the name of the program; by default, those of the process.

    Raises:
      SystemExit: always. The status is 0 for success; 1 if the command failed or could not do everything;
        2 if the command line was invalid; 128 plus the number of the signal if a signal ended it.
    """
    open_standard_streams()
    with ending_like_ctrl_c() as ending:
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
