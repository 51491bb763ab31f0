"""What the process was given, put in order before anything else: its standard streams and its signals.

The standard library only: the extra may be missing.
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
"""Signals that ask a process to end, beside SIGINT."""

_CLOSED: Final = ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY))
"""What stands for standard streams that are closed. Reading the first or writing the second fails."""


def open_standard_streams() -> None:
    """Give standard streams that are closed their numbers back.

    The next file would get the number, and then what is meant for the stream; and Python has None for them.
    """
    for number, flags in _CLOSED:
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: those below are taken by now.
            os.set_inheritable(os.open(os.devnull, flags), True)
    # Never closed: whoever has one in hand when the program ends may still use it.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above


class Ending:
    """Which signal has asked the process to end."""

    def __init__(self) -> None:
        self._number: int = signal.SIGINT

    @property
    def status(self) -> int:
        """Exit status after a KeyboardInterrupt, as shells count them."""
        return 128 + self._number

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        # Trio's, while it runs: it knows where the exception may be raised.
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)


@contextmanager
def ending_alike() -> Iterator[Ending]:
    """For the length of the block, let every signal that ends a process do what Ctrl-C does.

    By itself it would end the process in the midst of anything; and not at all if that is number 1 of a
    container. What is ignored, as by ``nohup``, stays ignored.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before: dict[int, object] = {}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and hasattr(signal, "pthread_sigmask"):
        # As a job in the background of a script: it still needs what stands behind Ctrl-C.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, ending._interrupt)
    try:
        yield ending
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
