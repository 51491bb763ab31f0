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

    ``trio.lowlevel.enable_ki_protection`` on the generator function is not enough: a KeyboardInterrupt in
    contextlib's own frames, which run before and after those of the generator, would leave the generator
    suspended and what it holds open. Here the protection begins outside of contextlib. The body of the
    ``async with`` block is not protected. An interrupt that arrives meanwhile is raised at the next
    checkpoint of the main task, which may be one within the generator.

    Args:
      make: a function that ``contextlib.asynccontextmanager`` has decorated.
    """

    @wraps(make)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
        return _KIProtected(make(*args, **kwargs))

    return wrapper
