"""Ctrl-C that is not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import attrs


@attrs.define
class Interrupts:
    """Whether Ctrl-C came.

    Its KeyboardInterrupt may be raised in a callback of the garbage collector or of a weak reference, where
    Python prints it and goes on. Hypothesis makes so much garbage that this happens.
    """

    came: bool = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C came."""
        if self.came:
            raise KeyboardInterrupt


@contextmanager
def noticed_interrupts() -> Iterator[Interrupts]:
    """Note every Ctrl-C during the block, besides what it does otherwise."""
    interrupts = Interrupts()
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    inner = handler

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.came = True
        inner(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, handler)
