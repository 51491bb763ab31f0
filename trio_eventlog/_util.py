"""Small helpers for all parts of the package."""

from __future__ import annotations

import os
import shlex
from inspect import get_annotations
from types import FunctionType
from typing import Any, Final, NoReturn, TypeVar

T = TypeVar("T")


class Forks:
    """Tells a process from its children made by ``os.fork``, faster than their ids do."""

    count = 0
    """Forks on the way to this process: another number in each child."""

    @classmethod
    def add(cls) -> None:
        cls.count += 1


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows
    os.register_at_fork(after_in_child=Forks.add)


class NoPublicConstructor(type):
    """Metaclass of classes that only this package creates, with ``_create``.

    ``_made_by`` of a class says what a program writes instead; a class with ``open`` does not need it.
    """

    def __call__(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refuse."""
        made_by = getattr(cls, "_made_by", None)
        if made_by is None and hasattr(cls, "open"):
            made_by = f"async with {cls.__qualname__}.open(…) as store"
        raise TypeError(
            f"{cls.__qualname__} has no public constructor" + (f"; write: {made_by}" if made_by else "")
        )

    def _create(cls: type[T], *args: Any, **kwargs: Any) -> T:
        # super() here is the metaclass' own: this is what calling the class would have done.
        return super().__call__(*args, **kwargs)  # type: ignore[misc, no-any-return]


def adopt_public_names(namespace: dict[str, Any]) -> None:
    """Let the public names of a module, of which these are the ``globals()``, say that they are from there.

    In tracebacks, reprs, pickles and the docs.
    """
    for name in namespace["__all__"]:
        value = namespace.get(name)
        if isinstance(value, type | FunctionType) and "._" in value.__module__:
            adopt(namespace["__name__"], value)


def adopt(module: str, *values: type | FunctionType) -> None:
    """Let classes and functions say that they are imported from ``module``."""
    for value in values:
        if "__annotations__" in vars(value):
            # As strings they would be looked up in the new module, which does not know every name.
            value.__annotations__ = get_annotations(value, eval_str=True)
        value.__module__ = module


_CLI: Final = ("cyclopts>=5", "rich>=13.6")

_EXTRAS: Final = {
    "archive": ("backports.zstd>=1; python_version < '3.14'",),
    "audit": ("cryptography>=43",),
    "cli": _CLI,
    "console": ("anycorn>=0.20,<0.21", "starlette>=0.46"),
    "mobkit": ("h11>=0.14",),
    "nats": ("nkeys>=0.2.1",),
    "postgres": ("psycopg[binary]>=3.2.3,<4",),
    "testing": ("hypothesis>=6.130", "outcome>=1.2", "pytest>=8", *_CLI),
}
"""What pyproject.toml says."""


def how_to_install(extra: str) -> str:
    """The command that installs what ``extra`` stands for.

    It does not name the extra, which works only if it is known where this package came from.
    """
    return f"pip install {' '.join(map(shlex.quote, _EXTRAS[extra]))}"
