"""What queries did not find, though it was stored."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import attrs

from trio_eventlog.testing._history._groups import Group, Groups, Window, gaps
from trio_eventlog.testing._history._min_tree import MinTree
from trio_eventlog.testing._history._offers import NEVER, Atom, Offer, Offers
from trio_eventlog.testing._history._operations import MAX_SHOWN, Operation, QueryOperation, shown_seqs
from trio_eventlog.testing._history._reads import Read
from trio_eventlog.testing._history._report import INTERMEDIATE, LOST, NON_MONOTONIC, REAL_TIME, Findings

_MAX_MISSING: Final = 1_000
"""Most missing events of one query that are looked at, those that are lost not counted."""


class Memory:
    """What an instance has shown of a group, and since when."""

    def __init__(self, group: Group, shown: dict[Offer, float]) -> None:
        placed = [(place, shown[group.offers[place]]) for place in group.places(shown)]
        self._places = [place for place, _ in placed]
        self._tree = MinTree([since for _, since in placed])

    def first_before(self, start: int, stop: int, bound: float) -> int | None:
        """The first place from ``start`` to before ``stop`` that was shown before ``bound``."""
        places = self._places
        found = self._tree.first_below(bisect_left(places, start), bisect_left(places, stop), bound)
        return None if found is None else places[found]


@attrs.define(eq=False)
class Instance:
    """The queries of an instance, and what it has shown."""

    reads: list[Read] = attrs.Factory(list)
    shown: dict[Offer, float] = attrs.Factory(dict)
    memories: dict[Group, Memory] = attrs.Factory(dict)

    def remember(self) -> dict[Read, float]:
        """For each read, when the latest append began that an earlier one had shown."""
        for read in self.reads:
            for offer in read.offers:
                self.shown[offer] = min(self.shown.get(offer, NEVER), read.query.ended)
        ended = sorted(self.reads, key=lambda read: read.query.ended)
        reached: dict[Read, float] = {}
        latest, count = -NEVER, 0
        for read in sorted(self.reads, key=lambda read: read.query.began):
            while count < len(ended) and ended[count].query.ended < read.query.began:
                latest = max(latest, ended[count].landed_after)
                count += 1
            reached[read] = latest
        return reached

    def memory(self, group: Group) -> Memory:
        """What it has shown of a group."""
        if group not in self.memories:
            self.memories[group] = Memory(group, self.shown)
        return self.memories[group]


@attrs.define(eq=False)
class Lack:
    """What one query did not find: by the name of what that may be."""

    read: Read
    group: Group
    window: Window
    late: list[Offer] = attrs.Factory(list)
    forgotten: list[Offer] = attrs.Factory(list)
    partial: list[Atom] = attrs.Factory(list)


class MissingJudge:
    """Judges what queries did not find."""

    def __init__(self, offers: Offers, findings: Findings, *, after_seq: int, skew: float) -> None:
        self._offers = offers
        self._findings = findings
        self._after_seq = after_seq
        self._skew = skew
        self._groups = Groups(offers.by_key.values())
        self._instances: dict[str, Instance] = defaultdict(Instance)
        self._reached: dict[Read, float] = {}
        self._lost: dict[int, tuple[Read, list[Offer]]] = {}
        self.unjudged = 0
        """How many queries had a filter too many."""

    def judge(self, reads: Sequence[Read]) -> None:
        """Judge all queries."""
        for read in reads:
            self._instances[read.query.instance].reads.append(read)
        for instance in self._instances.values():
            self._reached |= instance.remember()
        # First everything that is lost: it is not to be reported again as late, or as half of a batch.
        lacks = [lack for read in reads if (lack := self._lack_of(read)) is not None]
        for read, lost in self._lost.values():
            self._report_lost(read, lost)
        for lack in lacks:
            self._report(lack)

    # --- looking ----------------------------------------------------------------------------------

    def _lack_of(self, read: Read) -> Lack | None:
        query = read.query
        if query.query.limit == 0:
            return None
        group = self._groups.of(query.query)
        if group is None:
            self.unjudged += 1
            return None
        lack = Lack(read, group, Window.of(query, self._after_seq))
        lack.partial = list(self._partly_found(lack))
        start, stop = lack.window.range_of(group.seqs)
        holes = list(gaps(group.places(read.offers), start, stop))
        if not holes:
            return lack if lack.partial else None
        self._look(lack, holes)
        return lack if lack.partial or lack.late or lack.forgotten else None

    def _look(self, lack: Lack, holes: Sequence[tuple[int, int]]) -> None:
        """Look for what the query had to find, because of when it was stored or of what was shown before."""
        read, group = lack.read, lack.group
        began, instance = read.query.began, self._instances[read.query.instance]
        due = read.landed_after - self._skew
        if not self._offers.is_reader(read.query):
            due = max(due, began - self._skew)
        for offer in self._stored_before(group, holes, max(due, self._reached[read] - self._skew)):
            is_due = offer.stored_from < due
            if is_due and self._is_lost(read, offer):
                continue
            # What an instance may miss for now, it may not miss again.
            went_back = read.query.read_only and instance.shown.get(offer, NEVER) < began
            (lack.late if is_due and not went_back else lack.forgotten).append(offer)
        memory = instance.memory(group)
        known = {*lack.late, *lack.forgotten}
        for start, stop in holes:
            place = memory.first_before(start, stop, began)
            while place is not None and len(lack.forgotten) < _MAX_MISSING:
                if group.offers[place] not in known:
                    lack.forgotten.append(group.offers[place])
                place = memory.first_before(place + 1, stop, began)

    def _stored_before(self, group: Group, holes: Sequence[tuple[int, int]], bound: float) -> Iterator[Offer]:
        """The events in the holes that were stored before ``bound``."""
        left = _MAX_MISSING
        for start, stop in holes:
            place = group.tree.first_below(start, stop, bound)
            while place is not None and left:
                offer = group.offers[place]
                if offer.lost:
                    group.tree.forget(place)
                else:
                    yield offer
                    if offer.lost:
                        group.tree.forget(place)
                    else:
                        left -= 1
                place = group.tree.first_below(place + 1, stop, bound)

    def _is_lost(self, read: Read, offer: Offer) -> bool:
        """Whether no query found ``offer`` any more from ``read`` on, which had to."""
        if offer.last_read > read.query.began:
            return False
        offer.lost = True
        self._lost.setdefault(offer.appends[-1], (read, []))[1].append(offer)
        return True

    def _partly_found(self, lack: Lack) -> Iterator[Atom]:
        """The atoms of which some events were found, and others in the window were not."""
        counts: dict[Atom, int] = {}
        for offer in lack.read.offers:
            atom = offer.atom
            if atom is not None and not offer.excused:
                counts[atom] = counts.get(atom, 0) + 1
        suspects = dict.fromkeys(atom for found in counts for atom in (found, *found.implied))
        for atom in suspects:
            due = lack.group.of_atom(atom, lack.window)
            if len(due) > counts.get(atom, 0):
                yield atom

    # --- reporting --------------------------------------------------------------------------------

    def _report_lost(self, read: Read, lost: list[Offer]) -> None:
        first = lost[0]
        query = read.query
        if first.acknowledged < NEVER:
            since = f"acknowledged at {self._findings.when(first.acknowledged)}"
        else:
            since = f"found at {self._findings.when(first.first_read)}"
        seqs = [offer.seq for offer in lost]
        self._findings.add(
            LOST,
            f"{shown_seqs(seqs)}, {since}, not found by a query of {query.process} that began at"
            f" {self._findings.when(query.began)}, nor by any after it",
            "expected to be found",
            seqs,
            [*self._proofs(lost), query],
        )

    def _report(self, lack: Lack) -> None:
        query = lack.read.query
        partial = set(lack.partial)
        late = [offer for offer in lack.late if not offer.lost and offer.atom not in partial]
        forgotten = [offer for offer in lack.forgotten if not offer.lost and offer.atom not in partial]
        if late and not query.read_only:
            # One stale result: what else the appender had seen, not yet acknowledged, says no more.
            forgotten = []
        self._report_partial(lack)
        if late:
            seqs = [offer.seq for offer in late]
            when = self._findings.when(min(offer.stored_from for offer in late))
            self._findings.add(
                REAL_TIME,
                f"{shown_seqs(seqs)}, stored by {when}, not found by a query of {query.process} that"
                f" began at {self._findings.when(query.began)}"
                + (" and found what was appended later" if self._offers.is_reader(query) else ""),
                "expected to be found",
                seqs,
                [*self._proofs(late), query],
            )
        if forgotten:
            seqs = [offer.seq for offer in forgotten]
            self._findings.add(
                NON_MONOTONIC,
                f"{shown_seqs(seqs)} not found by a query of {query.process} that began at"
                f" {self._findings.when(query.began)}, though this instance had been further before",
                "expected an instance never to go back",
                seqs,
                [*self._earlier(query, forgotten), query],
            )

    def _report_partial(self, lack: Lack) -> None:
        query = lack.read.query
        found = set(lack.read.offers)
        for atom in lack.partial:
            due = lack.group.of_atom(atom, lack.window)
            missing = [offer.seq for offer in due if offer not in found and not offer.lost]
            if not missing:
                continue
            appends: list[Operation] = [self._offers.appends[number] for number in sorted(atom.appends)]
            self._findings.add(
                INTERMEDIATE,
                f"a query of {query.process} that began at {self._findings.when(query.began)} found a part of"
                f" a batch, but not {shown_seqs(missing)}",
                f"expected all of its {len(due)} events that match, or none",
                missing,
                [*appends, query],
            )

    def _proofs(self, offers: Iterable[Offer]) -> list[Operation]:
        """What shows that the first of these events were stored, and who appended them."""
        operations: list[Operation] = []
        for offer in islice(offers, MAX_SHOWN):
            operations += self._offers.appended(offer)
            operations += [] if offer.proof is None else [offer.proof]
        return operations

    def _earlier(self, query: QueryOperation, forgotten: Sequence[Offer]) -> list[Operation]:
        """The first query of the same instance that had found the first of these events, or was past it."""
        if not self._findings.are_wanted(NON_MONOTONIC):
            return []
        offer = forgotten[0]
        for read in self._instances[query.instance].reads:
            if read.query.ended < query.began and (
                offer in read.offers or read.landed_after > offer.stored_from
            ):
                return [read.query]
        return []
