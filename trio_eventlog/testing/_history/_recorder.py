"""A history, and the store that writes down what is done to it."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, TypeVar

import attrs

from trio_eventlog import (
    EventQuery,
    EventRejected,
    EventStore,
    PersistedEvent,
    SequenceConflict,
    StoreWentBack,
)
from trio_eventlog.abc import (
    BoundedStore,
    DurableStore,
    IdentifiedStore,
    LeasedStore,
    LockingStore,
    PrunedStore,
    ReadOnlyCapableStore,
    SyncableStore,
)
from trio_eventlog.testing._history import _format
from trio_eventlog.testing._history._operations import (
    AppendOperation,
    LastSeqOperation,
    Operation,
    Outcome,
    QueryOperation,
    reduced,
)

T = TypeVar("T")

_NOTHING_STORED: Final = (SequenceConflict, EventRejected, StoreWentBack)
"""Errors by which the contract says that nothing of the batch was stored."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def _this_clock() -> str:
    """A name for the clock of this machine: its processes share one, from boot to boot."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"{platform.node()}, booted at {(time.time() - time.monotonic()) // 60:.0f} min"


class History:
    """What was done to one log: every call of its store, with its times and its result.

    ::

        history = History()
        async with SqliteStore.open("events.db") as store:
            store = recording(store, history, process="writer")
            ...  # as many tasks as you like
        check_history(history).raise_if_failed()

    Times are taken from the monotonic clock, which the processes of a machine share and which a change of the
    wall clock does not move. Payloads are not kept, but for the keys that queries look at. A history belongs
    to one thread.
    """

    def __init__(self) -> None:
        clock = _this_clock()
        self._clock = clock
        self._clocks = {clock: time.time() - time.monotonic()}
        self._operations: list[Operation] = []
        self._names: dict[int, tuple[object, str]] = {}
        self._unique = os.urandom(6).hex()
        self._journal: BinaryIO | None = None

    def __repr__(self) -> str:
        return f"<History of {len(self._operations)} operations>"

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations, those that run now included, in the order in which they began or were merged."""
        return tuple(self._operations)

    @property
    def clocks(self) -> Mapping[str, float]:
        """The clocks of the operations, each with the seconds from its time to the time since 1970."""
        return MappingProxyType(self._clocks)

    # --- files ------------------------------------------------------------------------------------

    @classmethod
    @contextmanager
    def to_file(cls, path: str | os.PathLike[str]) -> Iterator[History]:
        """A history that is written to a file as it happens, for the length of a ``with`` block.

        Each call is written down before it is made, and its result after it, so that a process can be killed:
        the call that it was in has an unknown outcome. Writing blocks, but does not wait for the disk.

        Args:
          path: where; a file that is there is written over.

        Raises:
          OSError: it cannot be written.
        """
        history = cls()
        with Path(path).open("wb", buffering=0) as file:
            file.write(_format.header(history._clock, history._clocks[history._clock]))
            history._journal = file
            try:
                yield history
            finally:
                history._journal = None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the history to a file; see :ref:`its format <history-format>`. Blocks.

        Args:
          path: where; a file that is there is written over.

        Raises:
          OSError: it cannot be written.
        """
        with Path(path).open("wb") as file:
            for clock, offset in self._clocks.items():
                file.write(_format.header(clock, offset))
                mine = [operation for operation in self._operations if operation.clock == clock]
                for number, operation in enumerate(mine):
                    file.write(_format.begin_line(number, operation))
                    if not math.isinf(operation.ended):
                        file.write(_format.end_line(number, operation))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> History:
        """Read a history from a file, or from several that were written one after the other. Blocks.

        Args:
          path: where. A last line that was cut off, as when a process is killed, is left out.

        Raises:
          HistoryFormatError: it is no history, or one of a newer format.
          OSError: it cannot be read.
        """
        history = cls()
        history._clocks, history._operations = _format.parse(Path(path).read_bytes(), os.fspath(path))
        return history

    def merge(self, other: History) -> None:
        """Add the operations of another history of the same log, such as that of another process.

        Args:
          other: the other one, which stays as it is.

        Raises:
          TypeError: it is not a history.
        """
        if not isinstance(other, History):
            raise TypeError(f"other: expected a History, got {type(other).__name__}")
        for clock, offset in other._clocks.items():
            self._clocks.setdefault(clock, offset)
        self._operations += other._operations

    # --- recording --------------------------------------------------------------------------------

    def _name_of(self, store: object) -> str:
        """The same for each wrapper of a store object. It is kept, lest another gets its address."""
        _, name = self._names.setdefault(id(store), (store, f"{self._unique}-{len(self._names) + 1}"))
        return name

    def _begin(self, operation: Operation) -> int:
        number = len(self._operations)
        self._operations.append(operation)
        if self._journal is not None:
            self._journal.write(_format.begin_line(number, operation))
        return number

    def _end(self, number: int, **changes: Any) -> None:
        ended = attrs.evolve(self._operations[number], ended=time.monotonic(), **changes)
        self._operations[number] = ended
        if self._journal is not None:
            self._journal.write(_format.end_line(number, ended))


def recording(
    store: EventStore, history: History, *, process: str, read_only: bool | None = None
) -> RecordingStore:
    """Wrap a store so that everything that is done to it is written down.

    Args:
      store: does the work. Wrap it again for each task that uses it, to tell them apart by ``process``.
      history: where it is written down.
      process: who uses the wrapper, for reports.
      read_only: whether the store was opened for reading only, and so may lag behind. None: what it says
        itself (:class:`ReadOnlyCapableStore`), and False if that is nothing.

    Returns:
      A store that does the same, and keeps the contract if ``store`` does.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: ``process`` has lone surrogates, which no file can hold.
    """
    if isinstance(store, type) or not isinstance(store, EventStore):
        raise TypeError(f"store: expected an object with append_batch, query and last_seq, got {store!r}")
    if not isinstance(history, History):
        raise TypeError(f"history: expected a History, got {type(history).__name__}")
    if not isinstance(process, str):
        raise TypeError(f"process: expected a string, got {type(process).__name__}")
    try:
        process.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"process: expected a string without lone surrogates, got {process!a}") from exc
    if read_only is not None and not isinstance(read_only, bool):
        raise TypeError(f"read_only: expected a bool or None, got {type(read_only).__name__}")
    if read_only is None:
        read_only = isinstance(store, ReadOnlyCapableStore) and bool(store.read_only)
    inner = store.inner if isinstance(store, RecordingStore) else store
    return RecordingStore(store, history, process, history._name_of(inner), read_only=read_only)


class RecordingStore:
    """A store that writes down what is done to it; what :func:`recording` returns.

    Every method does what that of the inner store does, and is a checkpoint if that is one.
    """

    def __init__(
        self, inner: EventStore, history: History, process: str, instance: str, *, read_only: bool
    ) -> None:
        self._inner = inner
        self._history = history
        self._who: dict[str, Any] = {
            "process": process,
            "instance": instance,
            "read_only": read_only,
            "clock": history._clock,
        }

    def __repr__(self) -> str:
        return f"<RecordingStore of {self._who['process']} around {self._inner!r}>"

    @property
    def inner(self) -> EventStore:
        """The store that does the work."""
        return self._inner

    # --- what the inner store says about itself ---------------------------------------------------

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
    def has_lock(self) -> bool:
        """Whether the inner store has the lock of S13, True if that does not say."""
        return bool(self._inner.has_lock) if isinstance(self._inner, LockingStore) else True

    @property
    def lock_timeout(self) -> float:
        """How long the lock of the inner store outlives its process, in seconds; 0 if that does not say."""
        return self._inner.lock_timeout if isinstance(self._inner, LeasedStore) else 0.0

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
        return bool(self._who["read_only"])

    @property
    def sync(self) -> Callable[[], Awaitable[object]] | None:
        """``sync`` of the inner store, which is not written down; None if it has none."""
        return self._inner.sync if isinstance(self._inner, SyncableStore) else None

    @property
    def pruned_seq(self) -> Callable[[], Awaitable[int]] | None:
        """``pruned_seq`` of the inner store, which is not written down; None if it has none."""
        return self._inner.pruned_seq if isinstance(self._inner, PrunedStore) else None

    # --- what is written down ---------------------------------------------------------------------

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch; see :meth:`EventStore.append_batch`."""
        batch = tuple(map(reduced, events))
        number = self._history._begin(AppendOperation(**self._who, batch=batch, began=time.monotonic()))
        try:
            returned = await self._inner.append_batch(events)
        except BaseException as exc:
            outcome = Outcome.FAILED if isinstance(exc, _NOTHING_STORED) else Outcome.UNKNOWN
            went_back_to = exc.last_seq if isinstance(exc, StoreWentBack) else None
            self._history._end(number, outcome=outcome, error=_text_of(exc), went_back_to=went_back_to)
            raise
        self._history._end(number, outcome=Outcome.OK, returned=_seqs_of(returned))
        return returned

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """Events that match; see :meth:`EventStore.query`."""
        number = self._history._begin(QueryOperation(**self._who, query=query, began=time.monotonic()))
        try:
            found = await self._inner.query(query)
        except BaseException as exc:
            self._history._end(number, outcome=Outcome.FAILED, error=_text_of(exc))
            raise
        seen = tuple((event.seq, event.id) for event in found if isinstance(event, PersistedEvent))
        self._history._end(number, outcome=Outcome.OK, found=seen)
        return found

    async def last_seq(self) -> int:
        """The highest seq ever stored; see :meth:`EventStore.last_seq`."""
        number = self._history._begin(LastSeqOperation(**self._who, began=time.monotonic()))
        try:
            last_seq = await self._inner.last_seq()
        except BaseException as exc:
            self._history._end(number, outcome=Outcome.FAILED, error=_text_of(exc))
            raise
        # What is no number at all is not for a history to judge.
        known = last_seq if type(last_seq) is int else None
        self._history._end(number, outcome=Outcome.OK, last_seq=known)
        return last_seq


def _seqs_of(returned: object) -> frozenset[int]:
    if not isinstance(returned, Collection):
        return frozenset()
    return frozenset(seq for seq in returned if type(seq) is int)


def _text_of(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"
