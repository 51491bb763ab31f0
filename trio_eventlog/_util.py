"""Small things that every floor may use. Floor 0: the standard library only."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class NoPublicConstructor(type):
    """Metaclass of classes that only their own module builds, with ``_create``."""

    def __call__(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refuse."""
        msg = f"{cls.__qualname__} has no public constructor"
        raise TypeError(msg)

    def _create(cls: type[T], *args: Any, **kwargs: Any) -> T:
        # super() here is the metaclass' own: this is what calling the class would have done.
        return super().__call__(*args, **kwargs)  # type: ignore[misc, no-any-return]
