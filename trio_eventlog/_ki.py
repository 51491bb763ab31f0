"""Context managers that a KeyboardInterrupt cannot cut in half. Floor 2: Trio."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

import attrs
import trio

P = ParamSpec("P")
T = TypeVar("T")


@attrs.frozen(eq=False)
class _KIProtected(AbstractAsyncContextManager[T]):
    _inner: AbstractAsyncContextManager[T]

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> T:
        return await self._inner.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, traceback)  # noqa: ASYNC102 - the exit itself


def ki_protected(
    make: Callable[P, AbstractAsyncContextManager[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """Decorate an async context manager function so that Ctrl-C cannot cut entering or leaving short.

    ::

        @classmethod
        @ki_protected
        @asynccontextmanager
        async def open(cls, path: str) -> AsyncIterator[Self]: ...

    Trio delivers Ctrl-C from its signal handler, which looks for the innermost frame that says whether it is
    protected. In an unprotected one it raises KeyboardInterrupt there and then, between any two bytecodes;
    otherwise it leaves that to the next checkpoint of the main task. ``async with`` on a function that
    ``contextlib.asynccontextmanager`` has decorated runs two sorts of frames: those of the generator, and
    contextlib's own ``__aenter__`` and ``__aexit__``, which run before and after each step of it.
    ``trio.lowlevel.enable_ki_protection`` on the generator function protects only the first sort. An
    interrupt in the second, say after the generator has opened a file and yielded but before ``async with``
    is told, leaves the generator suspended: the body never runs, and neither does ``__aexit__``, so nothing
    closes the file until the garbage collector comes.

    Here the protection begins outside of contextlib, so that entering and leaving are each done in full or
    cut short at a checkpoint, where the generator sees the interrupt and can clean up. The body of the
    ``async with`` block is the caller's frame, and is not protected.

    Args:
      make: a function that ``contextlib.asynccontextmanager`` has decorated.
    """

    @wraps(make)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
        return _KIProtected(make(*args, **kwargs))

    return wrapper
