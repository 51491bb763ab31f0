"""S4 and S10 across processes and instances: processes that are killed, and readers elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Literal

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog.testing._checks._common import DURABLE, unless_lost
from trio_eventlog.testing._checks._scale import largest
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._open_store import opened, read_meanwhile
from trio_eventlog.testing._processes import last_line, run_to_its_end, watched_elsewhere
from trio_eventlog.testing._program import Series, numbered, source_of
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest

# --- a process that is killed ---------------------------------------------------------------------

_KILLED: Final = """\
import json, os, resource, signal, sys, time
from pathlib import Path

import trio

from trio_eventlog import EventQuery, LogBusy, ModuleEvent, PersistedEvent, StoreError
{opening}
{reading}


{numbered}


async def append(location, first, size, share, by):
    async with open_store(location) as store:
        sizes_before = sizes_of_files(location)
        began = time.perf_counter()
        await store.append_batch([numbered(n) for n in range(first, first + size)])
        seconds = time.perf_counter() - began
        batch = [numbered(n) for n in range(first + size, first + 2 * size)]
        sizes = sizes_of_files(location)
        growths = ((sizes[file] - sizes_before.get(file, 0), sizes[file]) for file in sizes)
        grown, end = max(growths, default=(0, 0))
        # By the system, whatever the process does.
        if by == "bytes" and grown > 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            limit = end + int(grown * share)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        elif share < 1:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, max(seconds * share, 1e-6))
        try:
            await store.append_batch(batch)
        except Exception:
            # A disk that is full.
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGKILL)


def sizes_of_files(location):
    return {{file: file.stat().st_size for file in location.rglob("*") if file.is_file()}}


async def look(location, first, size, patience, returned):
    if open_reader is not None:
        # Before the next appender clears up. A reader may lag, and may have to wait for that one.
        try:
            async with open_reader(location) as reader:
                found = await reader.query(EventQuery(after_seq=first - 1))
                tell(found, first, size, 0)
        except StoreError:
            pass
    deadline = trio.current_time() + patience
    while True:
        try:
            async with open_store(location) as store:
                found = await store.query(EventQuery(after_seq=first - 1))
                break
        except LogBusy:
            # The lock of a process that was killed.
            if trio.current_time() > deadline:
                raise
            await trio.sleep(0.05)
    tell(found, first, size, returned)


def tell(found, first, size, returned):
    earlier = sum(event.seq < first + size for event in found)
    print(json.dumps([size, returned, earlier, len(found) - earlier]), flush=True)


def in_a_process(function):
    # A fork, since starting Python takes longer than all the rest.
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        function()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


location = Path(sys.argv[1])
began = time.monotonic()
first = 1
for size, share, by in {moments}:
    if time.monotonic() - began > {seconds}:
        break
    killed = in_a_process(lambda: trio.run(append, location, first, size, share, by))
    if killed >= 0:
        sys.exit(1)
    returned = 1 + (killed == -signal.SIGKILL)
    if in_a_process(lambda: trio.run(look, location, first, size, {patience}, returned)):
        sys.exit(1)
    first += 2 * size
"""

_MAX_SECONDS: Final = 5.0
"""Seconds after which no further process is started."""


@attrs.frozen
class Moment:
    """When a process is killed that appends two batches: during the second."""

    size: int
    """Of each batch."""

    share: float
    """Of what the first batch took; 1: after the second has returned."""

    by: Literal["bytes", "seconds"]
    """Whether that is what its file has grown by, or time."""


async def _killed(example: Example, moments: Sequence[Moment]) -> list[tuple[int, int, int, int]]:
    """Of each kill: the size, how many appends had returned, how many events of both are stored."""
    assert example.subject.children is not None
    source = _KILLED.format(
        opening=example.subject.children.opening,
        reading=example.subject.children.reading or "open_reader = None",
        numbered=source_of(numbered),
        moments=list(map(attrs.astuple, moments)),
        seconds=_MAX_SECONDS,
        patience=example.subject.lock_timeout,
    )
    result = await run_to_its_end(example, source)
    example.check(
        "result.returncode == 0",
        lambda: f"the store failed in a child process: {last_line(result.stderr)}",
    )
    example.program.variables["json"] = json
    example.program.assign("kills", "[json.loads(line) for line in result.stdout.splitlines()]")
    return [(size, *kill) for size, *kill in example.program.variables["kills"]]


async def _try_killed_in_the_midst(example: Example, moments: Sequence[Moment]) -> None:
    kills = await _killed(example, moments)
    # That an append is lost as a whole, or always in part, is the business of S10.
    parts = [(second, size) for size, _, first, second in kills if first == size and second not in (0, size)]
    example.check(
        "all(second in (0, size) for size, _, first, second in kills if first == size)",
        lambda: "{} of {} events are stored of an append in whose midst a process was killed".format(
            *parts[0]
        ),
    )


async def _try_killed(example: Example, moments: Sequence[Moment]) -> None:
    kills = await _killed(example, moments)
    lost = [
        (size - found, size)
        for size, returned, *batches in kills
        for found in batches[:returned]
        if found != size
    ]
    example.check(
        "all(found == size for size, returned, *batches in kills for found in batches[:returned])",
        lambda: "{} of {} events are lost of an append that returned before a process was killed".format(
            *lost[0]
        ),
    )


# The largest first, of which nearly all is written: that shows parts of any size, if time is short.
_BYTES: Final = tuple(
    Moment(size, share, "bytes")
    for size, share in ((5_000, 0.95), (150, 0.75), (1_000, 0.4), (150, 0.4), (5_000, 0.4), (1_000, 0.75))
)
# Most stores encode a batch before they write any of it.
_SECONDS: Final = tuple(
    Moment(size, share, "seconds")
    for size, share in ((150, 0.9), (1_000, 0.8), (5_000, 0.6), (150, 0.95), (20, 0.8))
)
_MOMENTS: Final = st.builds(
    Moment,
    st.sampled_from((5_000, 1_000, 150, 20, 3)),
    st.floats(0.01, 0.99),
    st.sampled_from(("bytes", "seconds")),
)


def _in_the_midst_table(subject: StoreUnderTest) -> list[tuple[Moment, ...]]:
    if subject.lock_timeout >= 1:
        # Waiting for a lock takes longer than all the rest.
        return [_bounded(subject, [moment]) for moment in _SECONDS[:3]]
    return [_bounded(subject, _BYTES), _bounded(subject, _SECONDS)]


def _in_the_midst(subject: StoreUnderTest) -> SearchStrategy[tuple[Moment, ...]]:
    most = 7 if subject.lock_timeout < 1 else 1
    return st.lists(_MOMENTS, min_size=1, max_size=most).map(lambda drawn: _bounded(subject, drawn))


def _after_returning(subject: StoreUnderTest) -> SearchStrategy[tuple[Moment, ...]]:
    sizes = ((2, 5_000, 1, 1_000), (3,), (150,)) if subject.lock_timeout < 1 else ((2,), (5_000,))
    return st.sampled_from(
        [_bounded(subject, [Moment(size, 1, "seconds") for size in some]) for some in sizes]
    )


def _bounded(subject: StoreUnderTest, moments: Sequence[Moment]) -> tuple[Moment, ...]:
    return tuple(attrs.evolve(moment, size=min(moment.size, largest(subject))) for moment in moments)


# --- readers in other instances and processes -----------------------------------------------------


@attrs.frozen
class Watched:
    """Appends while others read."""

    sizes: tuple[int, ...]

    def batches(self) -> list[Series]:
        """The batches."""
        firsts = [1 + sum(self.sizes[:number]) for number in range(len(self.sizes))]
        return [Series(first, size) for first, size in zip(firsts, self.sizes, strict=True)]

    def allowed(self) -> set[int]:
        """How many events a reader may see: those of no batch, of the first, of the first two and so on."""
        return {sum(self.sizes[:number]) for number in range(len(self.sizes) + 1)}


def _watched(subject: StoreUnderTest) -> SearchStrategy[Watched]:
    return st.sampled_from(_watched_table(subject))


def _watched_table(subject: StoreUnderTest) -> list[Watched]:
    cases = ((1, 5_000, 200), (1, 1_000, 200), (2, 20, 3, 150))
    most = largest(subject)
    return [Watched(tuple(min(size, most) for size in sizes)) for sizes in cases]


async def _try_other_instance(example: Example, case: Watched) -> None:
    async def attempt() -> None:
        first, *rest = case.batches()
        async with opened(example) as store:
            await store.append(first)
            async with (
                opened(example, name="reader", reader=True),
                read_meanwhile(example, 1, case.allowed(), name="reader"),
            ):
                for batch in rest:
                    await store.append(batch)

    await unless_lost(example, max(case.sizes), attempt)


async def _try_other_process(example: Example, case: Watched) -> None:
    async def attempt() -> None:
        first, *rest = case.batches()
        async with opened(example) as store:
            await store.append(first)
            async with watched_elsewhere(example, case.allowed()):
                for batch in rest:
                    await store.append(batch)

    await unless_lost(example, max(case.sizes), attempt)


CHECKS: tuple[Check, ...] = (
    Check(
        clause="S4",
        name="a process that is killed in the midst of an append",
        cases=_in_the_midst,
        run=_try_killed_in_the_midst,
        table=_in_the_midst_table,
        share=0.03,
        needs=DURABLE | {"children"},
    ),
    Check(
        clause="S4",
        name="readers in other instances",
        cases=_watched,
        run=_try_other_instance,
        table=lambda subject: _watched_table(subject)[:1],
        fixed=1,
        needs=frozenset({"reader"}),
    ),
    Check(
        clause="S4",
        name="readers in other processes",
        cases=_watched,
        run=_try_other_process,
        fixed=1,
        needs=DURABLE | {"children", "reader", "reading children"},
    ),
    Check(
        clause="S10",
        name="a process that is killed",
        cases=_after_returning,
        run=_try_killed,
        fixed=2,
        needs=DURABLE | {"children"},
    ),
)
