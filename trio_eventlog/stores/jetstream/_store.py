"""A store in a stream of NATS JetStream: for many processes on many machines."""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio

from trio_eventlog._model._errors import LogNotFound, StoreError, StoreUnusable
from trio_eventlog._model._events import MAX_STORED, PersistedEvent, new_event_id
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.abc import ChangeWatch, EventPage
from trio_eventlog.stores._common._arguments import (
    check_criteria,
    check_log_name,
    check_max_bytes,
    checked_log_names,
    checked_top,
)
from trio_eventlog.stores._common._batches import sealed_copies
from trio_eventlog.stores.jetstream import _layout as layout
from trio_eventlog.stores.jetstream import _maintenance as upkeep
from trio_eventlog.stores.jetstream._access import Access, access
from trio_eventlog.stores.jetstream._appender import Appender
from trio_eventlog.stores.jetstream._layout import Subjects
from trio_eventlog.stores.jetstream._link import Inbox, Link, NobodyThere, open_link
from trio_eventlog.stores.jetstream._reader import Reader
from trio_eventlog.stores.jetstream._stream import Stream, patiently

_OPEN_SECONDS: Final = 10.0
"""How long to try, where servers are there but not ready."""

_LOOK_SECONDS: Final = 2.0
"""For an answer about the stream. A cluster that was started just now drops the question."""

_LEAST_VERSION: Final[tuple[int, ...]] = (2, 14, 4)
"""Of the server. Atomic batches came with 2.12, but until here they take some ids for new that are held: of
conditions that are as long as each other, one may be looked up in the place of another (issue 8376 of
nats-io/nats-server)."""

_LEAST_LOCK_TIMEOUT: Final = 2.0
_MOST_LOCK_TIMEOUT: Final = 3600.0

_MOST_REPLICAS: Final = 5

_SYNC_INTERVAL: Final = 120.0
"""That of a server that is not told otherwise."""

_MOST_SYNC_INTERVAL: Final = 86_400.0

_MOST_AGE: Final = 9e9
"""What the server can count in nanoseconds, almost."""

_HEARTBEAT_SECONDS: Final = 2.0
_SILENCE_SECONDS: Final = 5.0
"""Without a heartbeat for so long, a consumer is gone."""


class JetStreamStore(metaclass=NoPublicConstructor):
    """One log in a stream of NATS JetStream; made by :meth:`open`.

    A stream is replicated by its servers, and holds many logs, each with its own ids and seqs, and each open
    for writing once at a time, by any process on any machine. Needs servers of version 2.14.4 or newer. Keeps
    all clauses of :class:`trio_eventlog.abc.EventStore`, and states:

    * **Cancellation** is prompt. An append that was cancelled may still be stored afterwards; what comes next
      finds out, or sees to it that it will not be, before it does anything else.
    * **Connection**: it is made anew when it is lost, with another server of the cluster if need be. Until
      then all methods raise :class:`StoreError`, as they do while the stream has no leader. An answer may
      take 5 seconds, that to a batch one more for each 4 MiB. A server that gives none, or says for so long
      that there is no leader, is left for another one, if one is known.
    * **Durability**: an append that has returned is held by a majority of the stream's replicas, and survives
      a kill of servers. A server syncs its files every ``sync_interval``, two minutes by default; what it has
      acknowledged since then is gone if it loses power. So ``survives`` is ``"process"``, and :meth:`sync`
      waits for that long. If the servers have ``sync_interval: always``, say so with ``sync_interval=0``:
      then ``survives`` is ``"power"``. Several replicas make a loss less likely and no other promise.
    * **A store that went back**, since the stream was purged, restored or made anew, or a replica that lagged
      took over: the next append raises :class:`StoreWentBack`, once, and then goes on from what there is. A
      store that is read-only raises it, too, from whichever method notices it: at once where the stream has
      one replica, otherwise once nobody has contradicted for 20 seconds.
    * **Limits**: a batch has at most 999 events, or fewer if ``limits.batch.max_msgs`` of the server says so.
      An event with its headers fits into the server's ``max_payload`` (1 MiB by default) and the stream's
      ``max_msg_size``, and is rejected beyond that.
    * **The lock** of an appender is a message that expires unless it is renewed, within ``lock_timeout``
      seconds of its process being killed or cut off. An appender whose lock expired goes on if nobody else
      has opened the log meanwhile; otherwise nothing that it sends is stored, and it raises :class:`LogBusy`.
    * **Threads**: the driver, nats-py, has one of its own for as long as the ``async with`` block. With
      Trio's ``autojump_clock``, time jumps while servers work; use the real clock in tests.
    """

    max_batch: int | None = layout.MAX_BATCH
    """Most events of one append."""

    survives: Final[str]
    """What an append that has returned survives, ``"process"``; with ``sync_interval=0``, ``"power"``."""

    lock_timeout: Final[float]
    """Seconds within which the lock of a process that was killed is gone."""

    log_id: Final[str | None]
    """Tells this log from all others, in this stream and others; None in a store that is read-only."""

    def __init__(
        self,
        reader: Reader,
        appender: Appender | None,
        lock_timeout: float,
        sync_interval: float = _SYNC_INTERVAL,
    ) -> None:
        self._reader = reader
        self._stream = reader.stream
        self._log = reader.subjects.log
        self._appender = appender
        self.lock_timeout = lock_timeout
        self._sync_interval = sync_interval
        self.survives = "process" if sync_interval else "power"
        self.log_id = None if appender is None else appender.log_id
        if appender is not None:
            self.max_batch = appender.max_batch

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
        return self._appender is None

    def __repr__(self) -> str:
        mode = "read-only" if self.read_only else "writing"
        return f"<JetStreamStore {str(self._stream)!r} log={self._log!r} {mode}>"

    @staticmethod
    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection  # not of the body of the block
    async def open(
        servers: str | Sequence[str],
        *,
        stream: str = "EVENTLOG",
        log: str = "default",
        read_only: bool = False,
        replicas: int = 1,
        max_age: float | None = None,
        max_bytes: int | None = None,
        lock_timeout: float = 10.0,
        sync_interval: float = _SYNC_INTERVAL,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: str | os.PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[JetStreamStore]:
        """Open a log for the length of an ``async with`` block, creating stream and log if need be.

        Entering is a checkpoint and can be cancelled. It tries for 10 seconds while the servers that answer
        are not ready, and raises at once if none answers. Leaving waits, in spite of a cancellation and for 5
        seconds at most, for the outcome of an append and until the lock is given back. If no server answers
        meanwhile, there is a warning to the logger ``trio_eventlog``, and the lock expires by itself.

        Args:
          servers: where the cluster is: ``"nats://host:4222,host2:4222"`` or a sequence of such texts. The
            other servers of the cluster are found through one that answers. ``tls://`` insists on TLS.
          stream: name of the stream, 1 to 64 of A-Z, a-z, 0-9, ``_`` and ``-``.
          log: name of the log, 1 to 512 bytes in UTF-8.
          read_only: do not write. Needs no lock; stream and log must be there.
          replicas: how many servers keep a copy, 1 to 5, if the stream is created now. One that exists is
            left as it is.
          max_age: seconds after which the server removes events, if the stream is created now; None for
            never.
          max_bytes: how large the stream may get, if it is created now, 1 or more; None for no limit. A full
            one refuses. Some accounts want a limit.
          lock_timeout: seconds within which the lock is gone once this process was killed, 2 to 3600.
          sync_interval: that of the servers, in seconds, 0 to 86,400; 0 for ``always``. Servers do not tell
            it. Give a few seconds more if their disks are slow.
          user: name of the user; or as in ``nats://user:password@host``, percent-encoded.
          password: of that user.
          token: in place of a user; or as in ``nats://token@host``.
          credentials: in their place, path of a ``.creds`` file. Needs the package nkeys, which the
            extra ``nats`` has.
          tls: how to check certificates, in place of :func:`ssl.create_default_context`; insists on TLS.

        Raises:
          TypeError, ValueError: an argument is not as described; secrets do not appear in the message.
          LogBusy: somebody else has the log open for writing.
          LogNotFound: with ``read_only``, there is no such stream, or no such log in it.
          StoreUnusable: the server is older than 2.14.4, does not know us, or has no JetStream; the stream is
            none of ours, of a newer version of this library, or has settings with which it cannot hold logs.
          StoreError: now no server can be reached, JetStream does not answer, or the stream has no leader.
        """
        check_log_name(log)
        config = layout.stream_config(
            stream, _checked_replicas(replicas), _checked_age(max_age), _checked_bytes(max_bytes)
        )
        lock_timeout = _checked_seconds("lock_timeout", lock_timeout, _LEAST_LOCK_TIMEOUT, _MOST_LOCK_TIMEOUT)
        sync_interval = _checked_seconds("sync_interval", sync_interval, 0, _MOST_SYNC_INTERVAL)
        to = access(servers, user=user, password=password, token=token, credentials=credentials, tls=tls)
        async with _open_stream(to, stream, None if read_only else config, [log]) as found:
            reader = Reader(found, Subjects(stream, log), has_appender=not read_only)
            if read_only:
                yield JetStreamStore._create(reader, None, lock_timeout, sync_interval)
                return
            # A second for the server to notice that its time is over.
            appender = Appender(reader, int(lock_timeout) - 1)
            try:
                await appender.acquire(trio.current_time() + _OPEN_SECONDS)
                found.link.start_soon(appender.keep)
                yield JetStreamStore._create(reader, appender, lock_timeout, sync_interval)
            finally:
                await appender.release()  # noqa: ASYNC102 - shielded, with a bound, inside

    @staticmethod
    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection  # as above
    async def open_readers(
        servers: str | Sequence[str],
        *,
        stream: str = "EVENTLOG",
        logs: Iterable[str] | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: str | os.PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[dict[str, JetStreamStore]]:
        """Open logs of one stream for reading, for the length of an ``async with`` block.

        However many they are, they share one connection. For
        :func:`trio_eventlog.reading.merge_events`, for example. Entering, leaving and the other arguments are
        as with :meth:`open`.

        Args:
          servers: where the cluster is.
          stream: name of the stream.
          logs: their names; by default all that are in the stream now.
          user: as with :meth:`open`, and so on.
          password: of that user.
          token: in place of a user.
          credentials: in their place.
          tls: how to check certificates.

        Raises:
          LogNotFound: one of ``logs`` is not there.
          StoreUnusable: the stream is missing, and further as :meth:`open`.
          ValueError, TypeError, StoreError: as :meth:`open`.
        """
        names = checked_log_names(logs)
        to = access(servers, user=user, password=password, token=token, credentials=credentials, tls=tls)
        async with _open_stream(to, stream, None, names) as found:
            if names is None:
                names = await upkeep.log_names(found)
            yield {
                name: JetStreamStore._create(
                    Reader(found, Subjects(stream, name), has_appender=False), None, 0.0
                )
                for name in names
            }

    @staticmethod
    @trio.lowlevel.enable_ki_protection  # as above
    async def logs(
        servers: str | Sequence[str],
        *,
        stream: str = "EVENTLOG",
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: str | os.PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> list[str]:
        """The names of the logs in a stream, ascending by code point.

        A checkpoint; connects and leaves again. The arguments are those of :meth:`open`.

        Raises:
          StoreUnusable: the stream is missing, and further as :meth:`open`.
          ValueError, TypeError, StoreError: as :meth:`open`.
        """
        to = access(servers, user=user, password=password, token=token, credentials=credentials, tls=tls)
        async with _open_stream(to, stream, None, None) as found:
            return await upkeep.log_names(found)

    # --- the contract -----------------------------------------------------------------------------

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, all of it or nothing; see :meth:`trio_eventlog.abc.EventStore.append_batch`.

        A checkpoint, also for an empty batch. Cancelled, it raises at once, and whether the batch was or will
        be stored is unknown; every later call finds out first.

        Fast as long as seqs ascend from batch to batch, as those of a log do. A batch with a seq below one
        that was stored costs the server a look at all its subjects for each such seq, and cursors below it
        are slow.

        Raises:
          EventRejected: a seq is not in 1 to 2**63 - 1, a timestamp is above 2**63 - 1, a payload is not
            JSON, a text has a lone surrogate, or an event does not fit into a message of the server. Names
            all such events; nothing was stored.
          SequenceConflict: an event of another id already sits on a seq; nothing was stored.
          LogBusy: another appender has opened the log, after this one was cut off.
          StoreWentBack: the log has less than was acknowledged, or found on opening; nothing was stored.
          StoreError: the connection is lost, no server answers in time, or the stream is full, missing, or
            was changed so that it cannot be relied on; or the batch has more than ``max_batch`` events.
          StoreUnusable: the store is closed, read-only, or the parent's in a forked child; the stream was
            sealed; or another log is in the place of this one.
        """
        if self._appender is None:
            await trio.lowlevel.checkpoint()
            msg = f"{self._stream}: the store was opened read-only"
            raise StoreUnusable(msg)
        return await self._appender.append(await sealed_copies(events))

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """All events that match, ascending by seq; see :meth:`trio_eventlog.abc.EventStore.query`.

        The server filters by ``member_id``, ``event_types`` (up to 8 of them), ``identity``, ``mob_id``,
        ``run_id`` and ``step_id``; by time, what is left is filtered here. ``after_seq`` is found in a few
        steps. A replica may answer, and the leader is asked whether that was all.

        A checkpoint. Cancelled, it raises at once. Queries run beside each other and beside appends.

        Raises:
          StoreWentBack: read-only, once: the log has less than was read from it.
          StoreError: the connection is lost, no server answers in time, or the stream is missing.
          StoreUnusable: the store is closed, the log is damaged, or another one is in its place.
        """
        await trio.lowlevel.checkpoint()
        self._stream.link.check_open()
        return await self._reader.query(query)

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        """What :meth:`query` returns, cut off once it weighs ``max_bytes``; see
        :meth:`trio_eventlog.abc.PagedStore.query_page`. Of a log whose events were not appended in the order
        of their seqs, all are read for each page.

        A checkpoint, and cancelled as :meth:`query` is.

        Raises:
          TypeError, ValueError: ``max_bytes`` is not an integer of 1 or more.
          StoreError, StoreUnusable: as :meth:`query`.
        """
        check_max_bytes(max_bytes)
        await trio.lowlevel.checkpoint()
        self._stream.link.check_open()
        return await self._reader.query_page(query, max_bytes)

    async def last_seq(self) -> int:
        """The highest seq ever stored, 0 before the first.

        A checkpoint. In a writer it comes after every append that began before, also one that was cancelled.

        Raises:
          LogBusy: another appender has opened the log, after this one was cut off.
          StoreWentBack: read-only, once: the log has less than was read from it.
          StoreError: the connection is lost, no server answers in time, or the stream is missing.
          StoreUnusable: the store is closed, or another log is in the place of this one.
        """
        await trio.lowlevel.checkpoint()
        if self._appender is not None:
            return await self._appender.last_seq()
        self._stream.link.check_open()
        head = await self._reader.head()
        return 0 if head is None else head.last_seq

    async def sync(self) -> None:
        """Return once all that was acknowledged before this call survives a loss of power.

        No request makes a server sync. So this waits until ``sync_interval`` has passed since the last append
        that has returned, and then asks whether the log is still what it was. Servers that were killed and
        started again meanwhile leave what is not synced to their systems, which take half a minute as a rule.

        A checkpoint, and returns at once where ``survives`` is ``"power"``. Cancelled, it raises at once. May
        run beside appends.

        Raises:
          LogBusy: another appender has opened the log, after this one was cut off.
          StoreError: the connection is lost, or no server answers in time; or the store went back.
          StoreUnusable: the store is closed, or another log is in the place of this one.
        """
        if self._appender is not None:
            await self._appender.sync(self._sync_interval)
            return
        await trio.lowlevel.checkpoint()
        self._stream.link.check_open()

    async def pruned_seq(self) -> int:
        """The highest seq of all events that were ever pruned, 0 if none was.

        By :meth:`prune`, by the server (``max_age``), or by whoever purges events of the stream. What is
        missing at the beginning of the log counts as pruned up to the first event that is there; if events
        were appended behind later ones, up to the highest of those.

        A checkpoint. Cancelled, it raises at once.

        Raises:
          StoreWentBack: read-only, once: the log has less than was read from it.
          StoreError: the connection is lost, no server answers in time, or the stream is missing.
          StoreUnusable: the store is closed, the log is damaged, or another one is in its place.
        """
        await trio.lowlevel.checkpoint()
        self._stream.link.check_open()
        return await upkeep.pruned_seq(self._reader)

    # --- beyond it --------------------------------------------------------------------------------

    async def log_names(self) -> list[str]:
        """The names of all logs in the stream, ascending by code point.

        A checkpoint. Cancelled, it raises at once.

        Raises:
          StoreError: the connection is lost, or no server answers in time.
          StoreUnusable: the store is closed, or the stream was removed or is damaged.
        """
        await trio.lowlevel.checkpoint()
        return await upkeep.log_names(self._stream)

    @asynccontextmanager
    async def watch_changes(self) -> AsyncIterator[ChangeWatch]:
        """Watch for new batches, for the length of an ``async with`` block.

        The server tells of each, through a consumer that exists for as long as the block. If that is lost,
        with the server that it was on, another one is made, and the log may have changed.

        Entering is a checkpoint.

        Raises:
          StoreError: the connection is lost, or no server answers in time.
          StoreUnusable: the store is closed, or the stream was removed.
        """
        watch = _Watch(self._stream, self._reader.subjects)
        try:
            await watch.begin()
            yield watch
        finally:
            watch.end()

    async def describe(self, *, top: int = 10) -> StoreDescription:
        """What the log holds, in numbers, all of one moment; ``size_bytes`` is that of the stream.

        Reads the whole log. A checkpoint. Cancelled, it raises at once.

        Args:
          top: how many event types and members to name, the most frequent first; 0 or more.

        Raises:
          TypeError: ``top`` is no integer.
          ValueError: ``top`` is negative.
          StoreError: the connection is lost, or no server answers in time.
          StoreUnusable: the store is closed, or the stream was removed or is damaged.
        """
        top = checked_top(top)
        await trio.lowlevel.checkpoint()
        return await upkeep.describe(self._reader, top)

    async def verify(
        self, *, most_findings: int = 100, on_progress: Callable[[int], object] | None = None
    ) -> StoreVerification:
        """Look the log over: does it hold what was stored, and nothing else?

        Each event can be read, its subject agrees with it, seqs ascend where the log says that they do, ids
        and seqs stand once, and the log's highest seq is not below that of an event. A program may write
        meanwhile.

        Reads the whole log, and remembers some 100 bytes of each event. A checkpoint. Cancelled, it raises at
        once.

        Args:
          most_findings: most problems that are named, 0 or more; all are counted.
          on_progress: called with a seq now and then; all up to it were looked at.

        Raises:
          StoreError: the connection is lost, or no server answers in time.
          StoreUnusable: the store is closed, or the stream was removed.
        """
        await trio.lowlevel.checkpoint()
        return await upkeep.verify(self._reader, most_findings, on_progress)

    async def prune(
        self,
        *,
        before_ms: int | None = None,
        keep: int | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Take old events out of a log, for good. ``last_seq`` stays what it was.

        Reads the log first, to see which. Those at its beginning go 1,000 at a time, others one by one.
        Events that come meanwhile stay. Also in a store that was opened read-only, which means that it does
        not append.

        A checkpoint. Cancelled, it stops; what is gone is gone, and calling it again goes on.

        Args:
          before_ms: events before this time go, milliseconds since 1970-01-01 UTC.
          keep: all but so many events, those with the highest seqs, go; 0 or more.
          dry_run: only count them.
          on_progress: called with how many are gone, and how many there were, now and then.

        Returns:
          How many events went, or would go.

        Raises:
          ValueError: not exactly one of ``before_ms`` and ``keep`` is given, or it is negative.
          StoreError: the connection is lost, or no server answers in time.
          StoreUnusable: the store is closed, or the stream was removed or is damaged.
        """
        check_criteria(before_ms, keep)
        await trio.lowlevel.checkpoint()
        return await upkeep.prune(
            self._reader, before_ms=before_ms, keep=keep, dry_run=dry_run, on_progress=on_progress
        )


class _Watch:
    """See :meth:`JetStreamStore.watch_changes`."""

    def __init__(self, stream: Stream, subjects: Subjects) -> None:
        self._stream = stream
        self._link: Link = stream.link
        self._head = subjects.head
        self._name = ""
        self._number = 0
        self._inbox: Inbox | None = None
        self._generation = 0

    async def begin(self) -> None:
        """Have the server tell."""
        self.end()
        self._name = f"watch-{new_event_id()}"
        self._generation = self._link.generation
        self._number, self._inbox = self._link.subscribe()
        try:
            await self._create(self._inbox.reply)
        except BaseException:
            # The server may make it all the same.
            self.end()
            raise

    async def _create(self, subject: str) -> None:
        await self._stream.create_consumer(
            self._name,
            {
                "filter_subject": self._head,
                "deliver_policy": "new",
                "deliver_subject": subject,
                "idle_heartbeat": int(_HEARTBEAT_SECONDS * 1e9),
            },
        )

    def end(self) -> None:
        """Have it tell no more."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            with suppress(StoreError):
                self._link.unsubscribe(self._number)
                self._stream.drop_consumer(self._name)

    async def wait(self) -> None:
        """Wait until there is a new batch since this returned last. A checkpoint.

        Raises:
          StoreError: the connection is lost.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._inbox is None or self._inbox.is_lost or self._generation != self._link.generation:
                # What came meanwhile, nobody told.
                await self.begin()
                return
            try:
                messages = await self._inbox.wait(_SILENCE_SECONDS)
            except StoreError:
                self._link.check()
                await self.begin()
                return
            # A heartbeat has a status.
            if any(not message.status for message in messages):
                return


@asynccontextmanager
async def _open_stream(
    to: Access, name: str, config: dict[str, Any] | None, logs: Sequence[str] | None
) -> AsyncIterator[Stream]:
    """Connect to a stream. It is created if there is a configuration for it; if not, logs must be there."""
    layout.check_stream_name(name)
    async with open_link(to) as link:
        _check_server(link)
        stream = Stream(link, name)
        deadline = trio.current_time() + _OPEN_SECONDS
        place = f"{'nats' if to.tls is None else 'tls'}://{','.join(map(str, to.servers))}/{name}"
        await patiently(deadline, _look_at_stream, stream, config, logs, place)
        if config is None and logs:
            await patiently(deadline, _look_for_logs, stream, logs, place)
        yield stream


async def _look_for_logs(stream: Stream, logs: Sequence[str], place: str) -> None:
    await trio.lowlevel.checkpoint()
    for log in logs:
        subjects = Subjects(stream.name, log)
        # A log without its head is damaged, and there.
        if await stream.last(subjects.head) is None and await stream.last(subjects.all_events) is None:
            raise LogNotFound(log, await upkeep.log_names(stream), place)


async def _look_at_stream(
    stream: Stream, config: dict[str, Any] | None, logs: Sequence[str] | None, place: str
) -> None:
    try:
        info = await stream.info(seconds=_LOOK_SECONDS)
    except NobodyThere as exc:
        # Each server that has JetStream takes this, also while it cannot answer it. One in a cluster, or a
        # leaf node, may have been cut off from those that have it.
        if not stream.link.info.is_alone:
            raise
        raise StoreUnusable(
            f"{stream.link}: the server has no JetStream; start it with `-js` or configure `jetstream`"
        ) from exc
    if info is None:
        if config is None:
            if logs:
                raise LogNotFound(logs[0], (), place)
            raise StoreUnusable(f"{stream}: there is no such stream")
        await stream.create(config)
        info = await stream.info()
        if info is None:
            raise StoreError(f"{stream}: the stream was created, but is not there yet")
    layout.check_stream(stream.name, info["config"], writes=config is not None)


def _check_server(link: Link) -> None:
    info = link.info
    if info.version < _LEAST_VERSION:
        raise StoreUnusable(
            f"{link}: NATS server {_dotted(info.version)} cannot be relied on to store an event once;"
            f" JetStreamStore needs {_dotted(_LEAST_VERSION)} or newer"
        )
    if info.max_payload < layout.LEAST_PAYLOAD:
        raise StoreUnusable(
            f"{link}: the server's max_payload is {info.max_payload} bytes;"
            f" set it to {layout.LEAST_PAYLOAD} or more"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _checked_replicas(replicas: int) -> int:
    if type(replicas) is not int or not 1 <= replicas <= _MOST_REPLICAS:
        msg = f"replicas: expected an integer of 1 to {_MOST_REPLICAS}, got {replicas!r:.50}"
        raise ValueError(msg)
    return replicas


def _checked_age(max_age: float | None) -> float | None:
    if max_age is None:
        return None
    if isinstance(max_age, bool) or not isinstance(max_age, int | float) or not 1 <= max_age <= _MOST_AGE:
        msg = f"max_age: expected seconds, 1 to {_MOST_AGE:.0f}, or None, got {max_age!r:.50}"
        raise ValueError(msg)
    return max_age


def _checked_bytes(max_bytes: int | None) -> int | None:
    if max_bytes is not None and (type(max_bytes) is not int or not 1 <= max_bytes <= MAX_STORED):
        msg = f"max_bytes: expected an integer of 1 to 2**63 - 1, or None, got {max_bytes!r:.50}"
        raise ValueError(msg)
    return max_bytes


def _checked_seconds(name: str, seconds: float, least: float, most: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        msg = f"{name}: expected seconds, got {type(seconds).__name__}"
        raise TypeError(msg)
    if math.isnan(seconds) or not least <= seconds <= most:
        msg = f"{name}: expected {least:.0f} to {most:.0f} seconds, got {seconds!r}"
        raise ValueError(msg)
    return seconds
