"""The list of commands, and how errors become exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final, TextIO

from cyclopts import App, CycloptsError

from trio_eventlog import HAS_CORE, CodecError, EventsLost, EventsPruned, StaleCursor, StoreError
from trio_eventlog.audit import AuditError
from trio_eventlog.cli import (
    _audit,
    _backup,
    _check,
    _check_history,
    _copy,
    _demo,
    _erase,
    _export,
    _ingest,
    _inspect,
    _prune,
    _query,
    _serve,
    _tail,
    _tasks,
)
from trio_eventlog.cli._options import USAGE_STATUS
from trio_eventlog.cli._terminal import (
    PROGRAM,
    CommandError,
    OutputError,
    ReaderGone,
    complain,
    is_terminal,
    layout_console,
    write_now,
)
from trio_eventlog.stores import without_secrets

_EPILOGUE: Final = """\
A store is named by its URL. Without `log=`, that means the log `default`:

```
sqlite:PATH?log=NAME
postgresql://USER@HOST:PORT/DATABASE?log=NAME
nats://HOST:4222,HOST2:4222/STREAM?log=NAME&replicas=3
```

Exit status: 0 on success; 1 if the command failed, events were rejected or lost, a log is damaged, a store
violates a clause, or a history has an anomaly; 2 if the command line is invalid; 3 if a check of a store did
not finish; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP. If the reader of the output goes away, as
`head` does, the command ends silently with status 0.
"""


def _version() -> str:
    form = "with its core in C" if HAS_CORE else "pure Python"
    try:
        return f"{PROGRAM} {version('trio-eventlog')} ({form})"
    except PackageNotFoundError:
        return f"{PROGRAM} (not installed, running from source; {form})"


app = App(
    name=PROGRAM,
    help="Store events in a log, and find them again.",
    help_epilogue=_EPILOGUE,
    help_format="markdown",
    version=_version,
    backend="trio",
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    # run() reports errors, with the conventional exit status.
    print_error=False,
    exit_on_error=False,
)

for _command, _examples in (
    (_backup.adopt, _backup.ADOPT_EXAMPLES),
    (_backup.backup, _backup.BACKUP_EXAMPLES),
    (_audit.check_proof, _audit.CHECK_PROOF_EXAMPLES),
    (_audit.keygen, _audit.KEYGEN_EXAMPLES),
    (_audit.prove, _audit.PROVE_EXAMPLES),
    (_audit.seal, _audit.SEAL_EXAMPLES),
    (_check.check, _check.EXAMPLES),
    (_check_history.check_history, _check_history.EXAMPLES),
    (_copy.copy, _copy.EXAMPLES),
    (_demo.demo, _demo.EXAMPLES),
    (_erase.erase, _erase.EXAMPLES),
    (_export.export, _export.EXAMPLES),
    (_ingest.ingest, _ingest.EXAMPLES),
    (_inspect.stats, _inspect.STATS_EXAMPLES),
    (_inspect.verify, _inspect.VERIFY_EXAMPLES),
    (_prune.prune, _prune.EXAMPLES),
    (_query.query, _query.EXAMPLES),
    (_serve.serve, _serve.EXAMPLES),
    (_backup.restore, _backup.RESTORE_EXAMPLES),
    (_tail.tail, _tail.EXAMPLES),
    (_tasks.tasks, _tasks.EXAMPLES),
):
    app.command(_command, help_epilogue=f"Examples:\n\n```{_examples}```\n")


def run(arguments: Sequence[str]) -> int:
    """Run the command line ``arguments``; return the exit status.

    Raises:
      KeyboardInterrupt: a signal ended it.
    """
    try:
        # Help may be coloured as variables such as FORCE_COLOR say: it is for people even in a pipe.
        console = layout_console(force_terminal=is_terminal(sys.stdout) or None)
        with console.capture() as help_text:
            status = app(arguments, console=console)
        sys.stdout.flush()
        write_now(help_text.get())
    except BaseException as exc:  # noqa: ASYNC103 - Trio has ended: there is no Cancelled here
        inner = _innermost(exc)
        if isinstance(inner, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # noqa: ASYNC104 - as above
        error_status = _report(inner)
        if error_status is None:
            raise
        return error_status  # noqa: ASYNC104 - as above
    finally:
        _discard_if_broken(sys.stderr)
    return status if isinstance(status, int) else 0


def _innermost(exc: BaseException) -> BaseException:
    # Every nursery on the way wraps an exception in a group.
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        (exc,) = exc.exceptions
    return exc


def _report(exc: BaseException) -> int | None:
    """Report what went wrong; return the exit status, or None if ``exc`` is a bug."""
    match exc:
        case ReaderGone():
            _discard(sys.stdout)
            return 0
        case CycloptsError():
            # It may quote an unexpected argument, such as a URL.
            complain(f"{without_secrets(str(exc))} (see {PROGRAM} --help)")
            return USAGE_STATUS
        case OutputError():
            _discard(sys.stdout)
            complain(str(exc))
            return exc.status
        case CommandError():
            complain(str(exc))
            return exc.status
        # Damage in a store is noticed on reading it.
        case StoreError() | EventsLost() | EventsPruned() | CodecError() | StaleCursor() | AuditError():
            complain(str(exc))
            return 1
        case _:
            return None


def _discard(stream: TextIO) -> None:
    # At exit, Python would try to write what it has buffered, and fail again.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def _discard_if_broken(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _discard(stream)
