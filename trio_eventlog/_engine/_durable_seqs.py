"""Which events of a run are in the store, as ranges of seqs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

MAX_SPANS: Final = 1024
"""Highest number of ranges that are kept. Beyond it the two oldest are merged, and their gaps forgotten."""


@attrs.frozen
class Span:
    """``count`` seqs from ``first``, which is one of them, to ``last``."""

    first: int
    last: int
    count: int

    @property
    def is_exact(self) -> bool:
        """Whether there is no gap in it."""
        return self.count == self.last - self.first + 1


class DurableSeqs:
    """The seqs of the events that the store has taken."""

    def __init__(self) -> None:
        self._spans: list[Span] = []  # ascending; usually one
        self.count = 0
        """How many seqs there are."""

    @property
    def last(self) -> int:
        """The highest of them; 0 if there is none."""
        return self._spans[-1].last if self._spans else 0

    def add(self, seqs: Sequence[int]) -> None:
        """Add ``seqs``, at least one, ascending and above all before."""
        self.count += len(seqs)
        if seqs[-1] - seqs[0] + 1 == len(seqs):
            # Usually: then nothing has to be asked for each.
            self._append(Span(seqs[0], seqs[-1], len(seqs)))
            return
        first = 0
        for place in range(1, len(seqs) + 1):
            if place == len(seqs) or seqs[place] != seqs[place - 1] + 1:
                self._append(Span(seqs[first], seqs[place - 1], place - first))
                first = place

    def _append(self, span: Span) -> None:
        spans = self._spans
        if spans and spans[-1].last + 1 == span.first and spans[-1].is_exact:
            spans[-1] = Span(spans[-1].first, span.last, spans[-1].count + span.count)
            return
        spans.append(span)
        if len(spans) > MAX_SPANS:
            oldest, older = spans[:2]
            spans[:2] = [Span(oldest.first, older.last, oldest.count + older.count)]

    def take_after(self, seq: int) -> list[Span]:
        """Remove all above ``seq``, and return them.

        Of a range whose gaps are forgotten, the part above counts as many as there can be there.
        """
        taken: list[Span] = []
        while self._spans and self._spans[-1].last > seq:
            span = self._spans.pop()
            if span.first <= seq:
                # Its first is certainly not above.
                above = min(span.count - 1, span.last - seq)
                self._spans.append(Span(span.first, seq, span.count - above))
                span = Span(seq + 1, span.last, above)
            taken.append(span)
            self.count -= span.count
        return taken[::-1]
