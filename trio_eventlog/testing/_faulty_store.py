"""Stores that fail on command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar, runtime_checkable

import attrs
import trio

from trio_eventlog import EventQuery, EventRejected, EventStore, PersistedEvent, StoreError
from trio_eventlog.abc import BoundedStore, DurableStore, IdentifiedStore, PrunedStore, SyncableStore
from trio_eventlog.testing._faults import (
    Fails,
    Fault,
    GoesBack,
    Hangs,
    Rejects,
    Slow,
    Works,
    effect_of,
    require_fault,
)

T = TypeVar("T")

_WORKS: Final = Works()


@runtime_checkable
class _CanGoBack(Protocol):
    def go_back(self, last_seq: int) -> None: ...


async def _apply_fault(fault: Fault, work: Callable[[], Awaitable[T]]) -> T:
    """Do ``work`` as ``fault`` says; ``work`` itself rejects events or goes back."""
    await trio.lowlevel.checkpoint()
    while isinstance(fault, Slow):
        await trio.sleep(fault.seconds)
        fault = fault.then
    if isinstance(fault, Works | Rejects | GoesBack):
        return await work()
    if fault.after_commit:
        await work()
    if isinstance(fault, Hangs):
        await trio.sleep_forever()
    raise _error_of(fault)


def _error_of(fault: Fails) -> BaseException:
    if fault.error is None:
        return StoreError("the store failed, as a test wants it")
    # Raised again, it would carry the traceback of every time before.
    return fault.error.with_traceback(None)


@attrs.frozen
class AppendCall:
    """One call of :meth:`FaultyStore.append_batch`, as it began."""

    started_at: float
    """When, by ``trio.current_time()``."""

    seqs: tuple[int, ...]
    """The seqs of the batch, in the order given."""

    fault: Fault
    """What the store was to do with it."""


class FaultyStore:
    """Puts faults between a log and its store.

    ::

        store = FaultyStore(MemoryStore(), [Fails(), Slow(3.0)])  # the third append, and all later, works

    It keeps the contract of :class:`EventStore` if the inner store does, except where a fault says otherwise.
    Open the log on this store; at the end, :attr:`inner` has what was stored, and never fails. Every method
    is a checkpoint and can be cancelled; cancelled before it has called the inner store, it has done nothing.

    Args:
      inner: the store that does the work.
      script: what to do with the first appends, in this order, one fault per call. Any iterable, even an
        infinite one; faults are taken one at a time.
      otherwise: what to do with the appends after the script.
      query_script: the same for queries. After it, they work.
      last_seq_script: the same for calls of ``last_seq``, of which a log makes one, when it is opened.

    Raises:
      TypeError: ``inner`` is not a store, a script is not iterable, or something in it is not a fault; or it
        is :class:`GoesBack`, and ``inner`` has no method ``go_back``.
      ValueError: :class:`Rejects` or :class:`GoesBack` where nothing is appended.

    A collection, such as a list, is checked at once; what another iterable yields is checked in its turn.
    """

    def __init__(
        self,
        inner: EventStore,
        script: Iterable[Fault] = (),
        *,
        otherwise: Fault = _WORKS,
        query_script: Iterable[Fault] = (),
        last_seq_script: Iterable[Fault] = (),
    ) -> None:
        if isinstance(inner, type) or not isinstance(inner, EventStore):
            raise TypeError(f"inner: expected an object with append_batch, query and last_seq, got {inner!r}")
        self._inner = inner
        self._script = _read("script", script, inner)
        self._query_script = _read("query_script", query_script, None)
        self._last_seq_script = _read("last_seq_script", last_seq_script, None)
        self._appends: list[AppendCall] = []
        self.otherwise = otherwise

    def __repr__(self) -> str:
        return f"<FaultyStore around {self._inner!r}>"

    @property
    def inner(self) -> EventStore:
        """The store that does the work."""
        return self._inner

    @property
    def otherwise(self) -> Fault:
        """What to do with the appends after the script. Set it to switch the store off and on; a call that is
        under way goes on as it began.
        """
        return self._otherwise

    @otherwise.setter
    def otherwise(self, fault: Fault) -> None:
        require_fault("otherwise", fault)
        _require_ability("otherwise", fault, self._inner)
        self._otherwise = fault

    @property
    def appends(self) -> tuple[AppendCall, ...]:
        """All calls of :meth:`append_batch`, including those that failed or were cancelled."""
        return tuple(self._appends)

    @property
    def max_batch(self) -> int | None:
        """The largest batch of the inner store, None if it declares none."""
        return self._inner.max_batch if isinstance(self._inner, BoundedStore) else None

    @property
    def log_id(self) -> str | None:
        """What tells the log of the inner store from others, None if that does not say."""
        return self._inner.log_id if isinstance(self._inner, IdentifiedStore) else None

    @property
    def survives(self) -> str:
        """What an append of the inner store survives, ``"process"`` if that does not say."""
        return self._inner.survives if isinstance(self._inner, DurableStore) else "process"

    @property
    def sync(self) -> Callable[[], Awaitable[object]] | None:
        """``sync`` of the inner store, without a fault; None if it has none."""
        return self._inner.sync if isinstance(self._inner, SyncableStore) else None

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, or do what the script says; see :meth:`EventStore.append_batch`."""
        batch = tuple(events)
        fault = next(self._script, self._otherwise)
        self._appends.append(AppendCall(trio.current_time(), tuple(event.seq for event in batch), fault))
        return await _apply_fault(fault, partial(self._append, batch, effect_of(fault)))

    async def _append(self, batch: tuple[PersistedEvent, ...], fault: Fault) -> Collection[int]:
        if isinstance(fault, Rejects):
            matching = [event for event in batch if fault.matches(event)]
            if matching:
                await self._reject(matching, fault.reason)
        if isinstance(fault, GoesBack):
            assert isinstance(self._inner, _CanGoBack), "checked when the fault was given"
            seqs = [event.seq for event in await self._inner.query(EventQuery())]
            self._inner.go_back(([0] * fault.events + seqs)[len(seqs) - 1])
        return await self._inner.append_batch(batch)

    async def _reject(self, matching: list[PersistedEvent], reason: str) -> None:
        # An append that was cancelled may still be under way: the last seq, unlike a query, waits for it.
        await self._inner.last_seq()
        held = {event.id for event in await self._inner.query(EventQuery())}
        rejected = [event for event in matching if event.id not in held]
        if rejected:
            raise EventRejected(rejected, reason)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """Events that match, or what the script says; see :meth:`EventStore.query`."""
        fault = next(self._query_script, Works())
        return await _apply_fault(fault, partial(self._inner.query, query))

    async def last_seq(self) -> int:
        """The highest seq ever stored, or what the script says; see :meth:`EventStore.last_seq`."""
        fault = next(self._last_seq_script, Works())
        return await _apply_fault(fault, self._inner.last_seq)

    async def pruned_seq(self) -> int:
        """The highest seq that was pruned from the inner store; 0 if that does not say."""
        if isinstance(self._inner, PrunedStore):
            return await self._inner.pruned_seq()
        await trio.lowlevel.checkpoint()
        return 0


def _require_ability(name: str, fault: Fault, inner: EventStore) -> None:
    if isinstance(effect_of(fault), GoesBack) and not isinstance(inner, _CanGoBack):
        raise TypeError(
            f"{name}: GoesBack needs a store with a method go_back, such as MemoryStore, got {inner!r}"
        )


def _read(name: str, script: Iterable[Fault], appends_to: EventStore | None) -> Iterator[Fault]:
    """The faults of ``script``, checked: at once where that is possible, or else one by one."""
    if isinstance(script, str | bytes) or not isinstance(script, Iterable):
        raise TypeError(f"{name}: expected faults in a list or another iterable, got {type(script).__name__}")
    checked = _checked(name, script, appends_to)
    return iter(tuple(checked)) if isinstance(script, Collection) else checked


def _checked(name: str, script: Iterable[Fault], appends_to: EventStore | None) -> Iterator[Fault]:
    for index, fault in enumerate(script):
        require_fault(f"{name}[{index}]", fault)
        if appends_to is not None:
            _require_ability(f"{name}[{index}]", fault, appends_to)
        elif isinstance(effect_of(fault), Rejects):
            raise ValueError(f"{name}[{index}]: only an append can be rejected")
        elif isinstance(effect_of(fault), GoesBack):
            raise ValueError(f"{name}[{index}]: a store can only go back with an append")
        yield fault
