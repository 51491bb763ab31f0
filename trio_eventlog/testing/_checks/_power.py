"""S4, S9 and S10 after a loss of power: what was promised is there, and batches are whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog.testing._checks._common import DURABLE
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._power._losing import STATE_SECONDS, judge, record
from trio_eventlog.testing._power._states import KEPT, Crash
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest


@attrs.frozen
class PowerLoss:
    """Appends, and losses of power during or after them, each on its own."""

    sizes: tuple[int, ...]
    crashes: tuple[Crash, ...]
    failing_syncs: tuple[int, ...] = ()


_SIZES: Final = (1, 2, 3, 20, 150, 600)
_KEPT: Final = st.sampled_from(KEPT)
_OPERATIONS: Final = st.integers(-6, 6) | st.integers(-60, 60)


def _sizes(subject: StoreUnderTest) -> list[int]:
    return [size for size in _SIZES if subject.max_batch is None or size <= subject.max_batch]


def _losses(subject: StoreUnderTest) -> SearchStrategy[PowerLoss]:
    sizes = st.lists(st.sampled_from(_sizes(subject)), min_size=1, max_size=4).map(tuple)
    crash = st.builds(Crash, st.integers(0, 4), _OPERATIONS, _KEPT, st.integers(0, 999))
    # A state takes about as long as the appends.
    crashes = st.lists(crash, min_size=1, max_size=6).map(tuple)
    failing = st.just(()) | st.integers(1, 12).map(lambda sync: (sync,))
    return st.builds(PowerLoss, sizes, crashes, failing)


def _table_sizes(subject: StoreUnderTest) -> tuple[int, int, int]:
    most = subject.max_batch or 20
    # The second has several blocks.
    return 1, min(20, most), min(2, most)


_RETURNED: Final = tuple(Crash(count) for count in range(1, 4))


def _synced_alone(subject: StoreUnderTest) -> list[PowerLoss]:
    """Nothing but what was synced, as soon as an append has returned, and until the next one does."""
    sizes = _table_sizes(subject)
    return [PowerLoss(sizes, _RETURNED), PowerLoss(sizes, tuple(Crash(count, -1) for count in range(1, 4)))]


def _out_of_order(subject: StoreUnderTest) -> list[PowerLoss]:
    """Right before an append returns, when all is written: one file reaches the disk, the other does not."""
    return [
        PowerLoss(_table_sizes(subject), tuple(Crash(count, -1 - back, kept, back) for count in range(2)))
        for back in range(4)
        for kept in ("one file", "all but one file")
    ]


def _torn(subject: StoreUnderTest, kept: str, backs: Sequence[int], seeds: int) -> list[PowerLoss]:
    """The same, and writes are torn."""
    crashes = [tuple(Crash(1, -1 - back, kept, seed) for seed in range(seeds)) for back in backs]
    return [PowerLoss(_table_sizes(subject), some) for some in crashes]


def _table_of_batches(subject: StoreUnderTest) -> list[PowerLoss]:
    return [
        *_synced_alone(subject),
        *_out_of_order(subject),
        *_torn(subject, "torn at 512", (1, 2), 6),
        *_torn(subject, "torn at 4096", (1, 2), 3),
    ]


def _table_of_promises(subject: StoreUnderTest) -> list[PowerLoss]:
    sizes = _table_sizes(subject)
    return [
        *_synced_alone(subject),
        *_out_of_order(subject),
        *_torn(subject, "torn at 512", range(4), 3),
        *(PowerLoss(sizes, _RETURNED, (sync,)) for sync in range(2, 7)),
    ]


def _one_of(case: PowerLoss) -> SearchStrategy[PowerLoss]:
    """The same appends with one loss of power."""
    return st.sampled_from(case.crashes).map(lambda crash: attrs.evolve(case, crashes=(crash,)))


async def _try_power_loss(example: Example, case: PowerLoss) -> None:
    location, open_store, watcher = example.location, example.subject.open_store, example.subject.watcher
    assert watcher is not None
    clauses = [example.clause]
    example.alive("appending under watch", expected_seconds=STATE_SECONDS)
    try:
        recording = await record(open_store, location / "before", watcher, case.sizes, case.failing_syncs)
    except Exception as exc:  # noqa: BLE001 - also what a store must not raise, such as the error of its driver
        _write_down(example, case)
        example.violated(_told(exc, case), exc)
    for number, crash in enumerate(case.crashes):
        example.alive("opening the store after a loss of power", expected_seconds=STATE_SECONDS)
        try:
            await judge(open_store, location / f"after-{number}", recording, crash, clauses)
        except Exception as exc:  # noqa: BLE001 - as above
            _write_down(example, case, crash)
            example.violated(_told(exc, case), exc)


def _told(exc: Exception, case: PowerLoss) -> str:
    if isinstance(exc, AssertionError):
        return str(exc)
    when = f", of which sync {', '.join(map(str, case.failing_syncs))} failed" if case.failing_syncs else ""
    return f"appends under watch{when}: the store raised {exc!r}"


def _write_down(example: Example, case: PowerLoss, *crashes: Crash) -> None:
    failing = f", failing_syncs={list(case.failing_syncs)}" if case.failing_syncs else ""
    example.program.add(
        f"await check_power_loss(open_store, location, $0, {list(crashes)!r}{failing}, clauses=$1)",
        list(case.sizes),
        [example.clause],
    )


_NEEDS: Final = DURABLE | {"files"}

CHECKS: Sequence[Check] = tuple(
    Check(
        clause=clause,
        name="a loss of power",
        cases=_losses,
        run=_try_power_loss,
        table=table,
        smaller=_one_of,
        share=share,
        needs=_NEEDS,
    )
    for clause, table, share in (
        ("S4", _table_of_batches, 0.5),
        ("S9", _synced_alone, 0.1),
        ("S10", _table_of_promises, 0.5),
    )
)
