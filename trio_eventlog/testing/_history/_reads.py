"""What was read: events that nobody appended, or in vain, and events that come twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs

from trio_eventlog.testing._history._offers import NEVER, Key, Offer, Offers
from trio_eventlog.testing._history._operations import Operation, QueryOperation, shown_seqs
from trio_eventlog.testing._history._report import (
    ABORTED,
    DUPLICATE,
    PHANTOM,
    REAL_TIME,
    TWO_EVENTS,
    Findings,
)


@attrs.define(eq=False)
class Read:
    """A query, with the events that it found and somebody appended."""

    query: QueryOperation
    offers: list[Offer]
    landed_after: float = -NEVER
    """When the append of one of these events began: what was stored before must have been found, too."""


class ReadJudge:
    """Judges what queries found. What is wrong with an event here is not held against it again."""

    def __init__(self, offers: Offers, findings: Findings, *, after_seq: int, skew: float) -> None:
        self._offers = offers
        self._findings = findings
        self._after_seq = after_seq
        self._skew = skew
        self._by_seq: dict[int, Offer] = {}
        self._by_id: dict[str, Offer] = {}
        self._doubtful_seqs: set[int] = set()
        self._doubtful_ids: set[str] = set()

    def judge(self, queries: Sequence[QueryOperation]) -> list[Read]:
        """Judge all that was read, in the order given."""
        for offer in self._offers.by_key.values():
            if offer.was_stored:
                self._claim(offer)
        reads = [self._judge_one(query) for query in queries]
        for offer in self._offers.by_key.values():
            if offer.seq in self._doubtful_seqs or offer.key[1] in self._doubtful_ids:
                offer.excused = True
        for read in reads:
            began = [offer.first_began for offer in read.offers if not offer.excused]
            read.landed_after = max(began, default=-NEVER)
        return reads

    def _judge_one(self, query: QueryOperation) -> Read:
        found: list[Offer] = []
        strange: list[Key] = []
        early: list[Offer] = []
        by_key, ended, latest = self._offers.by_key, query.ended, query.ended + self._skew
        for key in query.found:
            offer = by_key.get(key)
            if offer is None:
                if key[0] > self._after_seq:
                    strange.append(key)
                continue
            if offer.first_began > latest:
                early.append(offer)
                continue
            if offer.proof is None:
                offer.proof = query
                self._claim(offer)
            offer.first_read = min(offer.first_read, ended)
            offer.last_read = max(offer.last_read, ended)
            found.append(offer)
        if len(set(query.found)) != len(query.found):
            self._report_twice(query)
        if strange:
            self._report_strange(query, strange)
        if early:
            self._report_early(query, early)
        return Read(query, found)

    def _claim(self, offer: Offer) -> None:
        """Note that an event is stored, and compare with others that were."""
        seq, event_id = offer.key
        if seq > self._offers.went_back_to:
            return
        sitting = self._by_seq.setdefault(seq, offer)
        if sitting is not offer:
            self._doubtful_seqs.add(seq)
            self._report_pair(
                TWO_EVENTS,
                f"seq {seq} has the events {sitting.key[1]!a} and {event_id!a}",
                "expected SequenceConflict for the second",
                sitting,
                offer,
            )
        known = self._by_id.setdefault(event_id, offer)
        if known is not offer:
            self._doubtful_ids.add(event_id)
            self._report_pair(
                DUPLICATE,
                f"event {event_id!a} has the seqs {known.seq} and {seq}",
                "expected the first to stay, and append_batch to return the second",
                known,
                offer,
            )

    def _report_pair(self, name: str, message: str, expected: str, first: Offer, second: Offer) -> None:
        operations = [offer.proof for offer in (first, second) if offer.proof is not None]
        appends = [append for offer in (first, second) for append in self._offers.appended(offer)]
        self._findings.add(name, message, expected, [first.seq, second.seq], [*appends, *operations])

    def _report_twice(self, query: QueryOperation) -> None:
        twice = [seq for (seq, _), count in Counter(query.found).items() if count > 1]
        message = f"a query by {query.process} found {shown_seqs(twice)} twice"
        self._findings.add(DUPLICATE, message, "expected each event once", twice, [query])

    def _report_strange(self, query: QueryOperation, strange: list[Key]) -> None:
        self._doubtful_seqs.update(seq for seq, _ in strange)
        self._doubtful_ids.update(event_id for _, event_id in strange)
        failed = self._offers.failed
        aborted = [key for key in strange if key in failed]
        if aborted:
            seqs = [seq for seq, _ in aborted]
            self._findings.add(
                ABORTED,
                f"a query by {query.process} found {shown_seqs(seqs)} of an append that failed",
                "expected nothing of it to be stored",
                seqs,
                [*(failed[key] for key in aborted), query],
            )
        phantoms = [seq for seq, event_id in strange if (seq, event_id) not in failed]
        if phantoms:
            message = (
                f"a query by {query.process} found {shown_seqs(phantoms)} with ids that nobody appended there"
            )
            self._findings.add(PHANTOM, message, "expected events that were appended", phantoms, [query])

    def _report_early(self, query: QueryOperation, early: list[Offer]) -> None:
        seqs = [offer.seq for offer in early]
        appends: list[Operation] = [append for offer in early for append in self._offers.appended(offer)]
        self._findings.add(
            REAL_TIME,
            f"a query by {query.process} found {shown_seqs(seqs)} before their append began",
            "expected nothing of it yet",
            seqs,
            [query, *appends],
        )
