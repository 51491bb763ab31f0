"""Standard streams that are closed, and signals that end a process.

Uses the standard library only, since the extra may be missing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
"""Signals other than SIGINT that ask a process to end."""

_PLACEHOLDERS: Final = ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY))
"""How ``/dev/null`` is opened in place of closed streams, so that reading 0 or writing to 1 fails."""


def open_standard_streams() -> None:
    """Reserve the file descriptors of standard streams that are closed.

    Otherwise the next file that is opened would get the number, and with it what is meant for the stream.
    Python also has None instead of such a stream.
    """
    for number, flags in _PLACEHOLDERS:
        try:
            os.fstat(number)
        except OSError:
            # Gets the lowest free number, which is this one: those below are taken.
            os.set_inheritable(os.open(os.devnull, flags), True)
    # Never closed, since they may still be used while the interpreter exits.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above


class EndingSignal:
    """The signal that asked the process to end."""

    def __init__(self) -> None:
        self._number: int = signal.SIGINT

    @property
    def status(self) -> int:
        """Exit status after a KeyboardInterrupt, by the convention of shells."""
        return 128 + self._number

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        # While Trio runs, this is its handler, which knows where the exception may be raised.
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)


@contextmanager
def ending_like_ctrl_c() -> Iterator[EndingSignal]:
    """Let every signal that ends a process do what Ctrl-C does, for the length of the block.

    By default such a signal ends the process at any point, or has no effect on process 1 of a container.
    Signals that are ignored, as under ``nohup``, stay ignored.
    """
    ending = EndingSignal()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    replaced: list[int] = []
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and hasattr(signal, "pthread_sigmask"):
        # Shells start background jobs like this. Python's handler is still needed for the other signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, ending._interrupt)
            replaced.append(number)
    try:
        yield ending
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)
