"""Reading several logs as one. Floor 3: Trio."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import trio

from trio_eventlog._model._errors import EventsPruned, StaleCursor
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._reading._subscription import EventStream, checked_start, iter_events
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.abc import EventStore

if TYPE_CHECKING:
    from typing import Self


@attrs.frozen
class LogEvent:
    """An event and the log that it is in.

    Attributes:
      log: name of the log.
      event: the event.
    """

    log: str
    event: PersistedEvent


class MergedEvents(metaclass=NoPublicConstructor):
    """Events of several logs, one after another; what :func:`merge_events` returns.

    An async iterator, for one task at a time. A step that is cancelled or fails skips nothing: go on with
    another ``async for`` over the same object.
    """

    _made_by = "merge_events(stores)"

    def __init__(
        self, stores: Mapping[str, EventStore], query: EventQuery, cursors: Mapping[str, int], page_size: int
    ) -> None:
        self._left = math.inf if query.limit is None else query.limit
        self._cursors = dict(cursors)
        self._streams: dict[str, EventStream] = {
            name: iter_events(store, attrs.evolve(query, after_seq=cursors.get(name, 0)), page_size=page_size)
            for name, store in stores.items()
        }
        # Logs whose next event is not known, and the next events of the others, the earliest on top. Two with
        # the same time and log have different seqs: the events themselves are never compared.
        self._unknown = list(stores)
        self._next: list[tuple[int, str, int, PersistedEvent]] = []
        self._is_busy = False

    def __repr__(self) -> str:
        return f"<MergedEvents of {len(self._streams)} logs>"

    @property
    def cursors(self) -> dict[str, int]:
        """The seq to resume from for each log, as a new dict, for the next :func:`merge_events`.

        The event of the running step of ``async for`` counts as read. Cursors of logs that are not among
        these are handed through.
        """
        return dict(self._cursors)

    def __aiter__(self) -> Self:
        """The iterator itself."""
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> LogEvent:
        """The next event. A checkpoint.

        Raises:
          StopAsyncIteration: there is no other.
          EventsPruned: events of a log behind its cursor were pruned before they were read; a note says of
            which log. Raised once for each range of seqs; the cursor of the log is past it then.
          StaleCursor: a cursor is beyond the last seq of its log, which a note names.
          StoreError: a store failed and may answer later; so may :exc:`StoreUnusable`, which will not.
          trio.BusyResourceError: another task waits for the next event.
        """
        if self._is_busy:
            msg = "another task waits for the next of these events"
            raise trio.BusyResourceError(msg)
        self._is_busy = True
        try:
            await trio.lowlevel.checkpoint()
            while self._unknown and self._left:
                await self._look_up(self._unknown[-1])
        finally:
            self._is_busy = False
        if not (self._next and self._left):
            raise StopAsyncIteration
        _, name, seq, event = heapq.heappop(self._next)
        self._unknown.append(name)
        self._cursors[name] = seq
        self._left -= 1
        return LogEvent(name, event)

    async def _look_up(self, name: str) -> None:  # noqa: ASYNC910 - its caller has a checkpoint
        try:
            event = await anext(self._streams[name])
        except (EventsPruned, StaleCursor) as exc:
            exc.add_note(f"in the log {name!r}")
            # All events of this log up to here were handed out.
            self._cursors[name] = self._streams[name].cursor
            raise
        except StopAsyncIteration:
            # Nothing is known of it any more, and nothing asked.
            self._unknown.remove(name)
        else:
            self._unknown.remove(name)
            heapq.heappush(self._next, (event.timestamp_ms, name, event.seq, event))


def merge_events(
    stores: Mapping[str, EventStore],
    query: EventQuery | None = None,
    *,
    cursors: Mapping[str, int] | None = None,
    page_size: int = 256,
) -> MergedEvents:
    """Read several logs as one, by time, with no more than a page of each in memory.

    ::

        async with SqliteStore.open_readers("workers.db") as stores:
            async for item in merge_events(stores):
                print(item.log, item.event)

    What comes next is the earliest of what comes next in each log, by time stamp, then by the name of the
    log; within a log it is always the order of seq. So the whole is ordered by (``timestamp_ms``, log, seq),
    except where the time stamps of a log go back, which they do when its wall clock was set back: the order
    of a log then wins. The same cursors give the same order again.

    Args:
      stores: the logs, by name.
      query: which events; by default all. Its ``limit`` is for all logs together.
      cursors: for each log the seq to begin behind, as :attr:`MergedEvents.cursors` has them; without one,
        the first event.
      page_size: events to ask each store for at a time, 1 or more.

    Raises:
      TypeError, ValueError: an argument is not as described.
    """
    query, after = checked_start(query, None)
    if after is not None:
        msg = "query: has an after_seq, but every log has seqs of its own; use cursors"
        raise ValueError(msg)
    if not isinstance(stores, Mapping):
        msg = f"stores: expected a mapping from names to stores, got {type(stores).__name__}"
        raise TypeError(msg)
    cursors = {} if cursors is None else cursors
    if not isinstance(cursors, Mapping):
        msg = f"cursors: expected a mapping from names to seqs, got {type(cursors).__name__}"
        raise TypeError(msg)
    for name, cursor in cursors.items():
        if type(cursor) is not int or cursor < 0:
            msg = f"cursors[{name!r}]: expected a seq, got {cursor!r:.50}"
            raise ValueError(msg)
    return MergedEvents._create(stores, query, cursors, page_size)
