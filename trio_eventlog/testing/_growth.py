"""How the time of a store's operations grows with its log."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from trio_eventlog import EventQuery, EventStore, ModuleEvent, PersistedEvent
from trio_eventlog.abc import BoundedStore
from trio_eventlog.testing._arguments import check_integers, check_opener
from trio_eventlog.testing._subject import StoreDropper, StoreOpener, fresh_location

DEFAULT_SIZES: Final = (1_000, 10_000, 100_000)

_SMALLEST: Final = 1_000
"""Smaller logs fit into any cache."""

_FLAT: Final = 0.5
"""A time that grows with less than this power of the size counts as flat.

Between a hundred-fold log and a hundred-fold time, caches and the depth of an index account for a few times.
"""

_LEAST: Final = 0.0005
"""Seconds below which times are taken for equal: they are the noise of the event loop."""

_REPEATS: Final = 7
_PATIENCE: Final = 1.0
"""Seconds after which an operation is not repeated any more."""
_RARE: Final = 10
"""How many events each filter finds, whatever the size of the log."""


@attrs.frozen(kw_only=True)
class Growth:
    """How long an operation takes, by the size of the log.

    Attributes:
      operation: for example ``"member_id"``, a filter that finds ten events, or ``"append of 1"``.
      seconds: the median of seven, for each size; of fewer where one takes long.
      ratio: of the time at the largest size to that at the smallest.
      is_flat: whether it grows by less than the square root of what the log grows by.
    """

    operation: str
    seconds: tuple[float, ...]
    ratio: float
    is_flat: bool


@attrs.frozen(kw_only=True)
class GrowthReport:
    """What :func:`measure_growth` measured.

    Attributes:
      sizes: how many events the log held.
      rows: a row for each operation.
    """

    sizes: tuple[int, ...]
    rows: tuple[Growth, ...]

    def __str__(self) -> str:
        head = "".join(f"{size:>12,}" for size in self.sizes)
        lines = [f"{'milliseconds at':<16}{head}   ratio"]
        for row in self.rows:
            times = "".join(f"{seconds * 1000:>12.2f}" for seconds in row.seconds)
            verdict = "flat" if row.is_flat else "GROWS"
            lines.append(f"{row.operation:<16}{times}{row.ratio:>8.1f}  {verdict}")
        return "\n".join(lines)


_FILTERS: Final[dict[str, EventQuery]] = {
    "after_seq": EventQuery(after_seq=5, limit=_RARE),
    "since_ms": EventQuery(since_ms=2**40, limit=_RARE),
    "until_ms": EventQuery(until_ms=1_000, limit=_RARE),
    "member_id": EventQuery(member_id="rare"),
    "event_types": EventQuery(event_types=("rare",)),
    "identity": EventQuery(identity="rare"),
    "mob_id": EventQuery(mob_id="rare"),
    "run_id": EventQuery(run_id="rare"),
    "step_id": EventQuery(step_id="rare"),
}


def measure_growth(
    open_store: StoreOpener,
    *,
    sizes: Sequence[int] = DEFAULT_SIZES,
    drop_store: StoreDropper | None = None,
) -> GrowthReport:
    """Measure appends and filters while a log grows: does the time depend on the size of the log?

    Each filter finds ten events, whatever the size, so that its time is flat where an index serves it. The
    ratios are of one run on one store; the times are those of this machine. Runs Trio itself.

    Args:
      open_store: as for :func:`check_store`.
      sizes: how many events the log holds when it is measured, ascending, 1,000 or more.
      drop_store: as for :func:`check_store`.

    Returns:
      The times and their ratios.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: sizes that do not ascend, or are too small.
      Exception: what the store raised.
    """
    check_opener(open_store)
    check_opener(drop_store, "drop_store", optional=True)
    check_integers("sizes", sizes, 0)
    if not sizes or min(sizes) < _SMALLEST or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"sizes: expected ascending numbers of {_SMALLEST} or more, got {list(sizes)}")
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="trio_eventlog_", ignore_cleanup_errors=True) as root:
        trio.run(_measure, open_store, drop_store, fresh_location(Path(root)), sizes, times)
    most = (sizes[-1] / sizes[0]) ** _FLAT
    rows = tuple(_row(operation, tuple(seconds), most) for operation, seconds in times.items())
    return GrowthReport(sizes=tuple(sizes), rows=rows)


def _row(operation: str, seconds: tuple[float, ...], most: float) -> Growth:
    ratio = max(seconds[-1], _LEAST) / max(seconds[0], _LEAST)
    return Growth(operation=operation, seconds=seconds, ratio=ratio, is_flat=ratio <= most)


async def _measure(
    open_store: StoreOpener,
    drop_store: StoreDropper | None,
    location: Path,
    sizes: Sequence[int],
    times: dict[str, list[float]],
) -> None:
    seq = 0
    async with open_store(location) as store:
        batch = min((store.max_batch if isinstance(store, BoundedStore) else None) or 1_000, 1_000)
        for size in sizes:
            while seq < size:
                count = min(batch, size - seq)
                await store.append_batch([_event(n) for n in range(seq + 1, seq + 1 + count)])
                seq += count
            for name, query in _FILTERS.items():
                times.setdefault(name, []).append(await _median(store.query, query))
            times.setdefault("last_seq", []).append(await _median(store.last_seq))
            for appended in (1, min(100, batch)):
                took, seq = await _appends(store, seq, appended)
                times.setdefault(f"append of {appended}", []).append(took)
    if drop_store is not None:
        await drop_store(location)


def _event(n: int) -> PersistedEvent:
    value = "rare" if n <= _RARE else f"common-{n % 100}"
    payload = {"identity": value, "mob_id": value, "run_id": value, "step_id": value, "n": n}
    return PersistedEvent(f"id-{n}", n, n, value, ModuleEvent("m", value, payload))


async def _median(function: Callable[..., Awaitable[object]], *args: object) -> float:
    taken: list[float] = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        await function(*args)
        taken.append(time.perf_counter() - began)
        if sum(taken) > _PATIENCE:
            break
    return statistics.median(taken)


async def _appends(store: EventStore, seq: int, count: int) -> tuple[float, int]:
    taken: list[float] = []
    for _ in range(_REPEATS):
        batch = [_event(n) for n in range(seq + 1, seq + 1 + count)]
        began = time.perf_counter()
        await store.append_batch(batch)
        taken.append(time.perf_counter() - began)
        seq += count
    return statistics.median(taken), seq
