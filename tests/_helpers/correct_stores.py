"""Two stores that keep every clause of the contract, for tests of what checks stores.

Small, slow, and without any code of ``trio_eventlog.stores``, so that a defect there is none here. Cut
into methods that a subclass can break in a line or a few: see ``broken_stores``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
import trio

from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventQuery,
    EventRejected,
    LogBusy,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    to_json,
)

T = TypeVar("T")
S = TypeVar("S", bound="CorrectMemoryStore")

TOP = 2**63 - 1


async def in_steps(function: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """``function`` of every item, without blocking the loop for longer than a few items take."""
    results: list[T] = []
    end = time.perf_counter() + 0.01
    for item in items:
        if time.perf_counter() > end:
            await trio.lowlevel.checkpoint()
            end = time.perf_counter() + 0.01
        results.append(function(item))
    return results


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """``function`` in a thread. Not to be abandoned: when this returns, nothing is under way any more."""
    try:
        return await trio.to_thread.run_sync(function, *args)
    except OSError as exc:
        raise StoreError(str(exc)) from exc


@attrs.frozen(eq=False)
class Held:
    """An event as it is kept: its text, and a copy for filters that nobody is ever given."""

    event: PersistedEvent
    text: bytes


def event_of(text: bytes) -> PersistedEvent:
    """What `from_json` makes of it, in a tenth of the time: text that was checked when it came in."""
    fields = json.loads(text)
    inner = fields["event"]
    kind, actor = (AgentEvent, "agent_id") if inner["kind"] == "agent" else (ModuleEvent, "module")
    event = kind(inner[actor], inner["event_type"], inner.get("payload"))
    return PersistedEvent(fields["id"], fields["seq"], fields["timestamp_ms"], fields.get("member_id"), event)


class CorrectMemoryStore:
    """A log in memory, gone when it is closed."""

    max_batch: int | None = None

    def __init__(self, location: Path) -> None:
        self.location = location
        # Two indices, as databases have them.
        self.by_id: dict[str, Held] = {}
        self.by_seq: dict[int, Held] = {}
        self.highest = 0
        self.closed = False
        # One append at a time, and closing after it.
        self.lock = trio.Lock()

    # --- opening and closing ---

    async def _open(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _leave(self) -> None:
        with trio.CancelScope(shield=True):
            async with self.lock:
                self.closed = True
                self._free()

    def _free(self) -> None:
        """Give back what the store holds of the system; may be called in any state."""

    def _check_usable(self) -> None:
        if self.closed:
            raise StoreUnusable("closed")

    # --- the protocol ---

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        events = tuple(events)
        await trio.lowlevel.checkpoint()
        batch = await self._hold_all(events)
        async with self.lock:
            self._check_usable()
            new, elsewhere = self._sort_out(batch)
            self._refuse_taken(new)
            if new:
                await self._commit(new)
        return elsewhere

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        await trio.lowlevel.checkpoint()
        self._check_usable()
        await self._refresh()
        return await in_steps(self._give, await self._select(query))

    async def last_seq(self) -> int:
        await trio.lowlevel.checkpoint()
        self._check_usable()
        await self._refresh()
        return self.highest

    # --- what goes in ---

    async def _hold_all(self, events: Sequence[PersistedEvent]) -> list[Held]:
        batch: list[Held] = []
        bad: list[PersistedEvent] = []
        reasons: list[str] = []

        def hold(event: PersistedEvent) -> None:
            try:
                batch.append(self._hold(event))
            except CodecError as exc:
                bad.append(event)
                reasons.append(str(exc))

        await in_steps(hold, events)
        if bad:
            self._reject(bad, events, reasons[0])
        return batch

    def _hold(self, event: PersistedEvent) -> Held:
        """Raises CodecError if that is impossible."""
        text = to_json(event)
        if not 1 <= event.seq <= TOP or event.timestamp_ms > TOP:
            raise CodecError("event", "number out of range")
        return Held(event_of(text), text)

    def _reject(self, bad: Sequence[PersistedEvent], batch: Sequence[PersistedEvent], why: str) -> NoReturn:
        raise EventRejected(bad, why)

    def _identity(self, event: PersistedEvent) -> str:
        return event.id

    def _known(self, event: PersistedEvent) -> Held | None:
        """What is held already under the id of ``event``."""
        return self.by_id.get(self._identity(event))

    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        """What is new in a batch, and the seqs of the repeats that are held elsewhere."""
        new: dict[str, Held] = {}
        elsewhere: list[int] = []
        for held in batch:
            identity = self._identity(held.event)
            known = new.get(identity) or self._known(held.event)
            if known is None:
                new[identity] = held
            elif known.event.seq != held.event.seq:
                elsewhere.append(held.event.seq)
        return list(new.values()), elsewhere

    def _taken(self, new: Sequence[Held]) -> set[int]:
        """The seqs on which there would be two events."""
        seqs = [held.event.seq for held in new]
        seen: set[int] = set()
        twice = {seq for seq in seqs if seq in seen or seen.add(seq)}  # type: ignore[func-returns-value]
        return twice | (self.by_seq.keys() & set(seqs))

    def _refuse_taken(self, new: Sequence[Held]) -> None:
        if taken := self._taken(new):
            raise SequenceConflict(sorted(taken))

    async def _commit(self, new: Sequence[Held]) -> None:
        """Make one batch durable and then visible."""
        self._store(new)

    def _store(self, new: Sequence[Held]) -> None:
        """Make one batch visible, in one step."""
        for held in new:
            self.by_id[self._identity(held.event)] = held
            self.by_seq[held.event.seq] = held
        self.highest = max([self.highest, *(held.event.seq for held in new)])

    # --- what goes out ---

    async def _refresh(self) -> None:
        """Take in what others have written."""

    def _candidates(self, query: EventQuery) -> list[Held]:
        """What the filters are applied to: a snapshot."""
        return list(self.by_seq.values())

    async def _select(self, query: EventQuery) -> list[Held]:
        types = frozenset(map(self._key, self._types(query)))
        candidates = self._candidates(query)
        fits = await in_steps(lambda held: self._matches(held.event, query, types), candidates)
        found = [held for held, fit in zip(candidates, fits, strict=True) if fit]
        return self._limited(self._ordered(found), query.limit)

    def _ordered(self, found: list[Held]) -> list[Held]:
        return sorted(found, key=lambda held: held.event.seq)

    def _limited(self, found: list[Held], limit: int | None) -> list[Held]:
        return found[:limit]

    def _give(self, held: Held) -> PersistedEvent:
        """What a reader is given."""
        return event_of(held.text)

    # --- filters ---

    def _types(self, query: EventQuery) -> tuple[str, ...]:
        return query.event_types

    def _matches(self, event: PersistedEvent, query: EventQuery, types: frozenset[str]) -> bool:
        return (
            self._after(event, query)
            and self._since(event, query)
            and self._until(event, query)
            and self._of_member(event, query)
            and self._of_type(event, types)
            and self._in_scopes(event, query)
            and self._of_module(event, query)
            and self._with_fields(event, query)
        )

    def _after(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.after_seq is None or event.seq > query.after_seq

    def _since(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.since_ms is None or event.timestamp_ms >= query.since_ms

    def _until(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.until_ms is None or event.timestamp_ms < query.until_ms

    def _of_member(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.member_id is None or self._same(query.member_id, event.member_id)

    def _of_type(self, event: PersistedEvent, types: frozenset[str]) -> bool:
        return not types or self._key(event.event.event_type) in types

    def _in_scopes(self, event: PersistedEvent, query: EventQuery) -> bool:
        payload = event.event.payload
        return all(
            isinstance(payload, dict) and self._same(wanted, payload.get(scope))
            for scope in ("identity", "mob_id", "run_id", "step_id")
            if (wanted := getattr(query, scope)) is not None
        )

    def _of_module(self, event: PersistedEvent, query: EventQuery) -> bool:
        if query.module is None:
            return True
        return isinstance(event.event, ModuleEvent) and self._same(query.module, event.event.module)

    def _with_fields(self, event: PersistedEvent, query: EventQuery) -> bool:
        payload = event.event.payload
        return all(
            isinstance(payload, dict) and key in payload and self._same_value(wanted, payload[key])
            for key, wanted in query.fields.items()
        )

    def _same_value(self, wanted: Any, found: Any) -> bool:
        if isinstance(wanted, str):
            return self._same(wanted, found)
        return json.dumps(wanted, sort_keys=True) == json.dumps(found, sort_keys=True)

    def _same(self, wanted: str, found: object) -> bool:
        return isinstance(found, str) and self._key(found) == self._key(wanted)

    def _key(self, text: str) -> str:
        """Strings are the same if their keys are equal."""
        return text


class CorrectFileStore(CorrectMemoryStore):
    """A log in a file: a line for every batch, tabs between the events, which JSON has only escaped.

    Read into memory when it is opened. A line without its end is a batch that was never stored.
    """

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.path = location / "log"
        self.fd: int | None = None
        self.lock_fd: int | None = None
        self.size = 0  # bytes of whole lines, read or written

    async def _open(self) -> None:
        await in_thread(self._acquire_lock)
        self.fd = await in_thread(os.open, self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        await self._read_on()
        await in_thread(os.ftruncate, self.fd, self.size)

    def _acquire_lock(self) -> None:
        # Of the open file and not of the process, so that it keeps out this process, too.
        self.lock_fd = os.open(self.location / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogBusy("somebody else appends to this log") from None

    def _release_lock(self) -> None:
        if self.lock_fd is not None:
            os.close(self.lock_fd)

    def _free(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
        self._release_lock()

    async def _commit(self, new: Sequence[Held]) -> None:
        await in_thread(self._write, b"\t".join(held.text for held in new) + b"\n")
        # Without a checkpoint since the line was written: file and memory agree whatever is cancelled.
        await super()._commit(new)

    def _write(self, line: bytes) -> None:
        assert self.fd is not None
        try:
            if os.write(self.fd, line) != len(line):
                raise OSError("disk full")  # noqa: TRY301 - to be cleared up like any other
            os.fsync(self.fd)
        except OSError:
            os.ftruncate(self.fd, self.size)
            raise
        self.size += len(line)

    async def _read_on(self) -> None:
        """Take in the whole lines beyond those that are known."""
        for line in await in_thread(self._new_lines):
            self._store(await in_steps(self._hold_text, line.split(b"\t")))
            self.size += len(line) + 1

    def _new_lines(self) -> list[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.size)
            return file.read().split(b"\n")[:-1]

    def _hold_text(self, text: bytes) -> Held:
        return Held(event_of(text), text)


class CorrectCheckedStore(CorrectFileStore):
    """The same, and what was damaged since it was left is refused."""

    detects_damage = True
    is_sound = False

    @property
    def end(self) -> Path:
        """Has the hash of the log while nobody has it open, unless its process was killed."""
        return self.location / "end"

    async def _open(self) -> None:
        await in_thread(self._acquire_lock)
        if await in_thread(self.end.exists):
            hashes = await in_thread(self._hash), await in_thread(self.end.read_bytes)
            self._compare(*hashes)
            await in_thread(self.end.unlink)
        self._release_lock()
        self.lock_fd = None
        await super()._open()
        self.is_sound = True

    def _compare(self, found: bytes, noted: bytes) -> None:
        if found != noted:
            raise StoreUnusable("damaged")

    def _hash(self) -> bytes:
        return hashlib.sha256(self.path.read_bytes()).hexdigest().encode()

    def _free(self) -> None:
        if self.is_sound:
            self.end.write_bytes(self._hash())
        super()._free()


class CorrectErasingStore(CorrectMemoryStore):
    """The same in memory, and it can erase."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.before: dict[int, PersistedEvent] = {}
        """What the events were that are erased, for stores that get it wrong."""

    async def erase(
        self, query: EventQuery, *, reason: str, commitment: Callable[[PersistedEvent], str] | None = None
    ) -> int:
        await trio.lowlevel.checkpoint()
        async with self.lock:
            self._check_usable()
            found = [held for held in await self._select(query) if not self._is_erased(held.event)]
            chosen = self._chosen(found)
            for held in chosen:
                self.before[held.event.seq] = held.event
                self._put(held, self._hold(self._tombstone(held.event, reason)))
            await self._keep()
            return self._count(len(chosen))

    def _is_erased(self, event: PersistedEvent) -> bool:
        return isinstance(event.event.payload, dict) and event.event.payload.keys() == {"@erased"}

    def _chosen(self, found: list[Held]) -> list[Held]:
        return found

    def _tombstone(self, event: PersistedEvent, reason: str) -> PersistedEvent:
        payload = {"@erased": {"reason": reason, "at_ms": 1, "commitment": None}}
        return attrs.evolve(event, event=attrs.evolve(event.event, payload=payload))

    def _put(self, held: Held, changed: Held) -> None:
        self.by_seq[held.event.seq] = self.by_id[held.event.id] = changed

    async def _keep(self) -> None:
        """Make it last."""

    def _count(self, erased: int) -> int:
        return erased


class CorrectErasingFileStore(CorrectErasingStore, CorrectCheckedStore):
    """The same in a file."""

    async def _keep(self) -> None:
        await in_thread(self._rewrite)

    def _rewrite(self) -> None:
        text = b"".join(held.text + b"\n" for held in self.by_seq.values())
        new = self.location / "log.new"
        new.write_bytes(text)
        assert self.fd is not None
        os.close(self.fd)
        new.rename(self.path)
        self.fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self.size = len(text)


class CorrectFileReader(CorrectFileStore):
    """The log of a :class:`CorrectFileStore`, read-only; needs no lock, and no log to be there yet."""

    async def _open(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _refresh(self) -> None:
        async with self.lock:
            if await in_thread(self.path.exists):
                await self._read_on()

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        await trio.lowlevel.checkpoint()
        raise StoreUnusable("opened read-only")


@asynccontextmanager
async def opened_memory(cls: type[S], location: Path) -> AsyncIterator[S]:
    """Open a store of a class derived from :class:`CorrectMemoryStore`."""
    store = cls(location)
    try:
        await store._open()
        yield store
    finally:
        await store._leave()  # noqa: ASYNC102 - shields itself; what is under way must end first


# Opened in the same way. The names say what to expect of the class.
opened_file = opened_memory
opened_file_reader = opened_memory


def open_memory(location: Path) -> AbstractAsyncContextManager[CorrectMemoryStore]:
    return opened_memory(CorrectMemoryStore, location)


def open_file(location: Path) -> AbstractAsyncContextManager[CorrectFileStore]:
    return opened_file(CorrectFileStore, location)


def open_checked(location: Path) -> AbstractAsyncContextManager[CorrectCheckedStore]:
    return opened_file(CorrectCheckedStore, location)


def open_erasing(location: Path) -> AbstractAsyncContextManager[CorrectErasingStore]:
    return opened_memory(CorrectErasingStore, location)


def open_erasing_file(location: Path) -> AbstractAsyncContextManager[CorrectErasingFileStore]:
    return opened_file(CorrectErasingFileStore, location)


def open_file_reader(location: Path) -> AbstractAsyncContextManager[CorrectFileReader]:
    return opened_file_reader(CorrectFileReader, location)
