"""Appending under watch, losing power, and judging what is there afterwards."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from trio_eventlog import EventQuery, EventStore, ModuleEvent, PersistedEvent, StoreError
from trio_eventlog.abc import DurableStore, FileStore, SyncableStore
from trio_eventlog.testing._arguments import (
    check_instance,
    check_integers,
    check_names,
    check_opener,
    checked_path,
)
from trio_eventlog.testing._power._journal import FileJournal, Written
from trio_eventlog.testing._power._states import Crash, CrashState, crash_state
from trio_eventlog.testing._power._watching import Watched, Watcher, open_watcher
from trio_eventlog.testing._subject import StoreOpener

CLAUSES: Final = ("S4", "S9", "S10")
"""What is judged."""

STATE_SECONDS: Final = 30.0
"""For all that is done with one state."""

_KEPT_IN_WORDS: Final = {
    "one file": "what belongs to one file",
    "all but one file": "what belongs to all files but one",
    "some": "a part",
    "torn at 512": "a part, torn at multiples of 512 bytes,",
    "torn at 4096": "a part, torn at multiples of 4,096 bytes,",
}

_ATTEMPTS: Final = 3
_OPENINGS: Final = 6


@attrs.frozen
class Recording:
    """What was appended, what the store promises, and what it did to its files.

    Attributes:
      journal: what was done to the files, and when an append had returned.
      batches: what was appended, in order.
      watcher: what watched the files.
    """

    journal: FileJournal
    batches: list[list[PersistedEvent]]
    watcher: Watcher

    @property
    def sizes(self) -> list[int]:
        """The sizes of the batches."""
        return [len(batch) for batch in self.batches]


def batches_of(sizes: Iterable[int]) -> list[list[PersistedEvent]]:
    """Batches of these sizes, on the seqs from 1 on."""
    batches: list[list[PersistedEvent]] = []
    first = 1
    for size in sizes:
        batches.append([_event(seq) for seq in range(first, first + size)])
        first += size
    return batches


def _event(seq: int) -> PersistedEvent:
    return PersistedEvent(f"id-{seq}", seq, seq * 1_000, None, ModuleEvent("m", "t", {"n": seq}))


async def check_power_loss(
    open_store: StoreOpener,
    directory: str | os.PathLike[str],
    sizes: Sequence[int],
    crashes: Iterable[Crash],
    *,
    failing_syncs: Collection[int] = (),
    clauses: Collection[str] = CLAUSES,
) -> None:
    """Assert that a store keeps what it has promised when power is lost.

    Appends under watch, with the store open twice. Then, for each of ``crashes``, puts the files into the
    state in which power loss may have left them, opens the store there and looks: batches are whole (S4),
    ``last_seq`` is right (S9), and what was promised is there, nothing comes twice, and what was appended
    can be appended again and is found, also after another opening (S10).

    What is promised is what the store says (:class:`trio_eventlog.abc.DurableStore`): with ``"power"`` every
    batch whose append has returned; otherwise those before the last ``sync``, if it has that, and any number
    of the next ones without a gap.

    The store must be a :class:`trio_eventlog.abc.FileStore`. Not to be called twice at the same time in a
    process. A checkpoint; can be cancelled.

    Args:
      open_store: opens the store in a directory, as for :func:`check_store`.
      directory: an existing empty directory; new ones are made in it.
      sizes: how many events each batch has, 1 or more.
      crashes: when power is lost, and what is kept.
      failing_syncs: which syncs fail, by their number from 1 on.
      clauses: which clauses to judge.

    Raises:
      AssertionError: the store does not keep what it promised; the message says what was acknowledged, and
        where the cut was.
      TypeError: an argument has the wrong type; the store is no :class:`trio_eventlog.abc.FileStore`.
      ValueError: a number is out of range; no batches; a clause that is not among these.
      RuntimeError: its files cannot be watched here; the message says why.
    """
    check_opener(open_store)
    directory = checked_path("directory", directory)
    check_integers("sizes", sizes, 1)
    if not sizes:
        raise ValueError("sizes: expected at least one batch, got none")
    check_integers("failing_syncs", failing_syncs, 1)
    check_names("clauses", clauses, CLAUSES[0], CLAUSES, ", ".join(CLAUSES))
    check_instance("crashes", crashes, Iterable, "an")
    crashes = list(crashes)
    for number, crash in enumerate(crashes):
        check_instance(f"crashes[{number}]", crash, Crash)
    access = await _declared(open_store, directory / "declared")
    async with open_watcher(access) as watcher:
        recording = await record(open_store, directory / "before", watcher, sizes, failing_syncs)
        for number, crash in enumerate(crashes):
            await judge(open_store, directory / f"after-{number}", recording, crash, clauses)


async def _declared(open_store: StoreOpener, directory: Path) -> str:
    await trio.Path(directory).mkdir()
    async with open_store(directory) as store:
        access: object = store.file_access if isinstance(store, FileStore) else None
    if not isinstance(access, str):
        raise TypeError("open_store: expected a FileStore, which says how its files can be watched")
    return access


# --- recording ------------------------------------------------------------------------------------


async def record(
    open_store: StoreOpener,
    directory: Path,
    watcher: Watcher,
    sizes: Sequence[int],
    failing_syncs: Collection[int] = (),
) -> Recording:
    """Append batches of these sizes, in a directory that is made, and note what the store does to its files.

    Raises:
      AssertionError: nothing was seen of what it does.
    """
    await trio.Path(directory).mkdir()
    batches = batches_of(sizes)
    async with watcher.watch(directory, failing_syncs) as watched:
        with trio.fail_after(STATE_SECONDS):
            await _play(open_store, watched, batches, fails=bool(failing_syncs))
    journal = watched.journal
    assert any(isinstance(operation, Written) for operation in journal.operations), (
        "the store says in file_access how its files are watched, but no write to one was seen"
    )
    return Recording(journal, batches, watcher)


async def _play(
    open_store: StoreOpener, watched: Watched, batches: Sequence[Sequence[PersistedEvent]], *, fails: bool
) -> None:
    """Append the batches, the last one after opening again. If syncs fail, try again as a log does."""
    done = 0
    for _ in range(_OPENINGS):
        ends = [len(batches) - 1, len(batches)] if len(batches) > 1 else [1]
        end = next(end for end in ends if done < end or end == len(batches))
        try:
            async with open_store(watched.path) as store:
                while done < end and await _append(store, batches[done], fails=fails):
                    done += 1
                    await _promise(store, done, watched, fails=fails)
        except (StoreError, ExceptionGroup):
            if not fails:
                raise
        if done == len(batches):
            return


async def _append(store: EventStore, batch: Sequence[PersistedEvent], *, fails: bool) -> bool:
    """Whether it returned in the end."""
    for _ in range(_ATTEMPTS):
        try:
            await store.append_batch(list(batch))
        except StoreError:
            if not fails:
                raise
        else:
            return True
    return False


async def _promise(store: EventStore, done: int, watched: Watched, *, fails: bool) -> None:
    """Note that so many batches are promised now, if they are."""
    if isinstance(store, DurableStore) and store.survives == "power":
        await watched.acknowledge(done)
    # Not each time: what lies between two syncs is to be seen as well.
    elif isinstance(store, SyncableStore) and done % 2:
        try:
            await store.sync()
        except StoreError:
            if not fails:
                raise
        else:
            await watched.acknowledge(done)


# --- judging --------------------------------------------------------------------------------------


async def judge(
    open_store: StoreOpener, directory: Path, recording: Recording, crash: Crash, clauses: Collection[str]
) -> None:
    """Put the files into a state after ``crash``, in a directory that is made, and judge the store there.

    Raises:
      AssertionError: a clause is broken.
    """
    await trio.Path(directory).mkdir()
    state = crash_state(recording.journal, crash)
    await trio.to_thread.run_sync(state.write, directory)
    verdict = _Verdict(recording, state, crash)
    with recording.watcher.unsynced(directory), trio.fail_after(STATE_SECONDS):
        with verdict.opening("be opened", "S10" in clauses):
            async with open_store(directory) as store:
                await verdict.look(store, clauses)
                if "S10" in clauses:
                    await verdict.append_again(store)
        if "S10" in clauses:
            with verdict.opening("be opened again", True):
                async with open_store(directory) as store:
                    verdict.check_all(await store.query(EventQuery()), "after opening once more")


@attrs.frozen
class _Verdict:
    _recording: Recording
    _state: CrashState
    _crash: Crash

    @contextmanager
    def opening(self, what: str, is_judged: bool) -> Iterator[None]:
        """What the store raises breaks S10, unless that is not judged."""
        try:
            yield
        except AssertionError:
            raise
        except Exception as exc:
            # In a group, if the store has a nursery.
            if isinstance(exc, ExceptionGroup) and (found := exc.subgroup(AssertionError)) is not None:
                raise _first(found) from None
            if is_judged:
                raise AssertionError(f"{self._when()}; then the store cannot {what}: {exc!r}") from exc

    async def look(self, store: EventStore, clauses: Collection[str]) -> None:
        """Judge what is there."""
        events = await store.query(EventQuery())
        found = [event.seq for event in events]
        batches = self._recording.batches
        if "S4" in clauses:
            for batch in batches:
                there = len({event.seq for event in batch} & set(found))
                assert there in (0, len(batch)), (
                    f"{self._when()}; then {there} of the {len(batch)} events of a batch are stored"
                )
        if "S9" in clauses:
            last_seq = await store.last_seq()
            expected = max(found, default=0)
            assert last_seq == expected, (
                f"{self._when()}; then last_seq is {last_seq!r}, and the last event has seq {expected}"
            )
        if "S10" in clauses:
            flat = [event for batch in batches for event in batch]
            sizes = self._recording.sizes
            ends = [sum(sizes[:count]) for count in range(self._state.promised, len(sizes) + 1)]
            assert events in [flat[:end] for end in ends], (
                f"{self._when()}; then seqs {_shown(found)} are stored, expected"
                f" {_shown(range(1, ends[0] + 1))}{' or more' if len(ends) > 1 else ''}"
            )

    async def append_again(self, store: EventStore) -> None:
        """What was appended can be appended again, whether it is there or not."""
        for batch in self._recording.batches:
            await store.append_batch(list(batch))
        self.check_all(await store.query(EventQuery()), "and everything is appended again")

    def check_all(self, events: Sequence[PersistedEvent], when: str) -> None:
        """Check that everything is there once."""
        flat = [event for batch in self._recording.batches for event in batch]
        assert events == flat, (
            f"{self._when()}; then, {when}, seqs {_shown([event.seq for event in events])} are stored,"
            f" expected {_shown(range(1, len(flat) + 1))}"
        )

    def _when(self) -> str:
        state, recording = self._state, self._recording
        promised = (
            "no append was promised to survive"
            if not state.promised
            else f"{state.promised} of the appends of {recording.sizes} events were promised to survive"
        )
        return (
            f"{promised} when power was lost after operation {state.cut} of"
            f" {len(recording.journal.operations)}: {state.last}; of what was not synced,"
            f" {_KEPT_IN_WORDS.get(self._crash.kept, self._crash.kept)} was left"
        )


def _first(group: BaseException) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


def _shown(seqs: Sequence[int]) -> str:
    shown = ", ".join(map(str, seqs[:5]))
    return f"[{shown}{f', … {seqs[-1]}' if len(seqs) > 5 else ''}]"  # noqa: PLR2004 - the 5 above
