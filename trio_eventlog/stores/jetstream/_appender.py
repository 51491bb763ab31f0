"""Appending to one log of a stream."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Final

import trio

from trio_eventlog._model._errors import EventRejected, SequenceConflict, StoreError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent, new_event_id
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores._common._closing import Closing, closed_error
from trio_eventlog.stores._common._conflicts import conflicting_seqs, duplicate_seqs
from trio_eventlog.stores.jetstream._api import TOO_LARGE_BATCH, Refused, Stream, WrongPosition, retrying
from trio_eventlog.stores.jetstream._config import misfit
from trio_eventlog.stores.jetstream._connection import ANSWER_TIMEOUT, decode
from trio_eventlog.stores.jetstream._fence import RETRY_PAUSE, Fence, PendingBatch
from trio_eventlog.stores.jetstream._lock import Lock
from trio_eventlog.stores.jetstream._messages import (
    MAX_BATCH,
    Draft,
    batch_abort,
    batch_end,
    batch_pieces,
    draft,
)
from trio_eventlog.stores.jetstream._reader import Reader
from trio_eventlog.stores.jetstream._subjects import Subjects, seq_of

_logger: Final = logging.getLogger("trio_eventlog")

_BYTES_PER_SECOND: Final = 4 * 1024 * 1024
"""The answer to a batch may take one second longer for each of these."""

_CLOSE_TIMEOUT: Final = 5.0

_MAX_OFFERS: Final = 5
"""How often a batch is sent within one append."""

_MAX_AT_ONCE: Final = 200
"""Events that are prepared and sent in one step of the event loop. Both take some 5 microseconds for each."""

_BYTES_AT_ONCE: Final = 32 * 1024
"""Bytes of events that are prepared without a look at the clock."""

_seq_of_draft: Final = attrgetter("event.seq")

_RAISE_BATCHES: Final = "raise max_msgs in jetstream { limits { batch {} } } of its configuration"


class StreamLimits:
    """What the server and the stream allow now; an operator can change it."""

    def __init__(self, stream: Stream, subjects: Subjects, session: str) -> None:
        self._stream = stream
        self._subjects = subjects
        self._session = session
        self._max_msg_size = -1
        self.max_batch: int = MAX_BATCH
        """Most events of one batch, as the server has it."""

        self.misfit: str | None = None
        """With which settings the stream cannot hold logs now."""

    async def measure_batches(self) -> None:
        """Find out how many messages the server takes in a batch, with one that it takes in none."""
        connection = self._stream.connection
        with connection.expecting() as inbox:
            connection.send([batch_abort(self._subjects, f"{self._session}.0", inbox.reply)])
            message = connection.checked((await inbox.wait(ANSWER_TIMEOUT))[0])
        error = decode(message).get("error") or {}
        if error.get("err_code") != TOO_LARGE_BATCH:
            return
        found = re.search(r"\d+", error.get("description", ""))
        most = int(found.group()) if found else 0
        if most < 2:  # noqa: PLR2004 - an event and the head
            raise StoreUnusable(
                f"{self._stream}: the server takes no batches of more than {most} messages; {_RAISE_BATCHES}"
            )
        self.max_batch = min(most - 1, MAX_BATCH)

    async def look(self) -> None:
        """Look at what an operator may have changed in the stream."""
        info = await self._stream.info()
        if info is None:
            raise StoreError(
                f"{self._stream}: there is no such stream any more; restore it, or open the store anew"
            )
        config = info["config"]
        self._max_msg_size = config.get("max_msg_size", -1)
        self.misfit = misfit(self._stream.name, config)

    async def check(self) -> None:
        """Check whether the stream can hold logs, as far as is known.

        Raises:
          StoreError: it cannot, now.
        """
        if self.misfit is not None:
            await self.look()
        self._refuse_misfit()

    def _refuse_misfit(self) -> None:
        if self.misfit is not None:
            raise StoreError(
                f"{self._stream} was changed and cannot hold logs now: {self.misfit}; change that back"
            )

    async def check_after(self, refusal: Refused) -> None:
        """Find out what the stream takes now that the server has refused a batch.

        Raises:
          StoreError: nothing has changed so that it would be worth another try.
        """
        max_msg_size = self._max_msg_size
        await self.look()
        self._refuse_misfit()
        if refusal.code == TOO_LARGE_BATCH:
            raise StoreError(f"{refusal}; {_RAISE_BATCHES}, or open the store anew") from refusal
        if self._max_msg_size == max_msg_size:
            raise refusal

    def max_message(self) -> tuple[int, str]:
        """How large a message may be, in bytes, and by which setting."""
        most = self._stream.connection.info.max_payload
        if 0 < self._max_msg_size < most:
            return self._max_msg_size, "stream's max_msg_size"
        return most, "server's max_payload"


class Appender:
    """Appends to a log, as the only one."""

    def __init__(self, reader: Reader, lock_seconds: int) -> None:
        # Short, since it is stored with every event, as part of the name of its batch.
        session = new_event_id().replace("-", "")[-12:] + os.urandom(4).hex()
        self._stream = reader.stream
        self._connection = reader.stream.connection
        self._subjects = reader.subjects
        self._session = session
        self._lock_seconds = lock_seconds
        self._lock = Lock(reader.stream, reader.subjects, session, lock_seconds)
        self._fence = Fence(reader, self._lock, session)
        self._limits = StreamLimits(reader.stream, reader.subjects, session)
        self._batches = 0
        self._turn = trio.Lock()
        self._acknowledged_at: float | None = None
        self._is_leaving = False
        self._is_released = False

    def __str__(self) -> str:
        return f"log {self._subjects.log!r} of {self._stream}"

    @property
    def log_id(self) -> str:
        """Tells the log from all others."""
        return self._fence.head.log_id

    @property
    def max_batch(self) -> int:
        """Most events of one batch."""
        return self._limits.max_batch

    # --- its life ---------------------------------------------------------------------------------

    async def acquire(self, deadline: float) -> None:
        """Become the log's appender.

        Raises:
          LogBusy: there is one.
          StoreError: that could not be found out before ``deadline``.
          StoreUnusable: the log is damaged, or of a newer version of this library.
        """
        await retrying(deadline, self._lock.acquire)
        await retrying(deadline, self._fence.put_up)
        await retrying(deadline, self._fence.clear_voids)
        await retrying(deadline, self._limits.measure_batches)
        await retrying(deadline, self._limits.look)

    async def keep(self) -> None:
        """Renew the lock until it is released. For a task of its own."""
        interval = self._lock_seconds / 3
        while not self._is_released:
            await trio.sleep(interval)
            async with self._lock.turn:
                # Whatever is wrong, the next round may find it better, and the next append says it.
                with suppress(StoreError):
                    await self._renew()
            # The lock has to be renewed in time, however long the rest takes.
            with trio.move_on_after(interval), suppress(StoreError, trio.WouldBlock):
                await self._limits.look()
                if await self._fence.went_back():
                    await self._go_on()

    async def _renew(self) -> None:
        if self._is_released:
            return
        position = await self._lock.renew()
        if position is None:
            return
        # It was cut off for so long that the lock has expired. Perhaps nothing has opened the log meanwhile.
        if await self._fence.is_still_ours():
            self._lock.keep(position)
        else:
            await self._stream.delete([position])

    async def _go_on(self) -> None:
        """The store went back: go on from there, so that the log can be read before the next append."""
        # An append that is under way finds out by itself.
        self._turn.acquire_nowait()
        try:
            await self._fence.settle()
            await self._fence.check_head(is_settling=True)
        finally:
            self._turn.release()

    async def release(self) -> None:
        """Let another appender have the log, after what is under way.

        Takes 5 seconds at most, also if cancelled.

        Raises:
          KeyboardInterrupt: one has arrived meanwhile; raised at the end.
        """
        self._is_leaving = True
        closing = Closing(trio.current_time() + _CLOSE_TIMEOUT)
        is_done = await closing.run(partial(self._give_back, closing.deadline))
        self._is_released = True
        if not is_done:
            _logger.warning(
                "%s: closing could not give the lock back because the server does not answer, or will not;"
                " it expires within %d seconds",
                self,
                self._lock_seconds + 1,
            )
        closing.raise_interrupt()

    async def _give_back(self, deadline: float) -> bool:
        if self._fence.is_up:
            async with self._turn:
                with suppress(StoreError):
                    await self._fence.settle()
        async with self._lock.turn:
            self._is_released = True
            with suppress(StoreError):
                await retrying(deadline, self._lock.release)
                return True
        return False

    def _check(self) -> None:
        self._connection.check_open()
        if self._is_leaving:
            # What waits for its turn must neither hold up the lock nor be sent once it is given back.
            raise closed_error(str(self._connection))
        self._fence.check()

    # --- the contract -----------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection  # between taking the turn and giving it back
    async def last_seq(self) -> int:
        """See :meth:`trio_eventlog.abc.EventStore.last_seq`."""
        async with self._turn:
            self._check()
            await self._fence.settle()
            return (await self._fence.check_head(is_settling=True)).last_seq

    async def sync(self, seconds: float) -> None:
        """Wait until the server has synced what was acknowledged; it does so at an interval."""
        await trio.lowlevel.checkpoint()
        self._check()
        if self._acknowledged_at is None or not seconds:
            return
        times_back = self._fence.times_back
        await trio.sleep_until(self._acknowledged_at + seconds)
        # A server that lost power meanwhile has synced nothing.
        await self.last_seq()
        if self._fence.times_back != times_back:
            raise StoreError(f"{self}: the store went back before it had synced")

    @trio.lowlevel.enable_ki_protection  # as above
    async def append(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """See :meth:`trio_eventlog.abc.EventStore.append_batch`; the events are sealed copies.

        Not a checkpoint if there are none, and nothing else to do.
        """
        async with self._turn:
            self._check()
            await self._limits.check()
            await self._fence.settle()
            if not events:
                return ()
            refusal: Refused | None = None
            elsewhere: Collection[int] = ()
            try:
                elsewhere = await self._append(events)
            except Refused as exc:
                refusal = exc
            if refusal is not None:
                await self._limits.check_after(refusal)
                elsewhere = await self._append(events)
            self._acknowledged_at = trio.current_time()
            return elsewhere

    # --- batches ----------------------------------------------------------------------------------

    async def _append(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        self._fence.check_went_back()
        drafts = await self._drafts(events)
        held: dict[str, int] = {}
        max_size, setting = self._limits.max_message()
        if not self._is_simple(drafts.values(), max_size):
            held = await self._held(drafts)
        for attempt in range(_MAX_OFFERS):
            fresh = sorted(
                (item for event_id, item in drafts.items() if event_id not in held), key=_seq_of_draft
            )
            if not fresh:
                break
            if len(fresh) > _MAX_AT_ONCE:
                await trio.lowlevel.checkpoint()
            await self._refuse_taken_seqs(fresh)
            _refuse_large(fresh, max_size, setting)
            if len(fresh) > self.max_batch:
                raise StoreError(
                    f"{self}: a batch has at most {self.max_batch} events, got {len(fresh)}; split it"
                )
            refusal = await self._offer(fresh)
            if refusal is None:
                break
            # Some ids are there already, or another appender is; or the server is not done with what was
            # before.
            await self._fence.check_head()
            self._fence.check_went_back()
            known = await self._held({item.event.id: item for item in fresh})
            if not known and attempt == _MAX_OFFERS - 1:
                raise refusal
            if not known:
                await trio.sleep(RETRY_PAUSE)
            held |= known
        return duplicate_seqs(events, {event_id: item.event.seq for event_id, item in drafts.items()} | held)

    async def _drafts(self, events: Iterable[PersistedEvent]) -> dict[str, Draft]:
        """The first event of each id."""
        drafts: dict[str, Draft] = {}
        time_slice = TimeSlice()
        size = 0
        for event in events:
            if event.id not in drafts:
                drafts[event.id] = item = draft(self._subjects, event)
                size += item.size
            if size >= _BYTES_AT_ONCE:
                await time_slice.checkpoint_if_over()
                size = 0
        return drafts

    def _is_simple(self, drafts: Collection[Draft], max_size: int) -> bool:
        """Whether nothing depends on which of the ids are known, so that the server alone can tell."""
        seqs = {item.event.seq for item in drafts}
        return (
            len(seqs) == len(drafts) <= self.max_batch
            and min(seqs) > self._fence.head.last_seq
            and max(item.size for item in drafts) <= max_size
        )

    async def _held(self, drafts: dict[str, Draft]) -> dict[str, int]:
        """Which of these ids are held, each with its seq."""
        ids = {item.id_filter: event_id for event_id, item in drafts.items()}
        found = await self._stream.lasts(ids)
        return {
            ids[self._subjects.id_filter_of(message.subject)]: seq_of(message.subject) for message in found
        }

    async def _refuse_taken_seqs(self, fresh: Sequence[Draft]) -> None:
        seqs = [item.event.seq for item in fresh]
        taken: list[int] = []
        if low := [seq for seq in dict.fromkeys(seqs) if seq <= self._fence.head.last_seq]:
            found = await self._stream.lasts([self._subjects.seq_filter(seq) for seq in low])
            taken = [seq_of(message.subject) for message in found]
        if conflicts := conflicting_seqs(seqs, taken):
            raise SequenceConflict(conflicts)

    async def _offer(self, fresh: Sequence[Draft]) -> WrongPosition | None:
        """Send a batch, ascending by seq, and wait until it is stored.

        Returns:
          What the server has against it, if that may be a known id.
        """
        old = self._fence.head
        new = old.after_batch(fresh[0].event.seq, fresh[-1].event.seq)
        self._batches += 1
        batch = f"{self._session}.{self._batches}"
        inbox = self._connection.open_inbox()
        try:
            pieces = batch_pieces(fresh, batch)
            pieces.append(
                batch_end(
                    self._subjects,
                    new,
                    after=old.position,
                    batch=batch,
                    number=len(fresh) + 1,
                    reply=inbox.reply,
                )
            )
            self._connection.send(pieces)
        except BaseException:
            self._connection.close_inbox(inbox)
            raise
        timeout = ANSWER_TIMEOUT + sum(item.size for item in fresh) / _BYTES_PER_SECOND
        # From here on, whatever happens, the batch may be stored.
        pending = self._fence.pending = PendingBatch(inbox, new, batch, timeout)
        try:
            await self._fence.conclude(pending)
        except WrongPosition as exc:
            return exc
        return None


def _refuse_large(fresh: Sequence[Draft], max_size: int, setting: str) -> None:
    large = [item.event for item in fresh if item.size > max_size]
    if large:
        raise EventRejected(large, f"larger than the {setting} of {max_size} bytes, headers included")
