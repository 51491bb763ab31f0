"""S16: what a store answers from files that were damaged while nobody had them open.

All of it happens in a child process, because a store may crash. The child writes a log, and then again and
again damages a copy of its files, opens it, and judges the answers.
"""

from __future__ import annotations

import faulthandler
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import AgentEvent, EventQuery, EventRejected, EventStore, PersistedEvent, StoreError
from trio_eventlog.abc import PagedStore, VerifiableStore
from trio_eventlog.testing._checks._common import DURABLE
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._processes import CHILD_TIMEOUT, last_line, run_child, run_to_its_end
from trio_eventlog.testing._program import source_of
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreOpener, StoreUnderTest

_EVENTS: Final = 150
"""Enough for a file of several pages, and indexes of more than one."""

_PATIENCE: Final = 3.0
"""Seconds that a call may take, however slow the store may otherwise be: there is little to read."""

_TRYING: Final = 5.0
"""Seconds after which a child begins with no other damage. Less than it may run by far."""

_SPARE: Final = 1.0
"""Seconds for starting and ending a child."""

_ENOUGH: Final = 24
"""Damages of those that are the same for every store. With fewer, the clause has not been tried."""

# --- what programs do as well ---------------------------------------------------------------------


def logged(seq: int) -> PersistedEvent:
    """An event that every filter can tell from others."""
    worker = f"worker-{seq % 3}"
    payload = {"run_id": f"run-{seq % 7}", "step_id": f"step-{seq % 30}", "text": f"text {seq} " * 10}
    event = AgentEvent(worker, f"type-{seq % 5}", payload)
    return PersistedEvent(f"id-{seq}", seq, 1_000 * seq, worker, event)


def damage(root: Path, what: str, place: float, offset: int, other: float) -> str:
    """Damage a file below ``root`` and return how; nothing if that changed nothing.

    ``place`` and ``other`` are parts of all pages of 4,096 bytes, or ``place`` of all files if little is to
    be left of one; ``offset`` is where in its page.
    """
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    pages = [(path, start) for path in files for start in range(0, path.stat().st_size, 4096)]
    path, start = (files[int(place * len(files))], 0) if what == "shorten" else pages[int(place * len(pages))]
    whole = path.read_bytes()
    at = min(start + offset, len(whole) - 1)
    data = bytearray(whole)
    if what == "flip":
        bit = int(other * 8)
        data[at] ^= 1 << bit
        how = f"bit {bit} of byte {at} was flipped"
    elif what in {"cut", "shorten"}:
        del data[at:]
        how = f"it was cut off after {at} bytes"
    elif what == "zero":
        # A sector or a page, to the end of the file at most.
        size = (512, 4096)[round(other)]
        first = at // size * size
        data[first : first + size] = bytes(len(data[first : first + size]))
        how = f"{size} bytes from byte {first} on were zeroed"
    else:
        second = int(other * ((len(data) + 4095) // 4096)) * 4096
        one, two = data[start : start + 4096], data[second : second + 4096]
        size = min(len(one), len(two))
        data[start : start + size], data[second : second + size] = two[:size], one[:size]
        how = f"the pages at byte {start} and byte {second} were swapped"
    path.write_bytes(data)
    return "" if data == whole else f"{path.name}, {len(whole)} bytes: {how}"


async def answer(what: str, call: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """What a call returns; None if it raises an error that says that something is wrong."""
    # A process that hangs is ended.
    faulthandler.dump_traceback_later(seconds + 1, exit=True)
    try:
        with trio.fail_after(seconds):
            return await call()
    except trio.TooSlowError as exc:
        raise AssertionError(f"{what} took longer than {seconds} s") from exc
    except EventRejected as exc:
        raise AssertionError(f"{what} rejected good events: {exc!r}") from exc
    except StoreError:
        return None
    except Exception as exc:
        raise AssertionError(f"{what} raised {exc!r}") from exc


async def judge_answers(
    store: EventStore, written: Sequence[PersistedEvent], sure: int, seconds: float
) -> None:
    """Check that every answer is what was written, or an error, and that ``verify`` tells what is missed.

    Of the events that were ``written``, the first ``sure`` must be there.
    """
    queries = (
        EventQuery(),
        EventQuery(after_seq=70),
        EventQuery(run_id="run-3"),
        EventQuery(step_id="step-1"),
        EventQuery(member_id="worker-2"),
        EventQuery(event_types=("type-1", "type-4")),
        EventQuery(since_ms=20_000, until_ms=90_000),
    )
    missed = ""
    for query in queries:
        found = await answer(f"{query}", partial(store.query, query), seconds)
        if found is not None:
            due = [event for event in written[:sure] if query.matches(event)]
            count = judge_events(f"{query}", found, [*due, *filter(query.matches, written[sure:])])
            if count < len(due):
                missed = f"{query} found {count} of {len(due)} events"
    if isinstance(store, PagedStore):
        page = await answer("query_page", partial(store.query_page, EventQuery(), max_bytes=5_000), seconds)
        if page is not None:
            count = judge_events("query_page", page.events, written)
            passed = sure if page.is_complete else page.events[-1].seq
            if count < min(sure, passed):
                missed = f"query_page found {count} of the first {passed} events"
    last_seq = await answer("last_seq", store.last_seq, seconds)
    ends = {event.seq for event in written[sure - 1 :]}
    assert last_seq is None or last_seq in ends, f"last_seq returned {last_seq!r}, expected {min(ends)}"
    if missed and isinstance(store, VerifiableStore):
        verified = await answer("verify", store.verify, seconds)
        assert verified is None or verified.problems, f"{missed}, and verify found no problem"
    else:
        assert not missed, f"{missed}, and there is no verify to tell"


def judge_events(what: str, found: Sequence[PersistedEvent], expected: Sequence[PersistedEvent]) -> int:
    """Check that what was found is some of what was expected, and return how many events that are."""
    by_seq = {event.seq: event for event in expected}
    seqs = [event.seq for event in found]
    strange = [seq for seq in seqs if seq not in by_seq]
    assert not strange, f"{what} found seqs {strange[:5]}, which do not match"
    assert seqs == sorted(set(seqs)), f"{what} found seqs {seqs[:5]}..., which do not ascend"
    try:
        changed = [event.seq for event in found if event != by_seq[event.seq]]
    except Exception as exc:
        raise AssertionError(f"an event that {what} found raised {exc!r}") from exc
    assert not changed, f"{what} found events that were never written, on seqs {changed[:5]}"
    return len(seqs)


async def use_damaged(
    open_store: StoreOpener, location: Path, count: int, seconds: float, *, is_last: bool = False
) -> None:
    """Open a store whose files were damaged, and judge all that it answers; twice, if it refuses to open."""
    written = [logged(seq) for seq in range(1, count + 1)]
    sure = count
    was_open = False
    faulthandler.dump_traceback_later(seconds + 1, exit=True)
    try:
        async with open_store(location) as store:
            was_open = True
            await judge_answers(store, written, sure, seconds)
            repeat = partial(store.append_batch, written[:3])
            returned = await answer("append_batch of events that are there", repeat, seconds)
            assert not returned, f"append_batch of events that are there returned {returned}"
            written.append(logged(count + 1))
            if await answer("append_batch", partial(store.append_batch, written[-1:]), seconds) is not None:
                sure += 1
            await judge_answers(store, written, sure, seconds)
        async with open_store(location) as store:
            await judge_answers(store, written, sure, seconds)
    except EventRejected as exc:
        raise AssertionError(f"opening or leaving the store raised {exc!r}") from exc
    except StoreError:
        # Who is told may try again, and must not be shown then what was refused before.
        if not was_open and not is_last:
            await use_damaged(open_store, location, count, seconds, is_last=True)


async def write_whole(open_store: StoreOpener, location: Path, sizes: Sequence[int]) -> None:
    """Write a log in batches, and leave it."""
    async with open_store(location) as store:
        seq = 0
        for size in sizes:
            await store.append_batch([logged(seq + number) for number in range(1, size + 1)])
            seq += size


# --- the check ------------------------------------------------------------------------------------

_CHILD: Final = """\
from __future__ import annotations

import faulthandler
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from trio_eventlog import AgentEvent, EventQuery, EventRejected, EventStore, PersistedEvent, StoreError
from trio_eventlog.abc import PagedStore, VerifiableStore
{opening}


{functions}


location = Path(sys.argv[1])
# Empty, also when this is run again.
shutil.rmtree(location)
location.mkdir()
trio.run(write_whole, open_store, location, {sizes})
until = time.monotonic() + {seconds}
with tempfile.TemporaryDirectory() as whole:
    shutil.copytree(location, whole, dirs_exist_ok=True)
    for number, case in enumerate({damages}):
        if time.monotonic() > until:
            break
        shutil.rmtree(location)
        shutil.copytree(whole, location)
        if how := damage(location, *case):
            print(number, how, flush=True)
            trio.run(use_damaged, open_store, location, {count}, {op_timeout})
            faulthandler.cancel_dump_traceback_later()
"""

Damage: TypeAlias = tuple[str, float, int, float]
"""What :func:`damage` takes."""

_WHAT: Final = ("flip", "cut", "zero", "swap", "shorten")

# Where files have what holds them together: at the beginning and the end of a file, and of a page.
_OFFSETS: Final = (0, 3, 8, 13, 18, 28, 56, 100, 101, 104, 107, 120, 200, 511, 1024, 2000, 3000, 4000, 4095)


@attrs.frozen
class Damages:
    """Damages, each to a copy of the same files."""

    cases: tuple[Damage, ...]


def _sweep() -> Damages:
    """What every store must stand: each kind of damage everywhere."""
    places = [number / 16 for number in range(16)]
    cases: list[Damage] = []
    for number, offset in enumerate(_OFFSETS * 4):
        place, other = places[number * 7 % 16], places[number * 5 % 16]
        cases.append((_WHAT[number % 4], place, offset, other))
    # Of each file, unless there are many.
    short = [("shorten", place, offset, 0.0) for place in (0.0, 0.3, 0.6, 0.9) for offset in (0, 100, 2000)]
    return Damages((*short, ("zero", 0.0, 0, 0.9), *cases))


def _table(_subject: StoreUnderTest) -> Sequence[Damages]:
    return (_sweep(),)


def _damages(_subject: StoreUnderTest) -> SearchStrategy[Damages]:
    part = st.integers(0, 999).map(lambda number: number / 1_000)
    offset = st.sampled_from(_OFFSETS) | st.integers(0, 4_095)
    one = st.tuples(st.sampled_from(_WHAT), part, offset, part)
    return st.lists(one, min_size=1, max_size=80).map(lambda cases: Damages(tuple(cases)))


def _child_source(example: Example, cases: Sequence[Damage]) -> str:
    subject = example.subject
    assert subject.children is not None
    most = subject.max_batch or _EVENTS
    batches, rest = divmod(_EVENTS, min(most, 60))
    functions = (logged, damage, write_whole, use_damaged, judge_answers, judge_events, answer)
    return _CHILD.format(
        opening=subject.children.opening,
        functions="\n\n\n".join(map(source_of, functions)),
        sizes=[*[min(most, 60)] * batches, *[rest] * bool(rest)],
        seconds=round(max(1.0, min(_TRYING, example.seconds_left - _SPARE)), 1),
        damages=list(cases),
        count=_EVENTS,
        op_timeout=min(subject.op_timeout, _PATIENCE),
    )


async def _try_damages(example: Example, case: Damages) -> None:
    children = example.subject.children
    assert children is not None
    shown: Sequence[Damage] = case.cases
    # The program shows the one that matters, which is known at once.
    example.alive("running a child process", expected_seconds=CHILD_TIMEOUT)
    with suppress(trio.TooSlowError):
        source = _child_source(example, case.cases)
        scout = await run_child(source, example.location, children.environment())
        begun = re.findall(rb"^(\d+) ", scout.stdout, re.MULTILINE)
        if not scout.returncode:
            tried = int(begun[-1]) + 1 if begun else len(case.cases)
            if tried < min(_ENOUGH, len(case.cases)) and example.seconds_left < _TRYING:
                # Let the time for looking end: this has not been tried.
                await trio.sleep_forever()
            return
        shown = [case.cases[int(begun[-1])]] if begun else shown
        example.prolong(CHILD_TIMEOUT)
    result = await run_to_its_end(example, _child_source(example, shown))
    example.check("result.returncode == 0", lambda: _message(result))


def _message(result: subprocess.CompletedProcess[bytes]) -> str:
    how = result.stdout.decode(errors="replace").strip().splitlines()
    if result.returncode < 0:
        what = f"the process was ended by {signal.Signals(-result.returncode).name}"
    elif result.stderr.startswith(b"Timeout"):
        what = "the store kept the process from going on"
    else:
        what = last_line(result.stderr).removeprefix("AssertionError: ")
    return f"{how[-1].partition(' ')[2]}: {what}" if how else f"the store failed in a child process: {what}"


CHECKS: tuple[Check, ...] = (
    Check(
        clause="S16",
        name="files that were damaged",
        cases=_damages,
        run=_try_damages,
        table=_table,
        smaller=st.just,
        share=0.03,
        weight=4.0,
        needs=DURABLE | {"children", "damage"},
    ),
)
