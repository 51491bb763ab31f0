"""What last_seq returned: neither less than what was stored before, nor what nobody appended."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from trio_eventlog.testing._history._offers import NEVER, Offer, Offers
from trio_eventlog.testing._history._operations import LastSeqOperation, Operation, Outcome
from trio_eventlog.testing._history._reads import Read
from trio_eventlog.testing._history._report import ABORTED, PHANTOM, REAL_TIME, STALE, Findings


class _Floor:
    """The highest of the seqs that were known before a time."""

    def __init__(self, known: list[tuple[float, int, Operation | None]]) -> None:
        known.sort(key=lambda item: item[0])
        self._times = [time for time, _, _ in known]
        self._highest: list[tuple[int, Operation | None]] = []
        highest: tuple[int, Operation | None] = (0, None)
        for _, seq, operation in known:
            highest = max(highest, (seq, operation), key=lambda item: item[0])
            self._highest.append(highest)

    def before(self, time: float) -> tuple[int, Operation | None]:
        """The highest seq, and what shows it."""
        count = bisect_left(self._times, time)
        return self._highest[count - 1] if count else (0, None)


class LastSeqJudge:
    """Judges what ``last_seq`` returned."""

    def __init__(self, offers: Offers, findings: Findings, *, after_seq: int, skew: float) -> None:
        self._offers = offers
        self._findings = findings
        self._after_seq = after_seq
        self._skew = skew

    def judge(self, calls: Sequence[LastSeqOperation], reads: Sequence[Read]) -> None:
        """Judge all calls; ``reads`` tell what their instances had seen before."""
        stored = [
            (offer.stored_from, offer.seq, offer.proof)
            for offer in self._offers.by_key.values()
            if offer.was_stored and not offer.excused and not offer.lost
        ]
        everybody = _Floor(stored)
        own: dict[str, list[tuple[float, int, Operation | None]]] = defaultdict(list)
        for read in reads:
            sound = [offer.seq for offer in read.offers if not offer.excused and not offer.lost]
            if sound:
                own[read.query.instance].append((read.query.ended, max(sound), read.query))
        for call in calls:
            if call.last_seq is not None and call.outcome is Outcome.OK:
                own[call.instance].append((call.ended, call.last_seq, call))
        floors = {instance: _Floor(known) for instance, known in own.items()}
        began = self._began_by_seq()
        for call in calls:
            if call.last_seq is None or call.outcome is not Outcome.OK:
                continue
            floor = floors[call.instance].before(call.began)
            if not self._offers.is_reader(call):
                by_all = everybody.before(call.began - self._skew)
                floor = max(floor, by_all, key=lambda item: item[0])
            if not self._report_unknown(call, began):
                self._report_stale(call, *floor)

    def _began_by_seq(self) -> dict[int, Offer]:
        first: dict[int, Offer] = {}
        for offer in self._offers.by_key.values():
            if offer.seq not in first or offer.first_began < first[offer.seq].first_began:
                first[offer.seq] = offer
        return first

    def _report_stale(self, call: LastSeqOperation, floor: int, proof: Operation | None) -> None:
        assert call.last_seq is not None
        if self._offers.went_back_to < NEVER:
            floor = min(floor, int(self._offers.went_back_to))
        if call.last_seq < floor:
            self._findings.add(
                STALE,
                f"last_seq by {call.process} returned {call.last_seq} at {self._findings.when(call.ended)}",
                f"expected at least {floor}, which was known before the call",
                [floor],
                [call] if proof is None else [proof, call],
            )

    def _report_unknown(self, call: LastSeqOperation, began: dict[int, Offer]) -> bool:
        """Report a last seq that no event can have."""
        assert call.last_seq is not None
        if call.last_seq <= self._after_seq:
            return False
        offer = began.get(call.last_seq)
        message = f"last_seq by {call.process} returned {call.last_seq} at {self._findings.when(call.ended)}"
        if offer is not None:
            if offer.first_began <= call.ended + self._skew:
                return False
            appends = self._offers.appended(offer)
            self._findings.add(
                REAL_TIME, message, "its append had not begun", [call.last_seq], [call, *appends]
            )
            return True
        failed = [append for (seq, _), append in self._offers.failed.items() if seq == call.last_seq]
        name, expected = (
            (ABORTED, "the append of an event there failed") if failed else (PHANTOM, "nobody appended that")
        )
        self._findings.add(name, message, expected, [call.last_seq], [*failed, call])
        return True
