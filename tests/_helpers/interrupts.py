"""Ctrl-C at a chosen place."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def interrupt_in_contextlib(method: str) -> Iterator[None]:
    """Within the block, send this process a SIGINT when contextlib's ``method`` is next called.

    Args:
      method: ``"__aenter__"`` or ``"__aexit__"`` of an async context manager. The signal arrives after the
        call has begun and before the first line of the method has run.
    """

    with interrupt_in("contextlib.py", method):
        yield


@contextmanager
def interrupt_in(file: str, function: str) -> Iterator[None]:
    """The same for a function of a file that is named by the end of its path."""

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        code = frame.f_code
        if event != "call" or code.co_name != function or not code.co_filename.endswith(file):
            return None

        def interrupt(_frame: FrameType, _event: str, _argument: object) -> None:
            sys.settrace(before)
            signal.raise_signal(signal.SIGINT)

        return interrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
