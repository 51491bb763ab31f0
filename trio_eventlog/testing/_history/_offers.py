"""What was appended: every event that a store may hold, since when it does, and with which others."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

import attrs

from trio_eventlog import PersistedEvent
from trio_eventlog.testing._history._operations import (
    AppendOperation,
    LastSeqOperation,
    Operation,
    Outcome,
)

Key: TypeAlias = tuple[int, str]
"""A seq and an id."""

NEVER: Final = math.inf


@attrs.define(eq=False)
class Atom:
    """Events that the same appends have offered: all of them are stored, or none.

    Attributes:
      appends: the numbers of these appends.
      offers: the events.
      implied: other events that were in each of these appends as well, and so are stored if these are.
    """

    appends: frozenset[int]
    offers: list[Offer] = attrs.Factory(list)
    implied: list[Atom] = attrs.Factory(list)


@attrs.define(eq=False)
class Offer:
    """An event on a seq that some append, which did not certainly fail, was to store.

    Attributes:
      key: its seq and its id.
      event: the event, for filters.
      appends: the numbers of these appends.
      first_began: when the first of them began. It was not stored before.
      acknowledged: when the first of them had returned. It is stored from then on.
      settled: from then on it is stored, or never will be.
      first_read: when a query that found it first ended.
      last_read: when the last one did.
      proof: an operation that shows that it was stored.
      excused: whether something else is known to be wrong with it, or the store went back behind it.
      lost: whether it was found to be lost.
      atom: what it belongs to; None if it may be stored without any other.
    """

    key: Key
    event: PersistedEvent
    appends: list[int]
    first_began: float = NEVER
    acknowledged: float = NEVER
    settled: float = -NEVER
    first_read: float = NEVER
    last_read: float = -NEVER
    proof: Operation | None = None
    excused: bool = False
    lost: bool = False
    atom: Atom | None = None

    @property
    def seq(self) -> int:
        """Its seq."""
        return self.key[0]

    @property
    def was_stored(self) -> bool:
        """Whether that is certain."""
        return self.proof is not None

    @property
    def stored_from(self) -> float:
        """When it was stored at the latest; never, if that is not certain.

        That another instance has found it does not count: until its append returns, the appender itself need
        not find it.
        """
        return min(self.acknowledged, self.settled) if self.was_stored else NEVER


@attrs.define
class Offers:
    """What was appended.

    Attributes:
      appends: all appends, by number.
      by_key: the events that a store may hold.
      failed: the appends by their events, of those that certainly failed.
      went_back_to: above this seq, the store has admitted that it forgot events.
      superseded: for each instance that appends, when another one had taken its place.
    """

    appends: Sequence[AppendOperation]
    by_key: dict[Key, Offer]
    failed: dict[Key, AppendOperation]
    went_back_to: float
    superseded: dict[str, float]

    def is_reader(self, operation: Operation) -> bool:
        """Whether the instance of ``operation`` may lag behind what others appended."""
        return operation.read_only or self.superseded.get(operation.instance, NEVER) < operation.began

    def appended(self, offer: Offer) -> list[Operation]:
        """The appends of an event."""
        return [self.appends[number] for number in offer.appends]


def collect_offers(operations: Sequence[Operation], after_seq: int) -> Offers:
    """Everything that was appended above ``after_seq``."""
    appends = [operation for operation in operations if isinstance(operation, AppendOperation)]
    starts = _starts(operations)
    settled = _settle_times(operations, appends, sorted(starts.values()))
    failed: dict[Key, AppendOperation] = {}
    by_key: dict[Key, Offer] = {}
    for number, append in enumerate(appends):
        for event in append.batch:
            key = (event.seq, event.id)
            if event.seq <= after_seq:
                continue
            if append.outcome is Outcome.FAILED:
                failed.setdefault(key, append)
            elif event.seq not in append.returned:
                offer = by_key.get(key)
                if offer is None:
                    offer = by_key[key] = Offer(key, event, [])
                _note(offer, number, append, settled[number])
    went_back_to = min((append.went_back_to or 0 for append in appends if _went_back(append)), default=NEVER)
    for offer in by_key.values():
        offer.excused = offer.seq > went_back_to
    return Offers(appends, by_key, failed, went_back_to, _superseded(starts))


def _note(offer: Offer, number: int, append: AppendOperation, settled: float) -> None:
    if offer.appends and offer.appends[-1] == number:
        return  # twice in a batch
    offer.appends.append(number)
    offer.first_began = min(offer.first_began, append.began)
    offer.settled = max(offer.settled, settled)
    if append.outcome is Outcome.OK and append.ended < offer.acknowledged:
        offer.acknowledged = append.ended
        offer.proof = append


def _went_back(append: AppendOperation) -> bool:
    return append.went_back_to is not None


# --- when nothing of an append can be stored any more ---------------------------------------------


def _starts(operations: Iterable[Operation]) -> dict[str, float]:
    """When each instance that is open for appending was first used."""
    starts: dict[str, float] = {}
    for operation in operations:
        if not operation.read_only:
            start = starts.get(operation.instance, NEVER)
            starts[operation.instance] = min(start, operation.began)
    return starts


def _superseded(starts: dict[str, float]) -> dict[str, float]:
    """One appender has a log open at a time: the next one ends the turn of the one before."""
    ordered = sorted(starts.items(), key=lambda item: item[1])
    following = [*(start for _, start in ordered), NEVER][1:]
    return {instance: start for (instance, _), start in zip(ordered, following, strict=True)}


def _settle_times(
    operations: Sequence[Operation], appends: Sequence[AppendOperation], starts: Sequence[float]
) -> list[float]:
    """For each append, when its outcome was settled.

    That is when it returned; or else when a later append or ``last_seq`` of its instance had returned, or
    when the next instance was open, since either comes after it in the backend's order.
    """
    calls: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.outcome is Outcome.OK and isinstance(operation, AppendOperation | LastSeqOperation):
            calls[operation.instance].append(operation)
    barriers: dict[str, tuple[list[float], list[float]]] = {}
    for instance, made in calls.items():
        made.sort(key=lambda call: call.began)
        # Of those that began at a time or later, the first to end.
        ends = list(accumulate((call.ended for call in reversed(made)), min))[::-1]
        barriers[instance] = ([call.began for call in made], [*ends, NEVER])
    settled: list[float] = []
    for append in appends:
        if append.outcome is Outcome.OK:
            settled.append(append.ended)
            continue
        begins, ends = barriers.get(append.instance, ([], [NEVER]))
        next_call = ends[bisect_left(begins, append.ended)]
        place = bisect_right(starts, append.began)
        # That instance was open before it was used.
        opened = math.nextafter(starts[place], -NEVER) if place < len(starts) else NEVER
        settled.append(min(next_call, opened))
    return settled


# --- what is stored together ----------------------------------------------------------------------


def group_atoms(offers: Offers) -> None:
    """Find out which events are stored together, and tell them."""
    keys_of_id: dict[str, int] = defaultdict(int)
    for _, event_id in offers.by_key:
        keys_of_id[event_id] += 1
    atoms: dict[tuple[int, ...], Atom] = {}
    for offer in offers.by_key.values():
        # An id that was offered on several seqs may be held under another than this one.
        if not offer.excused and keys_of_id[offer.key[1]] == 1:
            found = atoms.setdefault(tuple(offer.appends), Atom(frozenset(offer.appends)))
            found.offers.append(offer)
    of_append: dict[int, list[Atom]] = defaultdict(list)
    for atom in atoms.values():
        for number in atom.appends:
            of_append[number].append(atom)
    for atom in atoms.values():
        fewest = min((of_append[number] for number in atom.appends), key=len)
        atom.implied = [other for other in fewest if other is not atom and atom.appends <= other.appends]
    for atom in atoms.values():
        if len(atom.offers) > 1 or atom.implied:
            for offer in atom.offers:
                offer.atom = atom
