"""The stored events that a filter lets through, in order of seq, for looking up what a result lacks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import attrs

from trio_eventlog import EventQuery
from trio_eventlog.testing._history._min_tree import MinTree
from trio_eventlog.testing._history._offers import NEVER, Atom, Offer
from trio_eventlog.testing._history._operations import QueryOperation

Filter: TypeAlias = tuple[object, ...]

_MAX_FILTERS: Final = 100
"""Each different filter takes a look at every event."""

_FILTERING: Final = tuple(
    field.name for field in attrs.fields(EventQuery) if field.name not in ("after_seq", "limit")
)


@attrs.frozen
class Window:
    """What a query had to show: the seqs above ``after``, up to ``upto``."""

    after: int
    upto: float

    @classmethod
    def of(cls, query: QueryOperation, after_seq: int) -> Window:
        """The window of a query, on a log of which only what is above ``after_seq`` is known."""
        asked = query.query
        after = max(asked.after_seq or 0, after_seq)
        if asked.limit is None or len(query.found) < asked.limit:
            return cls(after, NEVER)
        return cls(after, max((seq for seq, _ in query.found), default=after))

    def range_of(self, seqs: Sequence[int]) -> tuple[int, int]:
        """Where it begins and ends in ascending seqs."""
        return bisect_right(seqs, self.after), bisect_right(seqs, self.upto)


class Group:
    """The stored events that one filter lets through."""

    def __init__(self, offers: Iterable[Offer], asked: EventQuery | None) -> None:
        self._asked = asked
        self.offers = [offer for offer in offers if asked is None or asked.matches(offer.event)]
        self.seqs = [offer.seq for offer in self.offers]
        self.tree = MinTree([offer.stored_from for offer in self.offers])
        self._places = {seq: place for place, seq in enumerate(self.seqs)}
        self._of_atoms: dict[Atom, tuple[list[int], list[Offer]]] = {}

    def places(self, found: Iterable[Offer]) -> list[int]:
        """Where these events are, in order."""
        places = self._places
        known = {places[offer.key[0]] for offer in found if not offer.excused and offer.key[0] in places}
        return sorted(known)

    def of_atom(self, atom: Atom, window: Window) -> list[Offer]:
        """The events of ``atom`` that the filter lets through, in a window."""
        known = self._of_atoms.get(atom)
        if known is None:
            matching = [
                offer for offer in atom.offers if self._asked is None or self._asked.matches(offer.event)
            ]
            matching.sort(key=lambda offer: offer.seq)
            known = self._of_atoms[atom] = ([offer.seq for offer in matching], matching)
        start, stop = window.range_of(known[0])
        return known[1][start:stop]


class Groups:
    """The groups of all filters, made as they are asked for."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        stored = [offer for offer in offers if offer.was_stored and not offer.excused]
        self._stored = sorted(stored, key=lambda offer: offer.seq)
        self._groups: dict[Filter, Group] = {}

    def of(self, query: EventQuery) -> Group | None:
        """The group of a query's filter; None if there are too many of them."""
        key = tuple(getattr(query, name) for name in _FILTERING)
        group = self._groups.get(key)
        if group is None and len(self._groups) < _MAX_FILTERS:
            is_filtered = attrs.evolve(query, after_seq=None, limit=None) != EventQuery()
            asked = attrs.evolve(query, after_seq=None, limit=None) if is_filtered else None
            group = self._groups[key] = Group(self._stored, asked)
        return group


def gaps(places: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The ranges between ``start`` and ``stop`` that have none of ``places``, which ascend."""
    first, last = bisect_left(places, start), bisect_left(places, stop)
    if last - first and places[last - 1] - places[first] == last - first - 1:
        # No gap between them.
        if start < places[first]:
            yield start, places[first]
        start = places[last - 1] + 1
    else:
        for place in places[first:last]:
            if start < place:
                yield start, place
            start = place + 1
    if start < stop:
        yield start, stop
