"""What became of the events of a log: its reports, and the check that nothing vanished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from itertools import pairwise
from typing import Final, TypeVar, TypeVarTuple

import trio
import trio.testing

from trio_eventlog import (
    AppendFailureReport,
    LossReport,
    PersistedEvent,
    Report,
    RevertReport,
    SpillDamageReport,
    SpillFailureReport,
    SpillReport,
)

T = TypeVar("T")
PosArgs = TypeVarTuple("PosArgs")

_MAX_SHOWN_SEQS: Final = 10
"""Most seqs that a message names."""


class FailureReports:
    """Keeps what a log reports: pass one as ``on_failure`` of :func:`open_event_log`."""

    def __init__(self) -> None:
        self.failures: list[AppendFailureReport] = []
        """Every append that did not succeed, in the order reported."""
        self.losses: list[LossReport] = []
        """Every loss, in the order reported."""
        self.spill_reports: list[SpillFailureReport | SpillDamageReport | SpillReport] = []
        """Every report about the spill file, in the order reported."""
        self.reversions: list[RevertReport] = []
        """Every time that the store went back, in the order reported."""
        self.times: list[float] = []
        """When each report of any kind came, by ``trio.current_time()``, in seconds."""

    def __call__(self, report: Report) -> None:
        """Keep ``report``."""
        self.times.append(trio.current_time())
        if isinstance(report, AppendFailureReport):
            self.failures.append(report)
        elif isinstance(report, LossReport):
            self.losses.append(report)
        elif isinstance(report, RevertReport):
            self.reversions.append(report)
        else:
            self.spill_reports.append(report)

    def __repr__(self) -> str:
        return f"<FailureReports: {len(self.failures)} failures, {len(self.lost_seqs)} events lost>"

    @property
    def lost_events(self) -> tuple[PersistedEvent, ...]:
        """All lost events, in the order reported."""
        return tuple(event for loss in self.losses for event in loss.events)

    @property
    def lost_seqs(self) -> tuple[int, ...]:
        """The seqs of all lost events, in the order reported."""
        return tuple(event.seq for event in self.lost_events)


def check_accounts(
    ingested: Iterable[int | None],
    stored: Iterable[PersistedEvent],
    reports: FailureReports,
    *,
    duplicates: int = 0,
) -> None:
    """Assert that every event of a log was stored or reported lost, and that nothing else was.

    In detail:

    * what is stored ascends by seq, and no id is stored twice
    * no event is reported lost twice
    * what is stored or reported was ingested
    * what is both stored and reported was in doubt, and is the same event
    * as many events as ``duplicates``, and as were lost by a store that went back, are neither

    Call it once the block of the log has been left: before that, some events are pending, and some losses
    are not reported yet. It is for one opening of a log. The next opening may give out the seqs of lost
    events again: after it, pass only the events stored on seqs above the last one that was stored before.

    Args:
      ingested: what ``ingest`` and ``ingest_wait`` returned, in any order. None, for an event that was
        filtered out, does not count.
      stored: all events that the store holds, as a query returns them.
      reports: all reports of the log.
      duplicates: the number of events that were already stored under another seq, because their ids were
        handed in twice. Such an event is neither stored under its own seq nor lost. 0 if every event has
        an id of its own, as those without an envelope do; otherwise pass ``log.statistics().duplicate``,
        or what you know of your program.

    Raises:
      AssertionError: the accounts are wrong. The message lists everything that is.
      TypeError: a seq or ``duplicates`` is not an integer.
      ValueError: ``duplicates`` is negative.
    """
    if type(duplicates) is not int:
        raise TypeError(f"duplicates: expected a number of events as an int, got {type(duplicates).__name__}")
    if duplicates < 0:
        raise ValueError(f"duplicates: expected 0 or more events, got {duplicates}")
    given = [seq for seq in ingested if seq is not None]
    for seq in given:
        if type(seq) is not int:
            raise TypeError(
                f"ingested: expected what ingest returned, ints and None, got {type(seq).__name__}"
            )
    wrong = _wrong(given, list(stored), reports, duplicates)
    if wrong:
        raise AssertionError(
            "the accounts of the log are wrong:\n" + "\n".join(f"* {line}" for line in wrong)
        )


def _wrong(
    given: list[int], stored: list[PersistedEvent], reports: FailureReports, duplicates: int
) -> list[str]:
    """Everything that is wrong, in words."""
    ingested = set(given)
    held = {event.seq: event for event in stored}
    lost = {event.seq: (event, loss.in_doubt) for loss in reports.losses for event in loss.events}
    both = held.keys() & lost.keys()
    findings = [
        ("given out twice by ingest", _repeated(given)),
        (
            "stored, but behind a seq that is not lower",
            [event.seq for before, event in pairwise(stored) if event.seq <= before.seq],
        ),
        ("stored under an id that was stored before", _repeated_ids(stored)),
        ("reported lost twice", _repeated(reports.lost_seqs)),
        ("stored, but never ingested", held.keys() - ingested),
        ("reported lost, but never ingested", lost.keys() - ingested),
        ("stored, though reported as certainly lost", [seq for seq in both if not lost[seq][1]]),
        (
            "stored as another event than the one reported lost",
            [seq for seq in both if held[seq].id != lost[seq][0].id],
        ),
    ]
    wrong = [f"{what}: {_shown(seqs)}" for what, seqs in findings if seqs]
    missing = ingested - held.keys() - lost.keys()
    reverted = sum(reversion.lost for reversion in reports.reversions)
    if len(missing) != duplicates + reverted:
        which = f" ({_shown(missing)})" if missing else ""
        accounted = f"duplicates: {duplicates}" + (f"; lost by the store: {reverted}" if reverted else "")
        wrong.append(f"neither stored nor reported lost: {len(missing)}{which}; {accounted}")
    return wrong


def _repeated(seqs: Iterable[int]) -> list[int]:
    return [seq for seq, count in Counter(seqs).items() if count > 1]


def _repeated_ids(stored: list[PersistedEvent]) -> list[int]:
    first = {event.id: event for event in reversed(stored)}
    return [event.seq for event in stored if first[event.id] is not event]


def _shown(seqs: Collection[int]) -> str:
    shown = ", ".join(str(seq) for seq in sorted(seqs)[:_MAX_SHOWN_SEQS])
    return f"seq {shown}" + (
        f" and {len(seqs) - _MAX_SHOWN_SEQS} more" if len(seqs) > _MAX_SHOWN_SEQS else ""
    )


def run_in_virtual_time(async_fn: Callable[[*PosArgs], Awaitable[T]], *args: *PosArgs) -> T:
    """Run ``async_fn(*args)`` like ``trio.run``, with a clock that jumps whenever all tasks wait.

    An hour of retries takes no time, and nothing depends on the speed of the machine. This is for the body
    of a Hypothesis test, which is a plain function; in an async test under pytest-trio use its fixture
    ``autojump_clock``.

    It is only for stores without threads, such as :class:`MemoryStore`. While a thread works, all tasks seem
    to wait: the clock jumps to the next deadline, and the append that is under way is cancelled as too slow.
    If no task has a deadline, the run waits forever.

    Returns:
      What ``async_fn`` returns.

    Raises:
      BaseException: whatever ``async_fn`` raises.
    """
    return trio.run(async_fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))
