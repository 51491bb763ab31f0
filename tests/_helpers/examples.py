"""How many examples a property gets."""

from collections.abc import Callable
from typing import Any

from hypothesis import settings

_USUAL = settings.get_profile("dev").max_examples


def few(number: int, **options: Any) -> Callable[[Any], Any]:
    """Settings of a test whose examples take long: so many, instead of the usual number of the profile "dev".

    The other profiles have more or fewer in proportion.
    """
    return settings(max_examples=max(number * settings.default.max_examples // _USUAL, 1), **options)
