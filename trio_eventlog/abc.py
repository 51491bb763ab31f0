"""The contract between a log and its store, and what a store can do beyond it.

Implement :class:`EventStore` to add a store. Each of the other protocols is an *ability*: something that a
store can do beyond the contract, or says about itself. All of them are optional. A store has an ability if it
has the method or attribute; it need not inherit from anything. Callers check for it with ``isinstance``. That
does not see what ``__getattr__`` provides, so a store that wraps another one defines each ability that it
passes on.

What a store says about itself is checked when a log is opened (``_declared``), and what it answers each time
(``_answers``): a wrong value is an error that names the attribute or method. The stores that come with the
library are used through the same methods. What they do faster than others is to recognise events that a log
has checked and encoded, and not to do either again.

Floor 2: knows the values, and neither Trio nor any store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import attrs

from trio_eventlog._abilities._claims import (
    BoundedStore,
    DamageAwareStore,
    DurableStore,
    FileStore,
    IdentifiedStore,
    LeasedStore,
    LockingStore,
    ReadOnlyCapableStore,
)
from trio_eventlog._abilities._summaries import (
    FACETS,
    CountingStore,
    Facets,
    FacetStore,
    HistogramBucket,
    HistogramStore,
    LatestStore,
)
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import Finding, StoreDescription, StoreVerification
from trio_eventlog._model._tombstones import ERASED, is_tombstone
from trio_eventlog._util import adopt_public_names as _adopt_public_names

__all__ = [
    "ERASED",
    "FACETS",
    "BoundedStore",
    "ChangeWatch",
    "CountingStore",
    "DamageAwareStore",
    "DescribableStore",
    "DurableStore",
    "ErasableStore",
    "EventPage",
    "EventStore",
    "FacetStore",
    "Facets",
    "FileStore",
    "Finding",
    "HistogramBucket",
    "HistogramStore",
    "IdentifiedStore",
    "LatestStore",
    "LeasedStore",
    "LockingStore",
    "MultiLogStore",
    "PagedStore",
    "PrunableStore",
    "PrunedStore",
    "ReadOnlyCapableStore",
    "StoreDescription",
    "StoreVerification",
    "SyncableStore",
    "VerifiableStore",
    "WatchableStore",
    "is_tombstone",
]


def __dir__() -> list[str]:
    # What is imported for the module's own use is not offered by completion.
    return __all__


# --- the contract ---------------------------------------------------------------------------------


@runtime_checkable
class EventStore(Protocol):
    """One log: an ordered sequence of events with one appender.

    A database can hold many logs; an instance of a store is one of them. Opening and closing are not part of
    the protocol: by convention a store has a static method ``open`` that returns an async context manager.
    Opening a log for reading raises :class:`LogNotFound` if it does not exist; opening it for appending
    creates it.

    Every store holds strings of 512 bytes in UTF-8, events of 64 KiB of JSON, and 32 levels of nesting. It
    may reject what goes beyond that.

    These clauses concern every method:

    * **S8** What is given and what is returned is not shared with the store: changing one changes nothing
      stored.
    * **S11** Every method is a checkpoint, also for empty input. Entered cancelled, it raises ``Cancelled``;
      cancelled later, it raises it or, if the work was done, returns, within one second or the time that the
      store states. It never swallows it. No step blocks the event loop for more than 100 ms with batches and
      results up to 5,000 events. Appends (the log makes one at a time) and queries may run at the same time.
    * **S12** Errors are those of this library, never a driver's: :class:`StoreError` for what may pass,
      :class:`StoreUnusable` for what will not, :class:`EventRejected` for events that the store can never
      hold.
    * **S13** A durable store lets one appender open a log at a time and refuses the next with
      :class:`LogBusy`, in the same process or another. The lock is held by what writes, so that once an
      appender is open nothing of an earlier one can land; it dies with its process, in a network store within
      a time that the store states (:class:`LeasedStore`). If a write never ends, closing gives up after a
      bound and the lock stays taken. Readers are free.
    * **S14** Ids and seqs belong to one log: two logs of one database never see each other.
    * **S15** Leaving the store, also under cancellation or after an error, frees its lock, threads, files and
      connections; it can be opened again at once.
    * **S16** In a store that says so (:class:`DamageAwareStore`), damage to files that nobody had open is
      told: bits that changed, a file that was cut off, parts that were zeroed or swapped. Every answer is
      then what was written, or an error of S12. A query may miss events that cannot be found any more only
      if ``verify`` reports a problem (:class:`VerifiableStore`). Never does the process crash or hang.
    * **S17** In a store that can erase (:class:`ErasableStore`), what was erased is in no answer any more,
      and in no file at its location once the store was left. The events stay, with all but their payloads;
      so does everything else. A repeat of an erased event is one, and brings nothing back.

    **A store that went back.** A log can be replaced by an older state of itself: restored from a backup, or
    taken over by a replica that lagged. Only the store can notice. Its appender compares what the log holds
    with what it acknowledged, or found on opening, wherever the log can be exchanged under it: when it
    connects anew, or with each append. If there is less, ``append_batch`` raises :class:`StoreWentBack` once
    and stores nothing of that batch; ``last_seq`` then is what the error says, and events that the log offers
    again, with the ids and seqs that they had, are stored. A store that does not check loses events in
    silence; its docstring must say so. A log that is restored while no appender has it open begins an epoch
    (:func:`trio_eventlog.stores.begin_epoch`), with an event far above all others. Nothing is asked of a
    store for that beyond S2.
    """

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, all of it or nothing.

        * **S1** Appending an event again changes nothing: an event is known by its ``id``, and the first
          write wins, whatever else the repeat carries. This also holds for a duplicate inside one batch (in
          the order given), for an old batch followed by newer events, and for a suffix of it; however much
          later, after a reopen, for every event still held. The returned seqs say which repeats carried
          another seq.
        * **S2** Seqs are 1 to 2**63 - 1, gaps are legal, and batches in any order of seq are stored. (The log
          appends in ascending order; gapless cursors and a fast ``after_seq`` are owed only for that.)
        * **S3** After S1 has set the known ids aside: an event on a seq that is taken raises
          :class:`SequenceConflict`, and nothing of the batch is stored.
        * **S4** A batch is all or nothing, also when the append fails or is cancelled, and no reader ever
          sees part of one. After an error or a cancellation the store works on. The caller then does not know
          the outcome (the append may even finish later), S1 makes the retry safe, and every later
          ``append_batch``, ``last_seq`` and close comes after it in the backend's order.
        * **S10** The next :meth:`query` of this instance finds what this has returned from, and in a durable
          store it survives a reopen and a kill of the process.

        Args:
          events: the batch, empty or of any size up to ``max_batch`` (:class:`BoundedStore`). An empty batch
            is a no-op, and a checkpoint.

        Returns:
          The seqs of those events of the batch that are *not* held because their id is held under another
          seq. Usually empty.

        Raises:
          StoreError: the append failed and may succeed later.
          EventRejected: the store can never hold the events that the error names; nothing was stored.
          SequenceConflict: see S3.
          StoreWentBack: the store has less than it had acknowledged; nothing was stored.
          StoreUnusable: the append failed and will never succeed.
        """
        ...

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """All events that match, in ascending order of seq.

        * **S5** ``after_seq`` is exclusive, ``since_ms`` inclusive, ``until_ms`` exclusive, ``event_types``
          any-of, ``fields`` all-of and at the top level of the payload, all filters joined by AND, then
          order, then ``limit`` (the lowest seqs; 0 gives none). There is no hidden page size.
        * **S6** Strings compare exactly: case, white space, accents, NUL, ``%``, ``_`` are ordinary. Values
          of ``fields`` compare exactly, in type and value, as S7 has it.
        * **S7** What is read equals what was written in value and type (1, 1.0 and true differ; the order of
          keys is free): text of every script, NUL, empty strings, nested payloads, 64-bit integers, floats,
          seq to 2**63 - 1. A query bound up to 2**64 - 1 is not an error.
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


# --- what readers can ask for ---------------------------------------------------------------------


@attrs.frozen
class EventPage:
    """Part of the result of a query; what :meth:`PagedStore.query_page` returns."""

    events: list[PersistedEvent]
    """The first events that match, in ascending order of seq."""

    is_complete: bool
    """Whether these are all that :meth:`EventStore.query` would have returned."""


@runtime_checkable
class PagedStore(Protocol):
    """A store that can stop reading once it has found a number of bytes.

    Readers then keep few large events in memory. From other stores they request fewer events the larger the
    previous ones were.
    """

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        """The result of :meth:`EventStore.query`, cut off once it has ``max_bytes``.

        All clauses of a query hold for what is returned. A checkpoint; can be cancelled.

        Args:
          query: which events.
          max_bytes: the number of bytes, 1 or more, after which no further event is added; measured roughly
            as JSON. The first event that matches is always included, whatever its size.

        Raises:
          TypeError, ValueError: ``max_bytes`` is not an integer of 1 or more.
          StoreError: the query failed and may succeed later.
          StoreUnusable: the query failed and will never succeed.
        """
        ...


class ChangeWatch(Protocol):
    """Tells that a log may have changed; what :meth:`WatchableStore.watch_changes` yields."""

    async def wait(self) -> None:
        """Wait until the log may have changed since this last returned, or since the watch began.

        A hint: it may come for no reason, late, or never. A checkpoint. If it is cancelled, no hint is lost.

        Raises:
          StoreError: no hint can be given now; try again later.
        """
        ...


@runtime_checkable
class WatchableStore(Protocol):
    """A store that can tell that its log may have changed.

    :func:`tail <trio_eventlog.reading.tail>` then need not wait for its ``poll_interval`` to pass.
    """

    def watch_changes(self) -> AbstractAsyncContextManager[ChangeWatch]:
        """Watch the log for the length of an ``async with`` block.

        Entering is a checkpoint. Leaving frees what the watch needs.

        Raises:
          StoreError: the log cannot be watched now.
          StoreUnusable: the log can never be watched.
        """
        ...


# --- keeping a log in order -----------------------------------------------------------------------


@runtime_checkable
class SyncableStore(Protocol):
    """A store that can make what it has acknowledged survive a loss of power.

    For stores whose appends alone do not (:class:`DurableStore`). A log with a spill file calls it before it
    gives up the copies that it keeps there.
    """

    async def sync(self) -> None:
        """Return once everything that was appended before this call survives a loss of power.

        That is everything ``append_batch`` has returned from, and what an earlier process wrote if an append
        of this instance offered it again. May run at the same time as an append. A checkpoint; cancelled, it
        raises at once, or once the step that is running has ended.

        Raises:
          StoreError: it is not certain now, and another call may succeed. Also if the store went back to an
            older state, until an append has said so.
          StoreUnusable: it never will be.
        """
        ...


@runtime_checkable
class PrunedStore(Protocol):
    """A store from which old events may disappear, and which says so.

    Readers ask it whether there were events behind their cursor
    (:class:`EventsPruned <trio_eventlog.EventsPruned>`).
    """

    async def pruned_seq(self) -> int:
        """The highest seq among all events that were ever pruned from this log, 0 if none was.

        A seq that is missing at or below it may have been pruned; one that is missing above it was not. A
        store that cannot tell exactly returns too much rather than too little. If it prunes only from the
        front, it returns less than the lowest seq that it still holds. A checkpoint; can be cancelled.

        Raises:
          StoreError: the store could not be asked and may answer later.
          StoreUnusable: the store will not answer any more.
        """
        ...


@runtime_checkable
class PrunableStore(Protocol):
    """A store that can delete old events."""

    async def prune(
        self,
        *,
        before_ms: int | None = None,
        keep: int | None = None,
        through_seq: int | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Delete old events permanently.

        ``last_seq`` stays what it was (clause S9), and ``pruned_seq`` follows (:class:`PrunedStore`). A
        program may append meanwhile; its new events stay. A store that was opened read-only, which means that
        it does not append, can be pruned as well.

        Events are deleted in several steps. A checkpoint; cancelled, it stops between two of them, or lets
        the running one end. What is deleted then stays deleted, and another call goes on.

        Args:
          before_ms: delete events from before this time, in milliseconds since 1970-01-01 UTC.
          keep: delete all events except this many with the highest seqs; 0 or more.
          through_seq: delete events with at most this seq; together with ``before_ms``, those that are both.
          dry_run: only count the events.
          on_progress: called with the number of events deleted so far and the number to be deleted, after
            each step; also after one that ended when the call was already cancelled.

        Returns:
          The number of events that were deleted, or would be.

        Raises:
          TypeError: it is not an integer.
          ValueError: nothing says which events, or ``keep`` is not given alone; or it is not 0 to 2**63 - 1.
          StoreError: the store failed; another call may succeed.
          StoreUnusable: the store will never do it.
        """
        ...


@runtime_checkable
class ErasableStore(Protocol):
    """A store that can erase what events say, and keep that they happened."""

    async def erase(
        self,
        query: EventQuery,
        *,
        reason: str,
        commitment: Callable[[PersistedEvent], str] | None = None,
    ) -> int:
        """Erase the payloads of the events that match, for good.

        An erased event keeps its seq, id, time, agent or module, type and member. So order, count and cursors
        stay valid, and an append of it is still a repeat. Its payload becomes a tombstone, an object with
        the one key ``"@erased"`` (:data:`ERASED`): the ``reason``, the time ``at_ms`` in milliseconds since
        1970-01-01 UTC, and the ``commitment``. It is in no scope any more. An event that has such a payload
        already is left alone, and so is one that begins an epoch: without its payload, cursors that are valid
        would be stale.

        When this returns, nothing of what was erased is left where the store keeps its log; its documentation
        says what else is to be done. A call that failed, or was cancelled, may have erased some; another one
        completes it, even if no event is left that matches. Copies elsewhere stay: in backups, archives and
        spill files, and in the memory of programs.

        A program may append meanwhile. A checkpoint; cancelled, it stops between two steps, or lets the
        running one end.

        Args:
          query: which events.
          reason: why; stands in each tombstone, so it should not say what is to be erased.
          commitment: makes the commitment to the payload of an event that is to be erased: a string by which
            it can be told later that a payload was this one, and which says nothing about it to whoever lacks
            a key. That of :func:`trio_eventlog.audit.commitment_with` is the one that checkpoints are made
            with, so that they hold for what is left. None: there is none, and checkpoints that cover the
            events do not hold any more. Called in another thread, perhaps.

        Returns:
          The number of events that were erased.

        Raises:
          TypeError: an argument, or what ``commitment`` returns, is of the wrong type.
          ValueError: the reason is empty, or not text.
          StoreError: the store failed; another call may succeed.
          StoreUnusable: the store will never do it.
        """
        ...


@runtime_checkable
class VerifiableStore(Protocol):
    """A store that can check the integrity of its log."""

    async def verify(
        self, *, most_findings: int = 100, on_progress: Callable[[int], object] | None = None
    ) -> StoreVerification:
        """Check that the log holds what was stored, and nothing else.

        At least: every event can be read, what the backend indexes agrees with it, seqs ascend, ids and seqs
        are unique, and the log's highest seq is not below that of an event. A program may append meanwhile.

        Reads the whole log. A checkpoint; cancelled, it stops.

        Args:
          most_findings: how many problems to name at most, 0 or more. All are counted.
          on_progress: called with a seq every now and then; all events up to it have been checked.

        Raises:
          StoreError: the store failed; another call may succeed.
          StoreUnusable: the store is closed, or so damaged that nothing can be said about the log.
        """
        ...


@runtime_checkable
class DescribableStore(Protocol):
    """A store that can count what its log holds."""

    async def describe(self, *, top: int = 10) -> StoreDescription:
        """Describe the log in numbers, all as of one moment.

        Takes time in proportion to the log. A checkpoint; cancelled, it stops.

        Args:
          top: how many event types and members to name, the most frequent first; 0 or more.

        Raises:
          TypeError: ``top`` is not an integer.
          ValueError: ``top`` is negative.
          StoreError: the store failed; another call may succeed.
          StoreUnusable: the store is closed or damaged.
        """
        ...


@runtime_checkable
class MultiLogStore(Protocol):
    """A store that knows which logs share its file, database or stream."""

    async def log_names(self) -> list[str]:
        """The names of all logs that are there, this one included, in ascending order of code points.

        A checkpoint; can be cancelled.

        Raises:
          StoreError: the store failed; another call may succeed.
          StoreUnusable: the store is closed or damaged.
        """
        ...


_adopt_public_names(globals())
