"""Looking for small numbers in a part of a list, in logarithmic time."""

from __future__ import annotations

import math
from collections.abc import Sequence


class MinTree:
    """Numbers, and the smallest of every aligned block of 2**n of them."""

    def __init__(self, values: Sequence[float]) -> None:
        leaves = 1
        while leaves < len(values):
            leaves *= 2
        self._leaves = leaves
        blocks = [math.inf] * leaves + list(values) + [math.inf] * (leaves - len(values))
        for index in range(leaves - 1, 0, -1):
            blocks[index] = min(blocks[2 * index], blocks[2 * index + 1])
        self._blocks = blocks

    def first_below(self, start: int, stop: int, bound: float) -> int | None:
        """The first index from ``start`` to before ``stop`` with a number less than ``bound``, if any."""
        if start >= stop:
            return None
        blocks, leaves = self._blocks, self._leaves
        index = start + leaves
        while True:
            # The largest block that begins here.
            while not index & 1:
                index >>= 1
            if blocks[index] < bound:
                break
            index += 1
            if index & (index - 1) == 0:
                return None
        while index < leaves:
            index *= 2
            if blocks[index] >= bound:
                index += 1
        found = index - leaves
        return found if found < stop else None

    def forget(self, place: int) -> None:
        """Let the number at ``place`` be infinite."""
        index = place + self._leaves
        self._blocks[index] = math.inf
        while index > 1:
            index //= 2
            self._blocks[index] = min(self._blocks[2 * index], self._blocks[2 * index + 1])
