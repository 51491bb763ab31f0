"""S10 to S15: keeping, cancelling, failing, locking and leaving."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio
import trio.testing
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    LogBusy,
    ModuleEvent,
    PersistedEvent,
    StoreUnusable,
)
from trio_eventlog.testing._checks._appending import cuts, nested, plain
from trio_eventlog.testing._code import Series, batch_code
from trio_eventlog.testing._model import Model, canonical, difference
from trio_eventlog.testing._processes import (
    held_by_child,
    last_line,
    opener_source,
    run_child,
    run_killed,
    wait_for_lock,
)
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._session import AfterTicks, Cut, Ended, Session, Subject, Tested, holds

# --- S10 ------------------------------------------------------------------------------------------


def _counts(_subject: Subject) -> SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 3), min_size=1, max_size=4)


def _batches(sizes: Sequence[int]) -> list[list[PersistedEvent]]:
    batches: list[list[PersistedEvent]] = []
    first = 1
    for size in sizes:
        batches.append([plain(seq) for seq in range(first, first + size)])
        first += size
    return batches


def _prefixes(batches: Sequence[Sequence[PersistedEvent]]) -> list[list[int]]:
    """The seqs that may be stored: of none of the batches, the first, the first two and so on."""
    return [[event.seq for batch in batches[:count] for event in batch] for count in range(len(batches) + 1)]


async def _try_read_back(session: Session, sizes: list[int]) -> None:
    async with session.opened() as store:
        await store.query()
        for batch in _batches(sizes):
            await store.append(batch)
            await store.query()


async def _try_reopened(session: Session, sizes: list[int]) -> None:
    for batch in _batches(sizes):
        async with session.opened() as store:
            await store.query()
            await store.append(batch)
    async with session.opened() as store:
        await store.query()


@attrs.frozen
class Killed:
    """Appends in a process that is killed: after the last of them, or in its midst."""

    sizes: tuple[int, ...]
    cut: Cut | None


def _killed(subject: Subject) -> SearchStrategy[Killed]:
    most = subject.max_batch or 50
    sizes = tuple(min(size, most) for size in (1, 2))
    # The simplest first, each of them once.
    return st.sampled_from(
        (
            Killed(sizes[:1], None),
            Killed(sizes, None),
            Killed((*sizes, min(50, most)), AfterTicks(1)),
            Killed((*sizes, min(50, most)), AfterTicks(3)),
        )
    )


async def _try_killed(session: Session, case: Killed) -> None:
    batches = _batches(case.sizes)
    acknowledged = await run_killed(session, batches, case.cut)
    session.model.adopt(event for batch in batches[:acknowledged] for event in batch)
    async with session.opened() as store:
        found = [event.seq for event in await store.found()]
        whole = _prefixes(batches)
        session.script.add(
            f"assert [event.seq for event in await store.query(EventQuery())] in {whole[acknowledged:]}"
        )
        session.expect(
            found in whole[acknowledged:],
            f"{acknowledged} appends of {list(case.sizes)} events had returned when the process was killed;"
            f" seqs {found} are stored, expected {whole[acknowledged]}",
        )


async def _try_readers(session: Session, sizes: list[int]) -> None:
    batches = _batches(sizes)
    prefixes = _prefixes(batches)
    async with session.opened() as store, session.opened(name="reader", reader=True) as reader:
        seen = 0
        ends = [0, *(batch[-1].seq for batch in batches)]
        for number, batch in enumerate(batches, start=1):
            await store.append(batch)
            # Twice, since going back shows in the second.
            for _ in range(2):
                session.script.add("found = [event.seq for event in await reader.query(EventQuery())]")
                session.script.add(f"assert found in {prefixes[: number + 1]}, found")
                session.script.add(f"assert len(found) >= {seen}, found")
                found = [event.seq for event in await reader.found()]
                session.expect(
                    found in prefixes[: number + 1],
                    f"after {number} appends of {sizes} events a reader found seqs {found}: no prefix",
                )
                session.expect(len(found) >= seen, f"a reader found {seen} events, and then {len(found)}")
                seen = len(found)
                session.script.add(f"assert await reader.last_seq() in {ends}")
                last_seq = await session.call("last_seq", reader.store.last_seq)
                session.expect(
                    last_seq in ends, f"a reader has last_seq {last_seq!r}, expected one of {ends}"
                )


# --- S11 ------------------------------------------------------------------------------------------

Call = Callable[[Tested], Awaitable[object]]

_CALLS: dict[str, tuple[str, Call]] = {
    "append_batch": (
        f"append_batch({batch_code([plain(2)])})",
        lambda store: store.store.append_batch([plain(2)]),
    ),
    "append_batch with an empty batch": ("append_batch([])", lambda store: store.store.append_batch([])),
    "append_batch with a repeat": (
        f"append_batch({batch_code([plain(1)])})",
        lambda store: store.store.append_batch([plain(1)]),
    ),
    "query": ("query(EventQuery())", lambda store: store.store.query(EventQuery())),
    "query with limit=0": (
        "query(EventQuery(limit=0))",
        lambda store: store.store.query(EventQuery(limit=0)),
    ),
    "query after the end": (
        "query(EventQuery(after_seq=9223372036854775807))",
        lambda store: store.store.query(EventQuery(after_seq=2**63 - 1)),
    ),
    "query of an empty window": (
        "query(EventQuery(since_ms=5, until_ms=5))",
        lambda store: store.store.query(EventQuery(since_ms=5, until_ms=5)),
    ),
    "last_seq": ("last_seq()", lambda store: store.store.last_seq()),
}


def _calls(_subject: Subject) -> SearchStrategy[str]:
    return st.sampled_from(list(_CALLS))


async def _try_checkpoint(session: Session, name: str) -> None:
    async with session.opened() as store:
        await store.append([plain(1)])
        code, call = _CALLS[name]
        session.script.add(f"with trio.testing.assert_checkpoints():\n    await store.{code}")

        async def checked() -> None:
            try:
                with trio.testing.assert_checkpoints():
                    await call(store)
            except AssertionError as exc:
                session.violated(
                    f"{name} is no checkpoint: it neither yields to the scheduler nor can it be cancelled",
                    exc,
                )
            except Exception:  # noqa: BLE001 - whether it is due is the business of others
                return

        await session.call(name, checked)


async def _try_entered_cancelled(session: Session, name: str) -> None:
    async with session.opened() as store:
        await store.append([plain(1)])
        code, call = _CALLS[name]
        session.script.add(
            f"with trio.CancelScope() as scope:\n    scope.cancel()\n    await store.{code}\n"
            "assert scope.cancelled_caught"
        )
        ended = await session.cut(name, AfterTicks(0), call, store)
        if not ended.cancelled:
            how = "returned" if ended.error is None else f"raised {ended.error!r}"
            session.violated(f"{name}, entered cancelled, {how}; expected Cancelled")
        await store.query(EventQuery(limit=1))


@attrs.frozen
class Later:
    """A call that is cancelled while it is under way."""

    name: str
    size: int
    cut: Cut


def _cancelled_later(subject: Subject) -> SearchStrategy[Later]:
    sizes = [size for size in (2, 200, 1_000) if size <= (subject.max_batch or 1_000)] or [1]
    return st.builds(
        Later, st.sampled_from(("append_batch", "query", "last_seq")), st.sampled_from(sizes), cuts()
    )


async def _try_cancelled_later(session: Session, case: Later) -> None:
    async with session.opened() as store:
        held = Series(1, case.size)
        if case.name != "append_batch":
            await store.append(held)
        call, arguments = {
            "append_batch": (f"append_batch({held.code})", (list(held),)),
            "query": ("query(EventQuery())", (EventQuery(),)),
            "last_seq": ("last_seq()", ()),
        }[case.name]
        script = session.script
        script.add("returned = []")
        with script.block("async def call() -> None:"):
            script.add(f"returned.append(await store.{call})")
        session.note_cut("call", case.cut)
        ended = await session.cut(case.name, case.cut, getattr(store.store, case.name), *arguments)
        if ended.error is not None:
            session.violated(
                f"{case.name}, cancelled, raised {ended.error!r}; expected Cancelled, or a result",
                ended.error,
            )
        if case.name == "append_batch":
            await _judge_append(store, held, ended)
        else:
            result = len(ended.value) if isinstance(ended.value, list) else ended.value
            listed = "returned" if case.name == "last_seq" else "[len(events) for events in returned]"
            script.add(f"assert {listed} in ([], [{case.size}])")
            session.expect(
                ended.cancelled or result == case.size,
                f"{case.name}, cancelled, returned {result}, expected {case.size}",
            )


async def _judge_append(store: Tested, batch: list[PersistedEvent], ended: Ended) -> None:
    session = store.session
    # The barrier of S4: whatever the append still does is done.
    session.script.add("await store.last_seq()")
    await session.call("last_seq", store.store.last_seq)
    session.script.add(f"assert not returned or len(await store.query(EventQuery())) == {len(batch)}")
    # Half of it, if it raised Cancelled, is the business of S4.
    found = len(await store.found())
    session.expect(
        ended.cancelled or found == len(batch),
        f"append_batch, cancelled, returned, but {found} of {len(batch)} events are stored",
    )


class _StepTimer(trio.abc.Instrument):
    """Measures the longest step of any task."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = 0.0

    def reset(self) -> None:
        """Begin anew, in the midst of a step."""
        self.longest = 0.0
        self._began = time.perf_counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's interface
        """Begin to measure."""
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's interface
        """Keep what was longest."""
        self.longest = max(self.longest, time.perf_counter() - self._began)


_LONGEST_STEP: Final = 0.1
"""Seconds. S11."""


def _sizes(subject: Subject) -> SearchStrategy[int]:
    return st.just(min(5_000, subject.max_batch or 5_000))


async def _try_steps(session: Session, size: int) -> None:
    async with session.opened() as store:
        timer = _StepTimer()

        async def timed(what: str, function: Callable[..., Awaitable[Any]], *args: object) -> None:
            # Making the arguments must not count, nor the garbage of others.
            gc.collect()
            timer.reset()
            trio.lowlevel.add_instrument(timer)
            try:
                await session.call(what, function, *args)
            finally:
                trio.lowlevel.remove_instrument(timer)
            session.expect(
                timer.longest <= _LONGEST_STEP,
                f"{what} with {size} events blocked the event loop for {timer.longest * 1000:.0f} ms, in"
                f" three runs of three; at most {_LONGEST_STEP * 1000:.0f} ms are allowed",
            )

        batch = Series(1, size)
        session.script.add(f"await store.append_batch({batch.code})")
        await timed("append_batch", store.store.append_batch, list(batch))
        session.script.add("await store.query(EventQuery())")
        await timed("query", store.store.query, EventQuery())
        session.script.add('await store.query(EventQuery(event_types=("t",)))')
        await timed("query with a filter", store.store.query, EventQuery(event_types=("t",)))
        session.script.add(f"await store.append_batch({batch.code})")
        await timed("append_batch of repeats", store.store.append_batch, list(batch))
        session.script.add("await store.last_seq()")
        await timed("last_seq", store.store.last_seq)


async def _try_together(session: Session, sizes: list[int]) -> None:
    async with session.opened() as store:
        script = session.script
        for batch in _batches([size * 20 for size in sizes]):
            for piece in store.pieces(batch):
                session.model.append(piece)
                with script.block("async with trio.open_nursery() as nursery:"):
                    script.add(f"nursery.start_soon(store.append_batch, {batch_code(piece)})")
                    script.add(
                        "nursery.start_soon(store.query, EventQuery())\nnursery.start_soon(store.last_seq)"
                    )
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(
                            session.call, "append_batch beside a query", store.store.append_batch, list(piece)
                        )
                        nursery.start_soon(
                            session.call, "query beside an append", store.store.query, EventQuery()
                        )
                        nursery.start_soon(session.call, "last_seq beside an append", store.store.last_seq)
        await store.last_seq()


# --- S12 ------------------------------------------------------------------------------------------


async def _try_after_leaving(session: Session, name: str) -> None:
    code, call = _CALLS[name]
    async with session.opened() as store:
        await store.append([plain(1)])
    refuses = session.subject.durable
    session.script.add(f"try:\n    await store.{code}\nexcept StoreUnusable:\n    pass")
    if refuses:
        session.script.add("else:\n    raise AssertionError('still open')")
    try:
        await session.call_raw(name, call, store)
    except StoreUnusable:
        return
    except Exception as exc:  # noqa: BLE001 - that is what this looks for
        session.violated(f"{name} after the store was left raised {exc!r}; expected StoreUnusable", exc)
    if refuses:
        session.violated(f"{name} after the store was left returned; expected StoreUnusable")


@attrs.frozen
class Extreme:
    """An event beyond what every store must hold."""

    where: str
    size: int


_PLACES: Final = {
    "payload": (70_000, 300_000, 1_200_000),
    "levels": (33, 100, 200),
    "id": (600, 3_000, 70_000),
    "member_id": (600, 3_000, 70_000),
    "event_type": (600, 3_000, 70_000),
    "run_id": (600, 3_000, 70_000),
    "module": (600, 3_000, 70_000),
}


def _most_extremes(subject: Subject) -> int:
    return max(1, min(3, (subject.max_batch or 5) - 1))


def _extremes(subject: Subject) -> SearchStrategy[list[Extreme]]:
    places = st.sampled_from(list(_PLACES))
    extreme = places.flatmap(
        lambda where: st.builds(Extreme, st.just(where), st.sampled_from(_PLACES[where]))
    )
    return st.lists(extreme, min_size=1, max_size=_most_extremes(subject))


def _extremes_table(subject: Subject) -> list[list[Extreme]]:
    # Several in a batch, since all must be named.
    most = _most_extremes(subject)
    return [[Extreme(where, size) for size in sizes[-most:]] for where, sizes in _PLACES.items()]


def _extreme_event(seq: int, extreme: Extreme) -> PersistedEvent:
    # A long text whose every prefix is unlike that of its neighbours, so that ids differ.
    text = chr(ord("a") + seq % 26) * extreme.size
    match extreme.where:
        case "payload":
            return plain(seq, payload=text)
        case "levels":
            return plain(seq, payload=nested(extreme.size))
        case "id":
            return plain(seq, event_id=text)
        case "member_id":
            return PersistedEvent(f"id-{seq}", seq, 0, text, AgentEvent(text, "t"))
        case "event_type":
            return PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", text))
        case "run_id":
            return plain(seq, payload={"run_id": text})
        case _:
            return PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent(text, "t"))


async def _try_extremes(session: Session, case: list[Extreme]) -> None:
    extreme = [_extreme_event(seq, item) for seq, item in enumerate(case, start=2)]
    fine = [plain(1), plain(len(extreme) + 2)]
    batch = [fine[0], *extreme, fine[1]]
    async with session.opened() as store:
        if len(store.pieces(batch)) > 1:
            batch = extreme[:1]
        named = await _rejected(store, batch, extreme)
        if named:
            await store.query(values=True)
            # Alone it is rejected again, and what was not named is taken.
            for event in named:
                session.expect(
                    bool(await _rejected(store, [event], extreme)),
                    f"the event on seq {event.seq} was rejected, and then stored",
                )
        rest = [event for event in batch if event not in named]
        again = await _rejected(store, rest, extreme) if named else []
        session.expect(
            not again,
            f"EventRejected named seqs {[event.seq for event in named]}, and of the others in the batch then"
            f" {[event.seq for event in again]}; it must name all at once",
        )
        session.model.adopt(rest)
        found = await store.found()
        session.expect(
            list(map(canonical, found)) == list(map(canonical, session.model.events())),
            f"seqs {[event.seq for event in found]} were read back, expected {[event.seq for event in rest]},"
            " all of them unchanged",
        )


async def _rejected(
    store: Tested, batch: list[PersistedEvent], extreme: list[PersistedEvent]
) -> list[PersistedEvent]:
    """The events that the store names when it rejects ``batch``, none if it takes it."""
    session = store.session
    session.script.add(f"try:\n    await store.append_batch({batch_code(batch)})")
    session.script.add("except EventRejected as exc:\n    print([event.seq for event in exc.events])")
    try:
        await session.call_raw("append_batch", store.store.append_batch, list(batch))
    except EventRejected as exc:
        named = [event for event in batch if event in exc.events]
        session.expect(
            bool(named) and len(named) == len(exc.events),
            f"EventRejected names {len(exc.events)} events that are not in the batch",
        )
        for event in named:
            session.expect(
                event in extreme,
                f"EventRejected names the event on seq {event.seq}, which every store must hold",
            )
        return named
    except Exception as exc:  # noqa: BLE001 - that is what this looks for
        session.violated(
            f"append_batch of events that are too large raised {exc!r}; expected EventRejected", exc
        )
    return []


async def _try_reader_appends(session: Session, _case: None) -> None:
    async with session.opened() as store:
        await store.append([plain(1)])
        async with session.opened(name="reader", reader=True) as reader:
            session.script.add(f"try:\n    await reader.append_batch({batch_code([plain(2)])})")
            session.script.add("except StoreUnusable:\n    pass\nelse:\n    raise AssertionError('appended')")
            try:
                await session.call_raw("append_batch of a reader", reader.store.append_batch, [plain(2)])
            except StoreUnusable:
                pass
            except Exception as exc:  # noqa: BLE001 - that is what this looks for
                session.violated(f"append_batch of a reader raised {exc!r}; expected StoreUnusable", exc)
            else:
                session.violated("append_batch of a reader returned; expected StoreUnusable")
        await store.query()


# --- S13 ------------------------------------------------------------------------------------------


async def _refused(session: Session, where: str) -> None:
    """Open the store once more; it must be refused with LogBusy."""
    script = session.script
    script.add("try:\n    async with open_store(location):\n        pass")
    script.add("except LogBusy:\n    pass\nelse:\n    raise AssertionError('opened twice')")
    session.alive("opening the store a second time")
    outcome: BaseException | None = None
    opened = False
    with trio.move_on_after(session.subject.op_timeout) as scope:
        try:
            async with session.subject.open_store(session.location):
                opened = True
        except Exception as exc:  # noqa: BLE001 - judged below
            outcome = exc
    if opened:
        session.violated(f"{where}, a second appender could open the log; expected LogBusy")
    if scope.cancelled_caught:
        session.violated(
            f"{where}, opening the log did not end within {session.subject.op_timeout} s; expected LogBusy"
        )
    if not isinstance(outcome, LogBusy):
        session.violated(f"{where}, opening the log raised {outcome!r}; expected LogBusy", outcome)


async def _try_second_appender(session: Session, _case: None) -> None:
    async with session.opened() as store:
        await store.append([plain(1)])
        # Twice: being refused must not free what another holds.
        await _refused(session, "while this process has it open")
        await _refused(session, "while this process has it open, after one that was refused")
        await store.append([plain(2)])
        await store.query()
    async with session.opened() as store:
        await store.query()


async def _try_other_process(session: Session, _case: None) -> None:
    async with session.opened() as store:
        await store.append([plain(1)])
        await _refused(session, "while this process has it open")
        result = await run_child(session, opener_source(session))
        session.script.add("assert result.stdout == b'busy\\n', result")
        if result.stdout.startswith(b"opened"):
            session.violated("while this process has it open, another could open the log; expected LogBusy")
        if result.stdout != b"busy\n":
            session.violated(
                f"while this process has it open, opening it in another failed: {last_line(result.stderr)}"
            )
        await store.append([plain(2)])


async def _try_killed_holder(session: Session, _case: None) -> None:
    async with held_by_child(session):
        await _refused(session, "while another process has it open")
    await wait_for_lock(session)
    # A lock that outlives its process shows here.
    async with session.opened() as store:
        await store.append([plain(1)])


# --- S14 ------------------------------------------------------------------------------------------


@attrs.frozen
class TwoLogs:
    """What two logs get, in turns."""

    turns: tuple[tuple[int, int, str], ...]
    """Which log, which seq, which id."""


def _two_logs(_subject: Subject) -> SearchStrategy[TwoLogs]:
    ids: SearchStrategy[str] = st.sampled_from(("x", "y", "z"))
    turns = st.lists(st.tuples(st.integers(0, 1), ids), min_size=2, max_size=6, unique=True)
    return turns.map(_numbered)


def _numbered(turns: Sequence[tuple[int, str]]) -> TwoLogs:
    """With the seqs of each log from 1 on, so that they meet those of the other."""
    numbered: list[tuple[int, int, str]] = []
    for log, event_id in turns:
        numbered.append((log, 1 + sum(log == other for other, _, _ in numbered), event_id))
    return TwoLogs(tuple(numbered))


async def _try_two_logs(session: Session, case: TwoLogs) -> None:
    sibling = session.sibling()
    session.script.add(f"(location.parent / {sibling.name!a}).mkdir()")
    async with (
        session.opened(name="first") as first,
        session.opened(location=sibling, name="second") as second,
    ):
        second.model = Model()
        stores = (first, second)
        for log, seq, event_id in case.turns:
            event = PersistedEvent(
                event_id, seq, 1_000, None, ModuleEvent("m", f"log-{log}", {"run_id": "r"})
            )
            await stores[log].append([event], returns=True)
        for store in stores:
            await store.query(values=True)
            await store.query(EventQuery(run_id="r"), values=True)
            await store.last_seq()


# --- S15 ------------------------------------------------------------------------------------------


class _Leave(Exception):
    """What the body of an example raises."""


_WAYS: Final = ("normally", "by an error", "cancelled", "cancelled in an append")


def _ways(_subject: Subject) -> SearchStrategy[str]:
    return st.sampled_from(_WAYS)


async def _try_leaving(session: Session, way: str) -> None:
    script = session.script
    for seq in (1, 3):
        session.alive("opening the store")
        await _leave(session, way, seq)
    script.add("# It can be opened again at once.")
    async with session.opened() as store:
        if not session.subject.durable:
            session.model = Model()
            store.model = session.model
        script.add("before = await store.query(EventQuery())\nawait trio.sleep(0.05)")
        before = await store.found()
        await trio.sleep(0.05)
        script.add("assert_same_events(await store.query(EventQuery()), before)")
        message = difference(await store.found(), before)
        session.expect(message is None, f"an append from before landed after opening again: {message}")
        await store.append([plain(9)])


async def _leave(session: Session, way: str, seq: int) -> None:
    script = session.script
    batch = batch_code([plain(seq + 1)])
    doing = {
        "normally": "pass",
        "by an error": "raise RuntimeError",
        "cancelled": "scope.cancel()\nawait trio.lowlevel.checkpoint()",
        "cancelled in an append": (
            f"scope.deadline = trio.current_time() + 0.002\nawait store.append_batch({batch})\n"
            "await trio.sleep_forever()"
        ),
    }
    with (
        script.block("with suppress(RuntimeError), trio.CancelScope() as scope:"),
        script.block("async with open_store(location) as store:"),
    ):
        script.add(f"await store.append_batch({batch_code([plain(seq)])})")
        script.add(doing[way])
    reached = False
    body_error: BaseException | None = None
    with trio.CancelScope() as scope:
        try:
            async with session.subject.open_store(session.location) as store:
                await store.append_batch([plain(seq)])
                reached = True
                session.alive("leaving the store")
                try:
                    await _end(way, scope, store, seq + 1)
                except BaseException as exc:
                    body_error = exc
                    raise
        except trio.Cancelled:
            raise
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - judged; Cancelled has gone on
            if body_error is None or not holds(exc, body_error):
                what = f"leaving the store {way}" if reached else "opening the store, or appending,"
                session.violated(f"{what} raised {exc!r}", exc)
        else:
            session.expect(body_error is None, f"leaving the store {way} swallowed {body_error!r}")


async def _end(way: str, scope: trio.CancelScope, store: Any, seq: int) -> None:
    match way:
        case "by an error":
            raise _Leave
        case "cancelled":
            scope.cancel()
            await trio.lowlevel.checkpoint()
        case "cancelled in an append":
            # Under way, in a store that takes a while.
            scope.deadline = trio.current_time() + 0.002
            await store.append_batch([plain(seq)])
            await trio.sleep_forever()
        case _:
            pass


_ROUNDS: Final = 5


async def _try_leaks(session: Session, cancelled: bool) -> None:
    with session.script.block(f"for seq in range(1, {_ROUNDS + 3}):"):
        session.script.add("with trio.CancelScope() as scope:\n    async with open_store(location) as store:")
        session.script.add(
            "        await store.append_batch("
            '[PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", "t"))])'
        )
        if cancelled:
            session.script.add("        scope.cancel()\n        await trio.lowlevel.checkpoint()")
    session.script.add("gc.collect()\nprint(threading.enumerate(), os.listdir('/proc/self/fd'))")
    counts: list[tuple[int, int]] = []
    for number in range(_ROUNDS + 2):
        session.alive("opening and leaving the store")
        try:
            with trio.CancelScope() as scope:
                async with session.subject.open_store(session.location) as store:
                    await store.append_batch([plain(number + 1)])
                    if cancelled:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is not due
            session.violated(f"opening and leaving the store {number + 1} times raised {exc!r}", exc)
        # What hangs in a cycle is not freed by leaving, but is no leak either.
        gc.collect()
        counts.append((threading.active_count(), _descriptors()))
    # The first rounds may start what is kept for the whole process, such as Trio's worker threads.
    for index, what in enumerate(("threads", "file descriptors")):
        before, after = counts[1][index], counts[-1][index]
        session.expect(
            after - before < _ROUNDS,
            f"opening and leaving the store {_ROUNDS} times left {after - before} more {what}",
        )


def _descriptors() -> int:
    for directory in (Path("/proc/self/fd"), Path("/dev/fd")):
        if directory.is_dir():
            return sum(1 for _ in directory.iterdir())
    return 0


def _either(_subject: Subject) -> SearchStrategy[bool]:
    return st.booleans()


def _once(_subject: Subject) -> SearchStrategy[None]:
    return st.none()


_DURABLE: Final = frozenset({"durable"})

CHECKS: tuple[Check, ...] = (
    Check(clause="S10", name="reading what was appended", cases=_counts, run=_try_read_back, share=0.3),
    Check(clause="S10", name="opening again", cases=_counts, run=_try_reopened, share=0.2, needs=_DURABLE),
    Check(
        clause="S10",
        name="a process that is killed",
        cases=_killed,
        run=_try_killed,
        fixed=4,
        needs=_DURABLE | {"children"},
    ),
    Check(
        clause="S10", name="readers", cases=_counts, run=_try_readers, share=0.2, needs=frozenset({"reader"})
    ),
    Check(clause="S11", name="checkpoints", cases=_calls, run=_try_checkpoint, fixed=8),
    Check(clause="S11", name="entered cancelled", cases=_calls, run=_try_entered_cancelled, fixed=8),
    Check(clause="S11", name="cancelled later", cases=_cancelled_later, run=_try_cancelled_later, share=0.6),
    Check(clause="S11", name="blocking the event loop", cases=_sizes, run=_try_steps, fixed=1, confirm=3),
    Check(clause="S11", name="appends beside queries", cases=_counts, run=_try_together, share=0.1),
    Check(clause="S12", name="after leaving", cases=_calls, run=_try_after_leaving, fixed=8),
    Check(
        clause="S12",
        name="events that are too large",
        cases=_extremes,
        run=_try_extremes,
        table=_extremes_table,
        share=0.3,
    ),
    Check(
        clause="S12",
        name="a reader that appends",
        cases=_once,
        run=_try_reader_appends,
        fixed=1,
        needs=frozenset({"reader"}),
    ),
    Check(
        clause="S13",
        name="a second appender",
        cases=_once,
        run=_try_second_appender,
        fixed=1,
        needs=_DURABLE | {"lock"},
    ),
    Check(
        clause="S13",
        name="a second appender in another process",
        cases=_once,
        run=_try_other_process,
        fixed=1,
        needs=_DURABLE | {"lock", "children"},
    ),
    Check(
        clause="S13",
        name="an appender that is killed",
        cases=_once,
        run=_try_killed_holder,
        fixed=1,
        needs=_DURABLE | {"lock", "children"},
    ),
    Check(clause="S14", name="two logs", cases=_two_logs, run=_try_two_logs, share=0.5),
    Check(clause="S15", name="leaving and opening again", cases=_ways, run=_try_leaving, fixed=4),
    Check(clause="S15", name="leaks", cases=_either, run=_try_leaks, fixed=2, confirm=2),
)
