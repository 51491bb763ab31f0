"""What ``open_event_log`` takes and refuses, and what an open log says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests._helpers.fakes import (
    STEADY,
    Clock,
    FakeStore,
    Reports,
    burst,
    fail,
    numbered,
)
from trio_eventlog import (
    EventLog,
    EventQuery,
    LogBusy,
    LogState,
    LossReason,
    StoreError,
    open_event_log,
)


async def test_one_log_at_a_time_on_one_store(autojump_clock: Clock) -> None:
    """Two would number twice."""
    store = FakeStore()
    async with open_event_log(store):
        with pytest.raises(LogBusy):
            async with open_event_log(store):
                pytest.fail("two logs on one store")
        async with open_event_log(FakeStore()):
            pass
    async with open_event_log(store):
        pass


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"batch_size": -1}, ValueError, "batch_size"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
        ({"batch_size": True}, TypeError, "batch_size"),
        ({"batch_size": 65, "retry_buffer_cap": 64}, ValueError, "batch_size"),
        ({"retry_buffer_cap": 0}, ValueError, "retry_buffer_cap"),
        ({"retry_buffer_cap": math.inf}, TypeError, "retry_buffer_cap"),
        ({"flush_interval": -0.1}, ValueError, "flush_interval"),
        ({"flush_interval": math.nan}, ValueError, "flush_interval"),
        ({"flush_interval": math.inf}, ValueError, "flush_interval"),
        ({"flush_interval": "1"}, TypeError, "flush_interval"),
        ({"append_timeout": 0}, ValueError, "append_timeout"),
        ({"append_timeout": math.nan}, ValueError, "append_timeout"),
        ({"grace_period": -1}, ValueError, "grace_period"),
        ({"grace_period": math.inf}, ValueError, "grace_period"),
        ({"grace_period": math.nan}, ValueError, "grace_period"),
        ({"retry": 3}, TypeError, "retry"),
        ({"filter": "no"}, TypeError, "filter"),
        ({"on_failure": []}, TypeError, "on_failure"),
    ],
)
async def test_bad_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], name: str, autojump_clock: Clock
) -> None:
    """Before anything is opened."""
    store = FakeStore()
    with pytest.raises(error, match=name):
        async with open_event_log(store, **arguments):
            pytest.fail("opened")

    assert store.asked_last_seq == 0


@pytest.mark.parametrize("store", [None, object(), FakeStore])
async def test_what_is_no_store_is_refused(store: Any, autojump_clock: Clock) -> None:
    """The class of a store is not a store, either."""
    with pytest.raises(TypeError, match="append_batch"):
        async with open_event_log(store):
            pytest.fail("opened")


@pytest.mark.parametrize("last_seq", [-1, 2**63, True, None, "7"])
async def test_a_wrong_answer_of_last_seq_is_an_error(last_seq: Any, autojump_clock: Clock) -> None:
    """Numbering cannot start from it."""

    class Confused(FakeStore):
        async def last_seq(self) -> Any:
            await trio.lowlevel.checkpoint()
            return last_seq

    with pytest.raises(StoreError, match="last_seq"):
        async with open_event_log(Confused()):
            pytest.fail("opened")


async def test_zero_means_the_least(autojump_clock: Clock) -> None:
    """A batch of 0 counts as 1 event, an interval of 0 as a millisecond."""
    store = FakeStore()
    async with open_event_log(store, batch_size=0) as log:
        burst(log, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert store.seqs == [1]
    async with open_event_log(store, flush_interval=0) as log:
        burst(log, 1)
        await trio.sleep(1)
    assert store.appends[-1].started_at == pytest.approx(0.001)


async def test_the_last_seq_of_all(autojump_clock: Clock) -> None:
    """A log that has given out 2**63 - 1 refuses, and what it accepted is stored."""
    store = FakeStore()
    store.first_last_seq = 2**63 - 2
    async with open_event_log(store) as log:
        assert log.ingest(numbered(1)) == 2**63 - 1
        with pytest.raises(Exception, match="last seq"):
            log.ingest(numbered(2))

    assert store.seqs == [2**63 - 1]


def test_a_log_has_no_public_constructor() -> None:
    """It comes from open_event_log alone."""
    with pytest.raises(TypeError, match="no public constructor"):
        EventLog()  # type: ignore[call-arg]


async def test_statistics_are_a_snapshot_of_everything(autojump_clock: Clock) -> None:
    """The fields agree with what happened, and the snapshot does not change."""
    store = FakeStore([fail])
    async with open_event_log(store, batch_size=4, retry=STEADY, on_failure=Reports()) as log:
        before = log.statistics()
        burst(log, 4)
        await log.flush()
        after = log.statistics()

    assert attrs.asdict(before) | {"lost": {}} == {
        "ingested": 0,
        "filtered": 0,
        "persisted": 0,
        "duplicate": 0,
        "lost": {},
        "recovered": 0,
        "pending": 0,
        "pending_bytes": 0,
        "spilled": 0,
        "spill_bytes": 0,
        "appends": 0,
        "failures": 0,
        "last_assigned_seq": 0,
        "last_durable_seq": 0,
        "peak_pending": 0,
        "peak_batch": 0,
        "state": LogState.OPEN,
    }
    assert (after.appends, after.failures, after.peak_batch, after.peak_pending) == (2, 1, 4, 4)
    assert (after.last_assigned_seq, after.last_durable_seq) == (4, 4)
    with pytest.raises(TypeError):
        after.lost[LossReason.CAP] = 1  # type: ignore[index]


async def test_query_asks_the_store(autojump_clock: Clock) -> None:
    """Only durable events are found; what is no query is refused."""
    async with open_event_log(FakeStore()) as log:
        burst(log, 3)
        assert await log.query() == []
        await log.flush()
        assert [event.seq for event in await log.query(EventQuery(after_seq=1))] == [2, 3]
        with pytest.raises(TypeError, match="query"):
            await log.query({"limit": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["flush_interval", "append_timeout", "grace_period"])
async def test_seconds_beyond_every_float_are_refused(name: str, autojump_clock: Clock) -> None:
    """An int can be, and compares as less than infinity."""
    with pytest.raises(ValueError, match=name):
        async with open_event_log(FakeStore(), **{name: 10**400}):  # type: ignore[arg-type]
            pytest.fail("opened")


@pytest.mark.parametrize("name", ["filter", "on_failure"])
async def test_async_callbacks_are_refused(name: str, autojump_clock: Clock) -> None:
    """Nobody would await them, and a coroutine is true."""

    async def callback(_argument: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    with pytest.raises(TypeError, match=f"{name}: expected a plain function"):
        async with open_event_log(FakeStore(), **{name: callback}):  # type: ignore[arg-type]
            pytest.fail("opened")


class AsyncObject:
    async def __call__(self, _argument: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False


def generator(_argument: object) -> Iterator[bool]:
    yield False


@pytest.mark.parametrize("callback", [AsyncObject(), generator])
@pytest.mark.parametrize("name", ["filter", "on_failure"])
async def test_callbacks_that_nobody_would_run_are_refused(
    name: str, callback: object, autojump_clock: Clock
) -> None:
    """What they return is true, and their code never runs."""
    with pytest.raises(TypeError, match=f"{name}: expected a plain function, got "):
        async with open_event_log(FakeStore(), **{name: callback}):  # type: ignore[arg-type]
            pytest.fail("opened")


@pytest.mark.parametrize("wrong", [None, 1, "no"])
async def test_what_a_store_says_of_reading_is_a_bool(wrong: object, autojump_clock: Clock) -> None:
    """Anything else could be meant either way."""
    store = FakeStore()
    store.read_only = wrong  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="read_only of the store: expected a bool, got "):
        async with open_event_log(store):
            pytest.fail("opened")


class Fickle(FakeStore):
    """A store that fails when it is asked for what it declares once the spill file is open."""

    def __init__(self, spill: Path, then: Callable[[], object]) -> None:
        super().__init__()
        self._spill = spill
        self._then = then

    @property
    def max_batch(self) -> int:
        """A declaration of the store."""
        if self._spill.exists():
            self._then()
            raise StoreError("gone meanwhile")
        return 10

    @max_batch.setter
    def max_batch(self, value: int | None) -> None:
        pass


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_log_that_cannot_be_made_leaves_its_spill_file(path: Path, *, is_cancelled: bool) -> None:
    """The file is closed again: its lock would keep the next log out as long as this process lives."""
    with trio.CancelScope() as scope, pytest.raises(StoreError, match="gone meanwhile") as caught:
        async with open_event_log(Fickle(path, scope.cancel if is_cancelled else bool), spill=path):
            pytest.fail("opened")
    # While the traceback holds its frame, nothing is closed by the garbage collector.
    assert caught.tb is not None
    assert not await trio.Path(path).exists()
    async with open_event_log(FakeStore(), spill=path):
        pass
