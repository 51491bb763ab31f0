"""The contract between a log and its store.

Whoever implements a store implements :class:`EventStore`; the clauses S1 to S15 are what it promises.
Floor 2: knows values and the codec, neither Trio nor any store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import attrs

from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery

__all__ = [
    "ChangeWatch",
    "EventPage",
    "EventStore",
    "PagedStore",
    "PrunableStore",
    "SyncableStore",
    "WatchableStore",
]


class ChangeWatch(Protocol):
    """Tells that a log may have changed; what ``watch_changes`` of a store yields."""

    async def wait(self) -> None:
        """Wait until the log may have changed since this returned last, or since the watch began.

        A hint: it may come for nothing, late, or never. A checkpoint; cancelled, it has missed nothing.

        Raises:
          StoreError: there is no hint now; ask again later.
        """
        ...


@runtime_checkable
class WatchableStore(Protocol):
    """A store that can tell that its log may have changed.

    :func:`tail <trio_eventlog.tail>` uses that to look sooner than its ``poll_interval`` would have it.
    """

    def watch_changes(self) -> AbstractAsyncContextManager[ChangeWatch]:
        """Watch, for the length of an ``async with`` block.

        Entering is a checkpoint. What it needs is freed on leaving.

        Raises:
          StoreError: the log cannot be watched now.
        """
        ...


@runtime_checkable
class SyncableStore(Protocol):
    """A store that can make what it has acknowledged survive a loss of power.

    For stores whose appends alone do not: those without ``survives = "power"``. A log with a spill file calls
    it before it gives up the copies that it has there.
    """

    async def sync(self) -> None:
        """Return once all that ``append_batch`` returned from before this call survives a loss of power.

        Also what an earlier process wrote, if an append of this instance was told that it is known. A
        checkpoint. May run beside an append. Cancelled, it raises at once or once the step that runs is done.

        Raises:
          StoreError: it could not be made sure of now; asking again may help. Also if the store went back and
            has not yet told so with an append.
          StoreUnusable: it never will.
        """
        ...


@attrs.frozen
class EventPage:
    """A part of what a query finds; what ``query_page`` of a store returns."""

    events: list[PersistedEvent]
    """The first events that match, ascending by seq."""

    is_complete: bool
    """Whether these are all that :meth:`EventStore.query` would have returned."""


@runtime_checkable
class PagedStore(Protocol):
    """A store that can stop reading once it has found enough bytes.

    Readers then hold few large events at a time. From a store that cannot, they ask for fewer events the
    larger those before were.
    """

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        """What :meth:`EventStore.query` returns, cut off once it weighs ``max_bytes``.

        All clauses of a query hold for what is returned. A checkpoint, and cancellable.

        Args:
          query: what to look for.
          max_bytes: bytes after which no further event is added, 1 or more, roughly as events weigh in JSON.
            The first event that matches is always there, whatever it weighs.

        Raises:
          TypeError, ValueError: ``max_bytes`` is not an integer of 1 or more.
          StoreError: the query failed and may succeed later.
          StoreUnusable: the query failed and will never succeed.
        """
        ...


@runtime_checkable
class PrunableStore(Protocol):
    """A store from which old events can be taken out, by itself or by others.

    Readers ask it whether events were there behind their cursor (:class:`EventsPruned
    <trio_eventlog.EventsPruned>`).
    """

    async def pruned_seq(self) -> int:
        """The highest seq of all events that were ever pruned from this log, 0 if none was.

        A store that cannot tell exactly returns more rather than less, and less than the lowest seq that it
        still holds if it prunes only from the front. A checkpoint, and cancellable.

        Raises:
          StoreError: the store could not be asked and may answer later.
          StoreUnusable: the store will not answer any more.
        """
        ...


@runtime_checkable
class EventStore(Protocol):
    """One log: one ordered sequence of events with one appender.

    A database can hold many logs; an instance of a store is one of them. Opening and closing are
    not part of the protocol: by custom a store has a function ``open`` that returns an async
    context manager. The clauses that concern every method:

    * **S8** What is given and what is returned is not shared with the store: changing one changes
      nothing stored.
    * **S11** Every method is a checkpoint, also for empty input. Entered cancelled, it raises
      ``Cancelled``; cancelled later, it raises it or, if the work was done, returns, within one
      second or the time that the store states. It never swallows it. No step blocks the event loop
      for more than 100 ms with batches and results up to 5,000 events. Appends (the log makes one at
      a time) and queries may run at the same time.
    * **S12** Errors are those of this library, never a driver's: :class:`StoreError` for what may
      pass, :class:`StoreUnusable` for what will not, :class:`EventRejected` for events that the
      store can never hold.
    * **S13** A durable store lets one appender open a log at a time and refuses the next with
      :class:`LogBusy`, in the same process or another. The lock is held by what writes, so that once
      an appender is open nothing of an earlier one can land; it dies with its process, in a network
      store within a time that it states. If a write never ends, closing gives up after a bound and
      the lock stays taken. Readers are free.
    * **S14** Ids and seqs belong to one log: two logs of one database never see each other.
    * **S15** Leaving the store, also under cancellation or after an error, frees lock, threads, files
      and connections; it can be opened again at once.

    A store may have an attribute ``max_batch: int | None``, the most events of one atomic append. The
    log never offers more at once. None, the default, means at least 1,000 and what fits its memory.

    Two more attributes are for those who check a store. ``has_lock: bool``, True by default: False for a
    durable store without the lock of S13, where the deployment alone guarantees that there is one
    appender. ``lock_timeout: float``, 0 by default: the seconds of S13 within which the lock of a process
    that was killed is gone.

    ``log_id: str | None``, None by default, tells this log from every other, and is the same each time it is
    opened. A spill file with events of one log is refused by another.

    ``survives: str`` says what an acknowledged append survives: ``"process"``, the kill of the process, or
    ``"power"``, a loss of power. An append of ids that are known survives no less than one of new ids. A
    store that does not say is taken for ``"process"``. One of that kind should have ``sync``: see
    :class:`SyncableStore`. One that is put around another hands on both.

    A store whose appender finds less in its log than it acknowledged, or than it found on opening, raises
    :class:`StoreWentBack` once, from ``append_batch``, and then goes on from what there is: nothing of that
    batch is stored, ``last_seq`` is what the error says, and events that the log offers again, with the ids
    and seqs that they had, are stored. Nobody but the store can notice that. It owes a look wherever its log
    can be exchanged under it: when it connects anew, or with each append. One that does not look loses events
    in silence; its docstring says so.

    ``read_only: bool``, False by default: True for one that can only be read, which a log refuses on opening.

    A store that can read by bytes has ``query_page``: see :class:`PagedStore`. One that can tell when its log
    has changed has ``watch_changes``: see :class:`WatchableStore`. One
    from which events are taken out has ``pruned_seq``: see :class:`PrunableStore`.

    Opening a log for reading that is not there raises :class:`LogNotFound`; opening it for appending creates
    it.

    Every store holds strings of 512 bytes in UTF-8, events of 64 KiB of JSON, and 32 levels of
    nesting; what goes beyond that it may reject.
    """

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, all of it or nothing.

        * **S1** Appending an event again changes nothing: an event is known by its ``id``, and the
          first write wins, whatever else the repeat carries. Also for a duplicate inside one batch
          (in the order given), for an old batch followed by newer events, for a suffix of it; however
          much later, after a reopen, for every event still held. The returned seqs say which repeats
          carried another seq.
        * **S2** seqs are 1 to 2**63 - 1, gaps are legal, and batches in any order of seq are stored.
          (The log appends ascending; gapless cursors and a fast ``after_seq`` are owed only for that.)
        * **S3** After S1 has set the known ids aside: an event on a seq that is taken raises
          :class:`SequenceConflict`, and nothing of the batch is stored.
        * **S4** A batch is all or nothing, also when the append fails or is cancelled, and no reader
          ever sees part of one. After an error or a cancellation the store works on. The caller then
          does not know the outcome (the append may even finish later), S1 makes the retry safe, and
          every later ``append_batch``, ``last_seq`` and close comes after it in the backend's order.
        * **S10** What this has returned from is read by the next :meth:`query` of this instance and,
          in a durable store, survives a reopen and a kill of the process.

        Args:
          events: the batch, 0 to ``max_batch`` events. An empty batch is a no-op, and a checkpoint.

        Returns:
          The seqs of those events of the batch that are *not* held because their id is held under
          another seq. As a rule empty.

        Raises:
          StoreError: the append failed and may succeed later.
          EventRejected: the store can never hold the events it names; nothing was stored.
          SequenceConflict: see S3.
          StoreWentBack: the store has less than it had acknowledged; nothing was stored.
          StoreUnusable: the append failed and will never succeed.
        """
        ...

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """All events that match, ascending by seq.

        * **S5** ``after_seq`` is exclusive, ``since_ms`` inclusive, ``until_ms`` exclusive,
          ``event_types`` any-of, all filters joined by AND, then order, then ``limit`` (the lowest
          seqs; 0 gives none). No hidden page size.
        * **S6** Strings compare exactly: case, white space, accents, NUL, ``%``, ``_`` are ordinary.
        * **S7** What is read equals what was written in value and type (1, 1.0 and true differ; the
          order of keys is free): text of every script, NUL, empty strings, nested payloads, 64-bit
          integers, floats, seq to 2**63 - 1. A query bound to 2**64 - 1 is no error.
        * **S10** A read-only instance sees a prefix of the appends and never goes back.

        Raises:
          StoreError: the query failed and may succeed later.
          StoreUnusable: the query failed and will never succeed.
        """
        ...

    async def last_seq(self) -> int:
        """The highest seq ever stored, 0 before the first.

        * **S9** Pruning does not lower it. Only a store that went back to an older state has a lower one.

        Raises:
          StoreError: the store could not be asked and may answer later.
          StoreUnusable: the store will not answer any more.
        """
        ...
