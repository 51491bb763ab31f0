"""A store in a stream of NATS JetStream: for many processes on many machines."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import trio

from trio_eventlog._ki import ki_protected
from trio_eventlog._model._errors import LogNotFound, StoreError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog._numbers import check_number
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.abc import ChangeWatch, EventPage
from trio_eventlog.stores._common._arguments import (
    check_flag,
    check_log_name,
    check_prune,
    check_query,
    check_query_page,
    check_verify,
    checked_log_names,
    checked_top,
)
from trio_eventlog.stores._common._batches import sealed_batch
from trio_eventlog.stores._common._closing import read_only_error
from trio_eventlog.stores.jetstream import _maintenance as maintenance
from trio_eventlog.stores.jetstream._access import Access, access
from trio_eventlog.stores.jetstream._api import Stream, retrying
from trio_eventlog.stores.jetstream._appender import Appender
from trio_eventlog.stores.jetstream._config import MIN_PAYLOAD, check_stream, stream_config
from trio_eventlog.stores.jetstream._connection import Connection, open_connection
from trio_eventlog.stores.jetstream._inbox import NoResponders
from trio_eventlog.stores.jetstream._messages import MAX_BATCH
from trio_eventlog.stores.jetstream._reader import Reader
from trio_eventlog.stores.jetstream._subjects import Subjects, check_stream_name
from trio_eventlog.stores.jetstream._watch import watch_head

_OPEN_TIMEOUT: Final = 10.0
"""How long to try, in seconds, where servers are there but not ready."""

_INFO_TIMEOUT: Final = 2.0
"""Seconds for an answer about the stream. A cluster that was started just now drops the question."""

_MIN_VERSION: Final = (2, 14, 4)
"""Of the server. Atomic batches came with 2.12, but until here they take some ids for new that are held: of
conditions that are as long as each other, one may be looked up in the place of another (issue 8376 of
nats-io/nats-server)."""

_MIN_LOCK_TIMEOUT: Final = 2.0
_MAX_LOCK_TIMEOUT: Final = 3600.0

_SYNC_INTERVAL: Final = 120.0
"""That of a server that is not configured otherwise."""

_MAX_SYNC: Final = 86_400.0
"""Of ``sync_interval``, in seconds."""


# A few lines over 300, with the documentation of its public methods.
class JetStreamStore(metaclass=NoPublicConstructor):
    """One log in a stream of NATS JetStream; made by :meth:`open`.

    A stream is replicated by its servers and holds many logs. Each log is open for writing once at a time, by
    a process on any machine. Needs servers of version 2.14.4 or newer. Keeps all clauses of
    :class:`trio_eventlog.abc.EventStore`, and states:

    * **Cancellation** is prompt. The next call first finds out whether a cancelled append was stored.
    * **Connection**: a lost connection is replaced, if need be by one to another server of the cluster. Until
      then all methods raise :class:`StoreError`, as they do while the stream has no leader. An answer may
      take 5 seconds; for a batch, one second more per 4 MiB. A server that does not answer for that long, or
      reports that there is no leader, is left for another one if one is known.
    * **Durability**: an append that has returned is held by a majority of the stream's replicas and survives
      killed servers. A server syncs its files every ``sync_interval``, two minutes by default; if it loses
      power, what it acknowledged since then is gone. So ``survives`` is ``"process"``, and :meth:`sync` waits
      for that long. If the servers have ``sync_interval: always``, pass ``sync_interval=0``: then
      ``survives`` is ``"power"``.
    * **A store that went back** because the stream was purged, restored or recreated, or because a replica
      that lagged took over: the next append raises :class:`StoreWentBack` once, and appending goes on from
      what is left. A read-only store raises it from the first method that notices: at once if the stream has
      one replica, otherwise after 20 seconds in which no server has contradicted.
    * **Limits**: a batch has at most 999 events, or fewer if the server's ``limits.batch.max_msgs`` is lower.
      An event that does not fit, with its headers, into the server's ``max_payload`` (1 MiB by default) or
      the stream's ``max_msg_size`` is rejected.
    * **The lock** of an appender is a message that expires within ``lock_timeout`` seconds after its process
      was killed or cut off. An appender whose lock has expired continues if no other one has opened the log
      meanwhile; otherwise nothing that it sends is stored, and it raises :class:`LogBusy`.
    * **Tasks**: the store's own tasks run within the ``async with`` block. With Trio's ``autojump_clock``,
      time jumps while servers work; use the real clock in tests.
    """

    max_batch: int | None = MAX_BATCH
    """Most events of one append."""

    survives: Final[str]
    """What an append that has returned survives, ``"process"``; with ``sync_interval=0``, ``"power"``."""

    lock_timeout: Final[float]
    """Seconds within which the lock of a process that was killed is gone."""

    log_id: Final[str | None]
    """Tells this log from all others, everywhere; None in a read-only store."""

    def __init__(
        self,
        reader: Reader,
        appender: Appender | None = None,
        lock_timeout: float = 0.0,
        sync_interval: float = _SYNC_INTERVAL,
    ) -> None:
        self._reader, self._stream, self._appender = reader, reader.stream, appender
        self._sync_interval = sync_interval
        self.lock_timeout = lock_timeout
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
        return f"<JetStreamStore {str(self._stream)!r} log={self._reader.subjects.log!r} {mode}>"

    @staticmethod
    @ki_protected
    @asynccontextmanager
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

        Entering is a checkpoint and can be cancelled. It retries for 10 seconds while the servers that answer
        are not ready, and raises at once if none answers. Leaving waits up to 5 seconds, also if cancelled,
        for the outcome of an append and to give the lock back. If that fails, it warns; the lock expires.

        Args:
          servers: where the cluster is: ``"nats://host:4222,host2:4222"`` or a sequence of such strings. The
            other servers of the cluster are found through one that answers. ``tls://`` insists on TLS.
          stream: name of the stream, 1 to 64 of A-Z, a-z, 0-9, ``_`` and ``-``.
          log: name of the log, 1 to 512 bytes in UTF-8.
          read_only: do not write. Needs no lock; stream and log must be there.
          replicas: how many servers keep a copy, 1 to 5. This and the next two are used if the stream is
            created now; an existing one is left as it is.
          max_age: seconds after which the server removes events; None for never.
          max_bytes: how large the stream may get, 1 or more; None for no limit. Some accounts require one.
          lock_timeout: seconds within which the lock is gone once this process was killed, 2 to 3600.
          sync_interval: that of the servers, in seconds, 0 to 86,400; 0 for ``always``. Servers do not tell
            it. Give a few seconds more if their disks are slow.
          user: name of the user; or as in ``nats://user:password@host``, percent-encoded.
          password: of that user.
          token: in place of a user; or as in ``nats://token@host``.
          credentials: in their place, path of a ``.creds`` file, or of a file with the seed of an nkey alone.
            Needs the package nkeys, which the extra ``nats`` has.
          tls: how to check certificates, in place of :func:`ssl.create_default_context`; insists on TLS.

        Raises:
          TypeError, ValueError: an argument is not as described; secrets do not appear in the message.
          LogBusy: another program has the log open for writing.
          LogNotFound: with ``read_only``, there is no such stream, or no such log in it.
          StoreUnusable: the server is too old, does not accept the user, or has no JetStream; or the stream
            is of a newer version of this library, was made for something else, or cannot hold logs.
          StoreError: now no server can be reached, JetStream does not answer, or the stream has no leader.
        """
        check_log_name(log)
        check_flag("read_only", read_only)
        config = stream_config(stream, replicas, max_age, max_bytes)
        lock_timeout = check_number(
            "lock_timeout", lock_timeout, minimum=_MIN_LOCK_TIMEOUT, maximum=_MAX_LOCK_TIMEOUT, unit="seconds"
        )
        sync_interval = check_number("sync_interval", sync_interval, maximum=_MAX_SYNC, unit="seconds")
        to = access(servers, user=user, password=password, token=token, credentials=credentials, tls=tls)
        async with _open_stream(to, stream, None if read_only else config, [log]) as found:
            reader = Reader(found, Subjects(stream, log), has_appender=not read_only)
            if read_only:
                yield JetStreamStore._create(reader, None, lock_timeout, sync_interval)
                return
            # A second for the server to notice that its time is over.
            appender = Appender(reader, int(lock_timeout) - 1)
            try:
                await appender.acquire(trio.current_time() + _OPEN_TIMEOUT)
                found.connection.start_soon(appender.keep)
                yield JetStreamStore._create(reader, appender, lock_timeout, sync_interval)
            finally:
                await appender.release()  # noqa: ASYNC102 - shielded, with a bound, inside

    @staticmethod
    @ki_protected
    @asynccontextmanager
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

        They share one connection. ``logs`` are their names, by default all that are in the stream now. The
        rest is as with :meth:`open`.

        Raises:
          LogNotFound: one of ``logs`` is not there.
        """
        names = checked_log_names(logs)
        to = access(servers, user=user, password=password, token=token, credentials=credentials, tls=tls)
        async with _open_stream(to, stream, None, names) as found:
            if names is None:
                names = await maintenance.log_names(found)
            readers = [Reader(found, Subjects(stream, name), has_appender=False) for name in names]
            yield {reader.subjects.log: JetStreamStore._create(reader) for reader in readers}

    @staticmethod
    @trio.lowlevel.enable_ki_protection
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
        """The names of the logs in a stream, ascending. A checkpoint; see :meth:`open_readers`."""
        to = access(servers, user=user, password=password, token=token, credentials=credentials, tls=tls)
        async with _open_stream(to, stream, None, None) as found:
            return await maintenance.log_names(found)

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, all of it or nothing; see :meth:`trio_eventlog.abc.EventStore.append_batch`.

        Fast as long as seqs ascend from batch to batch, as those of a log do. For each seq below one that was
        stored before, the server searches all its subjects, and cursors below it are slow from then on.

        Raises:
          EventRejected: also for events that do not fit into a message of the server.
          StoreError: also if the stream is full, missing, or was changed so that it cannot be relied on.
        """
        if self._appender is None:
            await trio.lowlevel.checkpoint()
            raise read_only_error(str(self._stream))
        return await self._appender.append(await sealed_batch(events))

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """All events that match, ascending by seq; see :meth:`trio_eventlog.abc.EventStore.query`.

        The server filters, except by time, and by at most 8 ``event_types``. ``after_seq`` is found in a few
        steps. A replica may answer, and the leader is asked whether that was all.
        """
        check_query(query)
        await self._check_open()
        return await self._reader.query(query)

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        """What :meth:`query` returns, cut off at ``max_bytes``; see :class:`trio_eventlog.abc.PagedStore`."""
        check_query_page(query, max_bytes)
        await self._check_open()
        return await self._reader.query_page(query, max_bytes)

    async def last_seq(self) -> int:
        """The highest seq ever stored, 0 before the first; see :meth:`trio_eventlog.abc.EventStore.last_seq`.

        In a writer it comes after every append that began before, also one that was cancelled.
        """
        if self._appender is not None:
            return await self._appender.last_seq()
        await self._check_open()
        head = await self._reader.head()
        return 0 if head is None else head.last_seq

    async def _check_open(self) -> None:
        await trio.lowlevel.checkpoint()
        self._stream.connection.check_open()

    async def sync(self) -> None:
        """Wait until what was acknowledged survives power loss; see :class:`trio_eventlog.abc.SyncableStore`.

        No request makes a server sync. So this waits until ``sync_interval`` has passed since the last append
        that has returned, and then asks whether the log is still what it was. Where ``survives`` is
        ``"power"``, it returns at once.
        """
        if self._appender is not None:
            await self._appender.sync(self._sync_interval)
        else:
            await self._check_open()

    async def pruned_seq(self) -> int:
        """The highest seq that was ever pruned, 0 if none; see :class:`trio_eventlog.abc.PrunableStore`.

        By :meth:`prune`, by the server (``max_age``), or by a purge. Too high, perhaps, if events were
        appended behind later ones.
        """
        await self._check_open()
        return await maintenance.pruned_seq(self._reader)

    async def log_names(self) -> list[str]:
        """The names of all logs in the stream, ascending by code point. A checkpoint."""
        await self._check_open()
        return await maintenance.log_names(self._stream)

    def watch_changes(self) -> AbstractAsyncContextManager[ChangeWatch]:
        """Watch for new batches; see :class:`trio_eventlog.abc.WatchableStore`. The server tells of each."""
        return watch_head(self._stream, self._reader.subjects.head)

    async def describe(self, *, top: int = 10) -> StoreDescription:
        """What the log holds, in numbers; see :class:`trio_eventlog.abc.DescribableStore`.

        Reads the whole log. ``size_bytes`` is that of the stream.
        """
        top = checked_top(top)
        await self._check_open()
        return await maintenance.describe(self._reader, top)

    async def verify(
        self, *, most_findings: int = 100, on_progress: Callable[[int], object] | None = None
    ) -> StoreVerification:
        """Check the integrity of the log; see :class:`trio_eventlog.abc.VerifiableStore`.

        Reads the whole log, and remembers some 100 bytes of each event.
        """
        await self._check_open()
        check_verify(most_findings, on_progress)
        return await maintenance.verify(self._reader, most_findings, on_progress)

    async def prune(
        self,
        *,
        before_ms: int | None = None,
        keep: int | None = None,
        through_seq: int | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Delete old events permanently; see :class:`trio_eventlog.abc.PrunableStore`.

        Those at the beginning of the log go 1,000 at a time, others one by one. Also in a read-only store.
        """
        check_prune(before_ms, keep, through_seq, dry_run, on_progress)
        await self._check_open()
        return await maintenance.prune(
            self._reader,
            before_ms=before_ms,
            keep=keep,
            through_seq=through_seq,
            dry_run=dry_run,
            on_progress=on_progress,
        )


# --- is the stream there, is it ours, and can its server hold logs? --------------------------------


@asynccontextmanager
async def _open_stream(
    access: Access, name: str, config: Mapping[str, Any] | None, logs: Sequence[str] | None
) -> AsyncIterator[Stream]:
    """Connect to a stream. With a configuration it is created if need be; without, the logs must be there."""
    check_stream_name(name)
    async with open_connection(access) as connection:
        _check_server(connection)
        stream = Stream(connection, name)
        deadline = trio.current_time() + _OPEN_TIMEOUT
        place = f"{'nats' if access.tls is None else 'tls'}://{','.join(map(str, access.servers))}/{name}"
        await retrying(deadline, _check_stream, stream, config, logs, place)
        if config is None and logs:
            await retrying(deadline, _check_logs, stream, logs, place)
        yield stream


async def _check_logs(stream: Stream, logs: Sequence[str], place: str) -> None:
    for log in logs:
        subjects = Subjects(stream.name, log)
        # A log without its head is damaged, and there.
        if await stream.last(subjects.head) is None and await stream.last(subjects.all_events) is None:
            raise LogNotFound(log, await maintenance.log_names(stream), place)


async def _check_stream(
    stream: Stream, config: Mapping[str, Any] | None, logs: Sequence[str] | None, place: str
) -> None:
    try:
        info = await stream.info(seconds=_INFO_TIMEOUT)
    except NoResponders as exc:
        # Each server that has JetStream takes this request, also while it cannot answer it. One in a cluster,
        # or a leaf node, may have been cut off from those that have it.
        server = stream.connection.info
        if server.cluster or server.domain:
            raise
        raise StoreUnusable(
            f"{stream.connection}: the server has no JetStream; start it with `-js` or configure `jetstream`"
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
    check_stream(stream.name, info["config"], writes=config is not None)


def _check_server(connection: Connection) -> None:
    info = connection.info
    if info.numbers < _MIN_VERSION:
        raise StoreUnusable(
            f"{connection}: NATS server {_dotted(info.numbers)} cannot be relied on to store an event once;"
            f" JetStreamStore needs {_dotted(_MIN_VERSION)} or newer"
        )
    if info.max_payload < MIN_PAYLOAD:
        raise StoreUnusable(
            f"{connection}: the server's max_payload is {info.max_payload} bytes;"
            f" set it to {MIN_PAYLOAD} or more"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
