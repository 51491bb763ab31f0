"""Appending to one log of a stream: the lock, the fence, and batches whose outcome nobody has heard.

The lock refuses a second appender; it is a message that the server forgets unless it is renewed. Nothing
depends on it but that: an appender that was cut off for long may lose it and not know. What keeps its writes
out is the fence: every batch names the position of the head before it, and whoever opens the log writes a new
head first.

The same fence proves that the store went back to an older state: if a head can be written behind one that is
older than the last known one, that is all there is.

The same fence settles what became of a batch whose answer never came. Write another head behind the last
known one: if that succeeds, the batch will never be stored; if not, the head that is there tells whether it
was.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Final

import attrs
import msgspec
import trio

from trio_eventlog._model._errors import (
    EventRejected,
    LogBusy,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    StoreWentBack,
)
from trio_eventlog._model._events import PersistedEvent, new_event_id
from trio_eventlog.stores._common._batches import Steps
from trio_eventlog.stores.jetstream import _layout as layout
from trio_eventlog.stores.jetstream._layout import MAX_BATCH, Draft, Head
from trio_eventlog.stores.jetstream._link import ANSWER_SECONDS, Denied, Inbox, NoAnswer, decode
from trio_eventlog.stores.jetstream._reader import Reader, another_log
from trio_eventlog.stores.jetstream._stream import TOO_LARGE_BATCH, Refused, WrongPosition, patiently

_logger: Final = logging.getLogger("trio_eventlog")

_BYTES_PER_SECOND: Final = 4 * 1024 * 1024
"""A batch has so much more time for its answer."""

_CLOSE_SECONDS: Final = 5.0
_CLOSE_ATTEMPTS: Final = 3

_ATTEMPTS: Final = 5
"""How often a batch is sent anew within one append."""

_PAUSE: Final = 0.02
"""Seconds before that, where it is the server's inner state that says no."""

_RAISE_BATCHES: Final = "raise max_msgs in jetstream { limits { batch {} } } of its configuration"

_SETTLE_SECONDS: Final = 2.0
"""After which a barrier is sent anew. While a leader is replaced, some go to one that is cut off."""


@attrs.define
class _Pending:
    """A batch that was sent, and whose outcome is not known."""

    inbox: Inbox
    head: Head
    batch: str
    seconds: float
    """How long its answer may take."""
    is_overdue: bool = False


class Appender:
    """Appends to a log, alone."""

    def __init__(self, reader: Reader, lock_seconds: int) -> None:
        self._reader = reader
        self._stream = reader.stream
        self._link = reader.stream.link
        self._subjects = reader.subjects
        self._lock_seconds = lock_seconds
        # Short, since it is stored with every event, as part of the name of its batch.
        self._session = new_event_id().replace("-", "")[-12:] + os.urandom(4).hex()
        self._batches = 0
        self._turn = trio.Lock()
        self._pending: _Pending | None = None
        self._lost: StoreUnusable | None = None
        self._known: Head | None = None
        # The highest seq that was acknowledged, if the store went back and nobody was told yet.
        self._expected_seq: int | None = None
        self._times_back = 0
        self._acknowledged_at: float | None = None
        self._misfit: str | None = None
        self._max_msg_size = -1
        self.max_batch: int = MAX_BATCH
        """Most events of one batch, as the server has it."""
        self._lock_turn = trio.Lock()
        self._lock_position = 0
        self._is_lock_in_doubt = False
        self._is_leaving = False
        self._is_released = False

    def __str__(self) -> str:
        return f"log {self._subjects.log!r} of {self._stream}"

    @property
    def _head(self) -> Head:
        assert self._known is not None
        return self._known

    @property
    def log_id(self) -> str:
        """Tells the log from all others."""
        return self._head.log_id

    # --- the lock ---------------------------------------------------------------------------------

    async def acquire(self, deadline: float) -> None:
        """Become the log's appender.

        Raises:
          LogBusy: there is one.
          StoreError: that could not be found out before ``deadline``.
          StoreUnusable: the log is damaged, or of a newer version of this library.
        """
        await patiently(deadline, self._lock)
        await patiently(deadline, self._take_head)
        await patiently(deadline, self._clear_voids)
        await patiently(deadline, self._measure_batches)
        await patiently(deadline, self._look_at_settings)

    def _lock_body(self) -> bytes:
        return msgspec.json.encode(
            {"session": self._session, "host": socket.gethostname(), "pid": os.getpid()}
        )

    async def _publish_lock(self, after: int, seconds: float = ANSWER_SECONDS) -> int:
        self._is_lock_in_doubt = True
        try:
            position = await self._stream.publish(
                self._subjects.lock,
                self._lock_body(),
                layout.lock_fields(after, self._lock_seconds),
                seconds=seconds,
            )
        except (Refused, Denied, StoreUnusable):
            self._is_lock_in_doubt = False
            raise
        self._is_lock_in_doubt = False
        return position

    async def _lock(self) -> None:
        await trio.lowlevel.checkpoint()
        refusal: WrongPosition | None = None
        try:
            self._lock_position = await self._publish_lock(0)
        except WrongPosition as exc:
            refusal = exc
        if refusal is None:
            return
        position, holder = await self._holder()
        if holder is None:
            # It expired just now.
            raise refusal
        if holder.session != self._session:
            raise LogBusy(
                f"{self} is open for appending already, by process {holder.pid} on {holder.host!r}"
            ) from refusal
        # Of an attempt whose answer was lost.
        self._lock_position = position

    async def _holder(self) -> tuple[int, _Holder | None]:
        found = await self._stream.last(self._subjects.lock)
        if found is None:
            return 0, None
        try:
            return found.position, msgspec.json.decode(found.data, type=_Holder)
        except msgspec.MsgspecError:
            return found.position, _Holder("", "unknown", 0)

    async def _measure_batches(self) -> None:
        """Find out how many messages the server takes in a batch, with one that it takes in none."""
        with self._link.expecting() as inbox:
            probe = layout.batch_abort(self._subjects, f"{self._session}.0")
            self._link.send([attrs.evolve(probe, reply=inbox.reply)])
            message = self._link.answer((await inbox.wait(ANSWER_SECONDS))[0])
        error = decode(message).get("error") or {}
        if error.get("err_code") != TOO_LARGE_BATCH:
            return
        found = re.search(r"\d+", error.get("description", ""))
        most = int(found.group()) if found else 0
        if most < 2:  # noqa: PLR2004 - an event and the head
            raise StoreUnusable(
                f"{self}: the server takes no batches of more than {most} messages; {_RAISE_BATCHES}"
            )
        self.max_batch = min(most - 1, MAX_BATCH)

    async def _look_at_settings(self) -> None:
        """What an operator may have changed in the stream."""
        info = await self._stream.info()
        if info is None:
            raise StoreError(
                f"{self._stream}: there is no such stream any more; restore it, or open the store anew"
            )
        config = info["config"]
        self._max_msg_size = config.get("max_msg_size", -1)
        self._misfit = layout.misfit(self._stream.name, config)

    async def _take_head(self) -> None:
        """Write a head, so that nothing that an earlier appender has sent can be stored any more."""
        old = await self._reader.last_head()
        if old is not None and old.session == self._session:
            # Of an attempt whose answer was lost.
            self._known = old
            return
        if old is None:
            if await self._stream.next(1, self._subjects.all_events) is not None:
                raise StoreUnusable(
                    f"{self} is damaged: it has events, but its head is gone;"
                    " purge its events, or take another log"
                )
            new = Head(
                log=self._subjects.log,
                log_id=new_event_id(),
                last_seq=0,
                session=self._session,
                number=1,
                mixed_through=0,
                mixed_seq=0,
                voids=(),
                opened=1,
                position=0,
            )
        else:
            new = layout.barrier(old, session=self._session, number=1)
            new = attrs.evolve(new, opened=old.opened + 1)
        position = await self._publish_head(new, 0 if old is None else old.position)
        self._adopt(layout.settled(new, position))

    async def _publish_head(self, head: Head, after: int, seconds: float = ANSWER_SECONDS) -> int:
        return await self._stream.publish(
            self._subjects.head, head.encode(), layout.head_fields(after), seconds=seconds
        )

    @trio.lowlevel.enable_ki_protection  # it is for the program, not for this task
    async def keep(self) -> None:
        """Renew the lock until it is released. For a task of its own."""
        await trio.lowlevel.checkpoint()
        while not self._is_released:
            await trio.sleep(self._lock_seconds / 3)
            async with self._lock_turn:
                # Whatever is wrong, the next round may find it better, and the next append says it.
                with suppress(StoreError):
                    await self._renew()
            # The lock is to be renewed in time, whatever the rest takes.
            with trio.move_on_after(self._lock_seconds / 3), suppress(StoreError, trio.WouldBlock):
                await self._look_at_settings()
                await self._look_for_head()

    async def _look_for_head(self) -> None:
        """If the store went back, go on from there, so that the log can be read before the next append."""
        if not self._is_earlier(await self._reader.last_head()):
            return
        # An append that is under way finds out by itself.
        self._turn.acquire_nowait()
        try:
            await self._settle()
            await self._check_head(is_settling=True)
        finally:
            self._turn.release()

    async def _renew(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._is_released:
            return
        seconds = self._lock_seconds / 3
        try:
            self._lock_position = await self._publish_lock(self._lock_position, seconds)
        except WrongPosition:
            position, holder = await self._holder()
            if holder is None:
                # Cut off for so long that it has expired. Nobody may have opened the log meanwhile.
                position = await self._publish_lock(0, seconds)
                head = await self._reader.last_head()
                if not self._is_own(head) and not self._is_earlier(head):
                    self._lost = self._out(head)
                    await self._stream.delete([position])
                    return
                self._lock_position = position
            elif holder.session == self._session:
                self._lock_position = position

    async def release(self) -> None:
        """Let another have the log, after what is under way. Takes 5 seconds at most, whatever cancels it.

        A KeyboardInterrupt that comes meanwhile is raised at the end.
        """
        self._is_leaving = True
        is_done = False
        interrupts: list[KeyboardInterrupt] = []
        deadline = trio.current_time() + _CLOSE_SECONDS
        for _ in range(_CLOSE_ATTEMPTS):
            try:
                with trio.CancelScope(deadline=deadline, shield=True), suppress(StoreError):
                    await self._give_back(deadline)
                    is_done = True
            except KeyboardInterrupt as exc:
                # No shield keeps it out, and whoever opens the log next shall not find it locked.
                interrupts.append(exc)
            else:
                break
        self._is_released = True
        if not is_done:
            _logger.warning(
                "%s: closing could not give the lock back because the server does not answer, or will not;"
                " it expires within %d seconds",
                self,
                self._lock_seconds + 1,
            )
        if interrupts:
            raise interrupts[0]
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _give_back(self, deadline: float) -> None:
        if self._known is not None:
            async with self._turn:
                with suppress(StoreError):
                    await self._settle()
        async with self._lock_turn:
            self._is_released = True
            await patiently(deadline, self._unlock)

    async def _unlock(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._is_lock_in_doubt:
            # What is on its way to the stream can be overtaken by a question, but not by another lock.
            with suppress(WrongPosition):
                await self._publish_lock(self._lock_position)
        position, holder = await self._holder()
        if holder is not None and holder.session == self._session:
            await self._stream.delete([position])

    # --- the head ---------------------------------------------------------------------------------

    def _adopt(self, head: Head) -> None:
        known, self._known = self._known, head
        if known is None or (head.last_seq >= known.last_seq and head.position >= known.position):
            self._reader.saw(head)
            return
        # Also where going back was cancelled before its answer came.
        self._times_back += 1
        self._reader.start_again(head)
        if head.last_seq < known.last_seq:
            self._expected_seq = max(known.last_seq, self._expected_seq or 0)

    def _is_own(self, head: Head | None) -> bool:
        """Whether this appender has written the head, and none after it that is known."""
        return head is not None and head.session == self._session and head.number >= self._head.number

    def _is_earlier(self, head: Head | None) -> bool:
        """Whether the log was like that before this appender has written its last known head."""
        known = self._head
        if head is None:
            return True
        if head.log_id != known.log_id:
            return False
        if head.session == self._session:
            return head.number < known.number
        return head.opened < known.opened and head.position < known.position

    def _out(self, head: Head | None) -> StoreUnusable:
        if head is not None and head.log_id != self._head.log_id:
            return StoreUnusable(f"{self._stream}: {another_log(self._subjects.log)}")
        return LogBusy(f"{self}: another appender has opened it meanwhile; this one is out")

    def _check(self) -> None:
        self._link.check_open()
        if self._is_leaving:
            # What waits for its turn must neither hold up the lock nor be sent once it is given back.
            raise StoreUnusable(f"{self._link}: the store is closed")
        if self._lost is not None:
            # A new one each time: a traceback grows with every raise.
            raise type(self._lost)(*self._lost.args)

    def _lose(self, head: Head | None) -> StoreUnusable:
        self._lost = self._out(head)
        return self._lost

    @trio.lowlevel.enable_ki_protection  # between taking the turn and giving it back
    async def last_seq(self) -> int:
        """See :meth:`trio_eventlog.abc.EventStore.last_seq`."""
        async with self._turn:
            self._check()
            await self._settle()
            return (await self._check_head(is_settling=True)).last_seq

    async def sync(self, seconds: float) -> None:
        """Wait until the server has synced what was acknowledged; it does so at an interval."""
        await trio.lowlevel.checkpoint()
        self._check()
        if self._acknowledged_at is None or not seconds:
            return
        times_back = self._times_back
        await trio.sleep_until(self._acknowledged_at + seconds)
        # A server that lost power meanwhile has synced nothing.
        await self.last_seq()
        if self._times_back != times_back:
            raise StoreError(f"{self}: the store went back before it had synced")

    # --- batches ----------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection  # as above
    async def append(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """See :meth:`trio_eventlog.abc.EventStore.append_batch`; the events are sealed copies."""
        async with self._turn:
            self._check()
            if self._misfit is not None:
                await self._look_at_settings()
            self._refuse_misfit()
            await self._settle()
            if not events:
                return ()
            refusal: Refused | None = None
            elsewhere: Collection[int] = ()
            try:
                elsewhere = await self._append(events)
            except Refused as exc:
                refusal = exc
            if refusal is not None:
                elsewhere = await self._append_again(events, refusal)
            self._acknowledged_at = trio.current_time()
            return elsewhere

    async def _append_again(self, events: Sequence[PersistedEvent], refusal: Refused) -> Collection[int]:
        """If an operator has changed what the stream takes, find out what it takes now."""
        max_msg_size = self._max_msg_size
        await self._look_at_settings()
        self._refuse_misfit()
        if refusal.code == TOO_LARGE_BATCH:
            raise StoreError(f"{refusal}; {_RAISE_BATCHES}, or open the store anew") from refusal
        if self._max_msg_size == max_msg_size:
            raise refusal
        return await self._append(events)

    def _refuse_misfit(self) -> None:
        if self._misfit is not None:
            raise StoreError(
                f"{self._stream} was changed and cannot hold logs now: {self._misfit}; change that back"
            )

    def _tell_if_back(self) -> None:
        expected, self._expected_seq = self._expected_seq, None
        if expected is not None:
            raise StoreWentBack(self._head.last_seq, expected)

    def _most_bytes(self) -> tuple[int, str]:
        """How large a message may be, and by which setting."""
        most = self._link.info.max_payload
        if 0 < self._max_msg_size < most:
            return self._max_msg_size, "stream's max_msg_size"
        return most, "server's max_payload"

    async def _append(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        self._tell_if_back()
        drafts = await self._drafts(events)
        held: dict[str, int] = {}
        most, which = self._most_bytes()
        if not self._is_simple(drafts.values(), most):
            held = await self._held(drafts)
        for attempt in range(_ATTEMPTS):
            fresh = sorted(
                (item for event_id, item in drafts.items() if event_id not in held), key=_seq_of_draft
            )
            if not fresh:
                break
            await self._refuse_taken_seqs(fresh)
            _refuse_large(fresh, most, which)
            if len(fresh) > self.max_batch:
                raise StoreError(
                    f"{self}: a batch has at most {self.max_batch} events, got {len(fresh)}; split it"
                )
            refusal = await self._offer(fresh)
            if refusal is None:
                break
            # Some ids are there already, or another appender is; or the server is not done with what was
            # before.
            await self._check_head()
            self._tell_if_back()
            known = await self._held({item.event.id: item for item in fresh})
            if not known and attempt == _ATTEMPTS - 1:
                raise refusal
            if not known:
                await trio.sleep(_PAUSE)
            held |= known
        elsewhere: list[int] = []
        for event in events:
            seq = held.get(event.id)
            if (drafts[event.id].event.seq if seq is None else seq) != event.seq:
                elsewhere.append(event.seq)
        return tuple(elsewhere)

    async def _offer(self, fresh: Sequence[Draft]) -> WrongPosition | None:
        """Send a batch, and return what the server has against it, as long as that may be a known id."""
        await trio.lowlevel.checkpoint()
        try:
            await self._send(fresh)
        except WrongPosition as exc:
            return exc
        return None

    async def _drafts(self, events: Iterable[PersistedEvent]) -> dict[str, Draft]:
        """The first event of each id."""
        drafts: dict[str, Draft] = {}
        steps = Steps()
        for event in events:
            if steps.is_over():
                await steps.rest()
            if event.id not in drafts:
                drafts[event.id] = layout.draft(self._subjects, event)
        await trio.lowlevel.checkpoint()
        return drafts

    def _is_simple(self, drafts: Collection[Draft], most: int) -> bool:
        """Whether nothing depends on which of the ids are known, so that the server alone can tell."""
        last_seq = self._head.last_seq
        seqs = {item.event.seq for item in drafts}
        return (
            len(seqs) == len(drafts) <= self.max_batch
            and min(seqs) > last_seq
            and max(item.size for item in drafts) <= most
        )

    async def _held(self, drafts: dict[str, Draft]) -> dict[str, int]:
        """Which of these ids are held, each with its seq."""
        ids = {item.claim: event_id for event_id, item in drafts.items()}
        found = await self._stream.lasts(ids)
        return {
            ids[self._subjects.claim_of(message.subject)]: layout.seq_of(message.subject) for message in found
        }

    async def _refuse_taken_seqs(self, fresh: Sequence[Draft]) -> None:
        counts = Counter(item.event.seq for item in fresh)
        taken = {seq for seq, times in counts.items() if times > 1}
        low = [seq for seq in counts if seq <= self._head.last_seq]
        if low:
            found = await self._stream.lasts([self._subjects.of_seq(seq) for seq in low])
            taken.update(layout.seq_of(message.subject) for message in found)
        await trio.lowlevel.checkpoint()
        if taken:
            raise SequenceConflict(sorted(taken))

    async def _send(self, fresh: Sequence[Draft]) -> None:
        """Send a batch, ascending by seq, and wait until it is stored."""
        old = self._head
        lowest, highest = fresh[0].event.seq, fresh[-1].event.seq
        is_mixed = lowest <= old.last_seq
        last_seq = max(old.last_seq, highest)
        new = attrs.evolve(
            old,
            last_seq=last_seq,
            number=old.number + 1,
            mixed_through=layout.HERE if is_mixed else old.mixed_through,
            mixed_seq=last_seq if is_mixed else old.mixed_seq,
            first_seq=old.first_seq or (0 if old.last_seq else lowest),
        )
        self._batches += 1
        batch = f"{self._session}.{self._batches}"
        inbox = self._link.open_inbox()
        try:
            pieces = [layout.batch_piece(item, batch, number) for number, item in enumerate(fresh, start=1)]
            pieces.append(
                layout.batch_end(
                    self._subjects,
                    new,
                    after=old.position,
                    batch=batch,
                    number=len(fresh) + 1,
                    reply=inbox.reply,
                )
            )
            self._link.send(pieces)
        except BaseException:
            self._link.close_inbox(inbox)
            raise
        seconds = ANSWER_SECONDS + sum(item.size for item in fresh) / _BYTES_PER_SECOND
        # From here on, whatever happens, the batch may be stored.
        pending = self._pending = _Pending(inbox, new, batch, seconds)
        await self._conclude(pending)

    async def _conclude(self, pending: _Pending) -> None:
        """Wait for the answer to a batch.

        Raises:
          WrongPosition: it was not stored.
          StoreError: it was not stored, or nobody knows: see ``_pending``.
        """
        try:
            message = (await pending.inbox.wait(pending.seconds))[0]
        except StoreError:
            pending.is_overdue = True
            raise
        # Until it is known better.
        pending.is_overdue = True
        refusal: Refused | None = None
        position = 0
        try:
            position = self._stream.acknowledged(self._link.answer(message))
        except WrongPosition:
            self._forget(pending)
            raise
        except Refused as exc:
            refusal = exc
        if refusal is not None:
            # The leader says that it has not stored the batch. Has it stored no part of it either?
            if await self._stream.next(self._head.position + 1, self._subjects.all_events) is None:
                self._forget(pending)
            raise refusal
        self._forget(pending)
        self._adopt(layout.settled(pending.head, position))

    def _forget(self, pending: _Pending) -> None:
        self._link.close_inbox(pending.inbox)
        self._pending = None

    async def _settle(self) -> None:
        """Find out what became of a batch whose outcome is not known, or see to it that it is not stored.

        Raises:
          StoreError: that cannot be done now.
          LogBusy: another appender has opened the log.
        """
        await trio.lowlevel.checkpoint()
        pending = self._pending
        if pending is None:
            await self._clear_voids()
            return
        if not pending.is_overdue and not pending.inbox.is_lost:
            try:
                await self._conclude(pending)
            except StoreError:
                # If that is no answer, then by another way.
                if self._pending is not None:
                    self._link.check()
            if self._pending is None:
                return
        # If it came to the server in part, it waits there for the rest, and takes one of 50 places.
        with suppress(StoreError):
            self._link.send([layout.batch_abort(self._subjects, pending.batch)])
        deadline = trio.current_time() + ANSWER_SECONDS
        reason: StoreError | None = None
        while True:
            try:
                if await self._put_barrier():
                    break
            except NoAnswer as exc:
                reason = exc
            if trio.current_time() >= deadline:
                raise StoreError(f"{self}: the server does not say what became of a batch") from reason
            await trio.sleep(_PAUSE)
        self._forget(pending)
        await self._clear_voids()

    async def _clear_voids(self) -> None:
        """Remove what does not count. Until then its ids and seqs could not be stored."""
        await trio.lowlevel.checkpoint()
        for first, last in self._head.voids:
            found = await self._stream.next(first, self._subjects.all_events)
            while found is not None and found.position <= last:
                await self._stream.delete([found.position])
                found = await self._stream.next(found.position + 1, self._subjects.all_events)
        # The next head says no more of them.
        self._known = attrs.evolve(self._head, voids=())

    async def _put_barrier(self) -> bool:
        """Write a head in place of the batch's. Returns whether it is known now what became of the batch."""
        barrier = layout.barrier(self._head, session=self._session, number=self._next_number())
        try:
            position = await self._publish_head(barrier, self._head.position, _SETTLE_SECONDS)
        except WrongPosition:
            head = await self._check_head(is_settling=True)
            if head.position == self._head.position:
                # The server is not done with the batch.
                return False
            self._adopt(head)
        else:
            self._adopt(layout.settled(barrier, position))
        return True

    async def _check_head(self, *, is_settling: bool = False) -> Head:
        """The head as it is on the server, which must be the one that this appender has written last.

        If the store went back, one that goes on from there.
        """
        head = await self._reader.last_head()
        if self._is_earlier(head):
            return await self._go_back(head)
        if head is None or not self._is_own(head):
            raise self._lose(head)
        if not is_settling and head.position != self._head.position:
            # Of a batch of this appender, which was stored although the server had said that it was not.
            self._adopt(head)
            raise StoreError(f"{self}: the server had stored what it said that it had not; try again")
        return head

    def _next_number(self) -> int:
        return 1 + max(self._head.number, 0 if self._pending is None else self._pending.head.number)

    async def _go_back(self, found: Head | None) -> Head:
        """Go on from an earlier state of the log, if that is what the store has now.

        Raises:
          StoreError: that is not so, or another appender of that time has the lock yet.
        """
        known = self._head
        if found is None:
            last_seq = await self._last_seq_without_head()
            base = attrs.evolve(known, last_seq=last_seq, position=0)
            if not last_seq:
                base = attrs.evolve(base, mixed_through=0, mixed_seq=0, voids=())
            # Events behind the last known head are those of a batch that was not acknowledged.
            first_void = known.position + 1 if last_seq else 1
            new = attrs.evolve(
                base, number=self._next_number(), voids=(*base.voids, (first_void, layout.HERE))
            )
        else:
            base = found
            new = layout.barrier(found, session=self._session, number=self._next_number())
            new = attrs.evolve(new, opened=known.opened)
        async with self._lock_turn:
            position, holder = await self._holder()
            if holder is None:
                position = await self._publish_lock(0)
            elif holder.session != self._session:
                raise StoreError(
                    f"{self}: the store went back, to when process {holder.pid} on {holder.host!r} had it"
                    " open; that lock will expire"
                )
            self._lock_position = position
        # Only the leader of all replicas can do this, and only if there is no later head.
        position = await self._publish_head(new, base.position)
        self._adopt(layout.settled(new, position))
        await self._clear_voids()
        return self._head

    async def _last_seq_without_head(self) -> int:
        """The last seq of a log whose head is gone, 0 if all its events are, too."""
        last = await self._stream.last(self._subjects.all_events)
        if last is None:
            return 0
        if last.position > self._head.position:
            # Not acknowledged, or of another stream than the one that was opened.
            before = await self._stream.next(1, self._subjects.all_events)
            return self._head.last_seq if before is not None and before.position <= self._head.position else 0
        return min(layout.seq_of(last.subject), self._head.last_seq)


class _Holder(msgspec.Struct):
    """Who has the lock."""

    session: str
    host: str
    pid: int


def _seq_of_draft(item: Draft) -> int:
    return item.event.seq


def _refuse_large(fresh: Sequence[Draft], most: int, which: str) -> None:
    large = [item.event for item in fresh if item.size > most]
    if large:
        raise EventRejected(large, f"larger than the {which} of {most} bytes, headers included")
