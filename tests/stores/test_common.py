"""What the stores share, by itself."""

from __future__ import annotations

import signal
from functools import partial

import pytest
import trio
import trio.testing

from tests._helpers.events import agent, module
from trio_eventlog import EventQuery, EventRejected, StoreUnusable
from trio_eventlog._util import Forks
from trio_eventlog.stores._common._batches import TimeSlice, sealed_batch
from trio_eventlog.stores._common._bounds import Bounds
from trio_eventlog.stores._common._closing import Closing, OwningProcess
from trio_eventlog.stores._common._columns import AGENT, COLUMNS, MODULE, columns_of, event_of
from trio_eventlog.stores._common._conflicts import conflicting_seqs, duplicate_seqs, new_seqs
from trio_eventlog.stores._common._prune import PruneProgress
from trio_eventlog.stores._common._statistics import SeqGaps
from trio_eventlog.stores._common._verify import Verifier


@pytest.mark.parametrize(
    ("query", "bounds"),
    [
        (EventQuery(), Bounds(0, 0, None, None)),
        (EventQuery(after_seq=3, since_ms=1, until_ms=2, limit=5), Bounds(3, 1, 2, 5)),
        (EventQuery(until_ms=2**64 - 1, limit=2**64 - 1), Bounds(0, 0, None, None)),
        (EventQuery(limit=0), None),
        (EventQuery(after_seq=2**63 - 1), None),
        (EventQuery(since_ms=2**63), None),
        (EventQuery(since_ms=5, until_ms=5), None),
        (EventQuery(until_ms=0), None),
    ],
)
def test_bounds(query: EventQuery, bounds: Bounds | None) -> None:
    """None where nothing can match."""
    assert Bounds.of(query) == bounds


@pytest.mark.parametrize("payload", [None, "null", {"run_id": "r", "step_id": 3, "é": [1.5]}])
def test_columns_and_back(payload: object) -> None:
    """All but the scopes make the event again."""
    for event, kind in ((agent(1, payload=payload), AGENT), (module(2, payload=payload), MODULE)):
        columns = columns_of(event)
        named = dict(zip(COLUMNS, columns, strict=True))
        assert named["kind"] == kind
        assert named["run_id"] == ("r" if isinstance(payload, dict) else None)
        assert named["step_id"] is None
        assert event_of((*columns[:7], columns[-1])) == event


def test_conflicts() -> None:
    """Of new events alone, with what is held or with each other."""
    events = [agent(1), agent(9, event_id="id-1"), agent(2), agent(2, event_id="x"), agent(5)]
    seqs = new_seqs(events, {"id-5"})
    assert seqs == [1, 2, 2]
    assert conflicting_seqs(seqs, [1]) == [1, 2]
    assert conflicting_seqs([1, 2], []) == []
    assert duplicate_seqs(events, {"id-1": 1, "id-2": 2, "x": 2, "id-5": 4}) == (9, 5)


async def test_a_batch_is_sealed_without_copies() -> None:
    """Once sealed, an event is handed on as it is."""
    (sealed,) = await sealed_batch([agent(1, payload={"a": 1})])
    assert (await sealed_batch([sealed]))[0] is sealed
    with trio.testing.assert_checkpoints(), pytest.raises(EventRejected):
        await sealed_batch([agent(0)])


async def test_a_slice_of_time(mock_clock: trio.testing.MockClock) -> None:
    """A checkpoint only once it is over, by Trio's clock."""
    time_slice = TimeSlice()
    with trio.testing.assert_no_checkpoints():
        await time_slice.checkpoint_if_over()
    mock_clock.jump(0.011)
    with trio.testing.assert_checkpoints():
        await time_slice.checkpoint_if_over()
    with trio.testing.assert_no_checkpoints():
        await time_slice.checkpoint_if_over()


def test_gaps_and_findings() -> None:
    """The lowest are named, all are counted."""
    gaps = SeqGaps()
    for seq in range(1, 100, 2):
        gaps.add(seq)
    assert (gaps.first_seq, gaps.last_seq, gaps.count, gaps.missing) == (1, 99, 49, 49)
    assert gaps.shown[:2] == ((2, 2), (4, 4))
    assert len(gaps.shown) == 10
    verifier = Verifier(1)
    verifier.add_event(1)
    verifier.add_event(2, "odd")
    verifier.add_problem("worse")
    found = verifier.result()
    assert (found.events, found.problems, len(found.findings)) == (2, 2, 1)


async def test_progress_of_pruning() -> None:
    """Told after each step in which events went."""
    steps = iter([3, 0, 2, None])
    told: list[tuple[int, int]] = []

    async def delete_some() -> int | None:
        await trio.lowlevel.checkpoint()
        return next(steps)

    progress = PruneProgress(5, lambda gone, total: told.append((gone, total)))
    assert await progress.run(delete_some) == 5
    assert told == [(3, 5), (5, 5)]


async def test_closing_ends_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """In spite of a cancellation from outside."""
    with trio.CancelScope() as scope:
        scope.cancel()
        closing = Closing(trio.current_time() + 5)
        assert await closing.run(partial(trio.sleep, 60)) is None  # type: ignore[func-returns-value]
    assert trio.current_time() == 5


def test_closing_goes_on_after_ctrl_c() -> None:
    """However often it comes; the first one is raised at the end."""
    attempts = 0

    async def work() -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 5:
            signal.raise_signal(signal.SIGINT)
        await trio.lowlevel.checkpoint()
        return "done"

    async def main() -> str | None:
        closing = Closing(trio.current_time() + 60)
        result = await closing.run(work)
        with pytest.raises(KeyboardInterrupt):
            closing.raise_interrupt()
        return result

    assert trio.run(main) == "done"
    assert attempts == 5


def test_a_forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, whatever its process id."""
    process = OwningProcess()
    process.check("x.db")
    monkeypatch.setattr(Forks, "count", Forks.count + 1)
    assert not process.is_current()
    with pytest.raises(StoreUnusable, match=r"x\.db: the store belongs to the process that forked this one"):
        process.check("x.db")
