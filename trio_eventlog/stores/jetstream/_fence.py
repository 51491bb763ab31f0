"""The fence of an appender: every batch names the position of the head before it.

An appender that opens the log writes a new head first, so that nothing that an earlier one has sent can be
stored afterwards. The same fence settles what became of a batch whose answer never came. Write another head
behind the last known one: if that succeeds, the batch will never be stored; if not, the head that is there
tells whether it was. And it proves that the store went back to an earlier state: if a head can be written
behind one that is older than the last known one, that is all there is.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import attrs
import trio

from trio_eventlog._model._errors import LogBusy, StoreError, StoreUnusable, StoreWentBack
from trio_eventlog._model._events import new_event_id
from trio_eventlog.stores.jetstream._api import Refused, WrongPosition
from trio_eventlog.stores.jetstream._connection import ANSWER_TIMEOUT
from trio_eventlog.stores.jetstream._head import HERE, Head, first_head
from trio_eventlog.stores.jetstream._inbox import Inbox, NoAnswer
from trio_eventlog.stores.jetstream._lock import Lock
from trio_eventlog.stores.jetstream._messages import batch_abort, head_fields
from trio_eventlog.stores.jetstream._reader import Reader, another_log
from trio_eventlog.stores.jetstream._subjects import seq_of

RETRY_PAUSE: Final = 0.02
"""Seconds until something is sent again that the server refuses because of its inner state."""

_BARRIER_TIMEOUT: Final = 2.0
"""Seconds after which a barrier is sent again. While a leader is replaced, some reach one that is cut off."""


@attrs.define
class PendingBatch:
    """A batch that was sent, and whose outcome is not known."""

    inbox: Inbox
    head: Head
    """The one that ends it."""
    name: str
    timeout: float
    """How long its answer may take, in seconds."""
    is_overdue: bool = False


class Fence:
    """Knows the last head, and what is true about the batch behind it."""

    def __init__(self, reader: Reader, lock: Lock, session: str) -> None:
        self._reader = reader
        self._stream = reader.stream
        self._connection = reader.stream.connection
        self._subjects = reader.subjects
        self._lock = lock
        self._session = session
        self._known: Head | None = None
        self._lost: StoreUnusable | None = None
        self.pending: PendingBatch | None = None
        self._expected_seq: int | None = None
        """The highest seq that was acknowledged, if the store went back and no append has said so yet."""

        self.times_back: int = 0
        """How often the store went back."""

    def __str__(self) -> str:
        return f"log {self._subjects.log!r} of {self._stream}"

    @property
    def is_up(self) -> bool:
        """Whether there is a known head."""
        return self._known is not None

    @property
    def head(self) -> Head:
        """The last known head."""
        assert self._known is not None
        return self._known

    # --- what is known ----------------------------------------------------------------------------

    def check(self) -> None:
        """Check that no other appender has opened the log.

        Raises:
          LogBusy: one has.
          StoreUnusable: another log is in the place of this one.
        """
        if self._lost is not None:
            # A new one each time: a traceback grows with every raise.
            raise type(self._lost)(*self._lost.args)

    def check_went_back(self) -> None:
        """Say once that the store has less than was acknowledged.

        Raises:
          StoreWentBack: so it is.
        """
        expected, self._expected_seq = self._expected_seq, None
        if expected is not None:
            raise StoreWentBack(self.head.last_seq, expected)

    def lose(self, found: Head | None) -> StoreUnusable:
        """Another appender has written this head: the log is lost for this one."""
        if found is not None and found.log_id != self.head.log_id:
            self._lost = StoreUnusable(f"{self._stream}: {another_log(self._subjects.log)}")
        else:
            self._lost = LogBusy(f"{self}: another appender has opened it meanwhile; this one is out")
        return self._lost

    def adopt(self, head: Head) -> None:
        """This is the last head now."""
        known, self._known = self._known, head
        if known is None or (head.last_seq >= known.last_seq and head.position >= known.position):
            self._reader.saw(head)
            return
        # Also where going back was cancelled before its answer came.
        self.times_back += 1
        self._reader.start_again(head)
        if head.last_seq < known.last_seq:
            self._expected_seq = max(known.last_seq, self._expected_seq or 0)

    def _next_number(self) -> int:
        return 1 + max(self.head.number, 0 if self.pending is None else self.pending.head.number)

    async def _publish(self, head: Head, after: int, seconds: float = ANSWER_TIMEOUT) -> int:
        return await self._stream.publish(
            self._subjects.head, head.encode(), head_fields(after), seconds=seconds
        )

    # --- opening ----------------------------------------------------------------------------------

    async def put_up(self) -> None:
        """Write a head, so that nothing that an earlier appender has sent can be stored any more.

        Raises:
          StoreUnusable: the log is damaged.
        """
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
            new = first_head(self._subjects.log, new_event_id(), self._session)
        else:
            new = attrs.evolve(old.barrier(session=self._session, number=1), opened=old.opened + 1)
        position = await self._publish(new, 0 if old is None else old.position)
        self.adopt(new.settled(position))

    async def clear_voids(self) -> None:
        """Delete what does not count. Until then, its ids and seqs could not be stored."""
        for first, last in self.head.voids:
            found = await self._stream.next(first, self._subjects.all_events)
            while found is not None and found.position <= last:
                await self._stream.delete([found.position])
                found = await self._stream.next(found.position + 1, self._subjects.all_events)
        if self.head.voids:
            # The next head does not mention them any more.
            self._known = attrs.evolve(self.head, voids=())

    # --- a batch ----------------------------------------------------------------------------------

    async def conclude(self, pending: PendingBatch) -> None:
        """Wait for the answer to a batch.

        Raises:
          WrongPosition: it was not stored.
          StoreError: it was not stored, or that is not known; see :attr:`pending`.
        """
        try:
            message = (await pending.inbox.wait(pending.timeout))[0]
        except StoreError:
            pending.is_overdue = True
            raise
        # Until it is known better.
        pending.is_overdue = True
        position, refusal = 0, None
        try:
            position = self._stream.acknowledged(self._connection.checked(message))
        except WrongPosition:
            self._forget(pending)
            raise
        except Refused as exc:
            refusal = exc
        if refusal is not None:
            # The leader says that it has not stored the batch. Has it stored no part of it either?
            if await self._stream.next(self.head.position + 1, self._subjects.all_events) is None:
                self._forget(pending)
            raise refusal
        self._forget(pending)
        self.adopt(pending.head.settled(position))

    def _forget(self, pending: PendingBatch) -> None:
        self._connection.close_inbox(pending.inbox)
        self.pending = None

    async def settle(self) -> None:
        """Find out what became of a batch whose outcome is not known, or make sure that it is not stored.

        Not a checkpoint if there is none.

        Raises:
          StoreError: that cannot be done now.
          LogBusy: another appender has opened the log.
        """
        pending = self.pending
        if pending is None:
            await self.clear_voids()
            return
        if not pending.is_overdue and not pending.inbox.is_lost:
            try:
                await self.conclude(pending)
            except StoreError:
                # If that is no answer, then another way.
                if self.pending is not None:
                    self._connection.check_connected()
            if self.pending is None:
                return
        # If it came to the server in part, it waits there for the rest, and takes one of 50 places.
        with suppress(StoreError):
            self._connection.send([batch_abort(self._subjects, pending.name)])
        deadline = trio.current_time() + ANSWER_TIMEOUT
        reason: StoreError | None = None
        while True:
            try:
                if await self._put_barrier():
                    break
            except NoAnswer as exc:
                reason = exc
            if trio.current_time() >= deadline:
                raise StoreError(f"{self}: the server does not say what became of a batch") from reason
            await trio.sleep(RETRY_PAUSE)
        self._forget(pending)
        await self.clear_voids()

    async def _put_barrier(self) -> bool:
        """Write a head in place of the batch's. Returns whether it is known now what became of the batch."""
        barrier = self.head.barrier(session=self._session, number=self._next_number())
        try:
            position = await self._publish(barrier, self.head.position, _BARRIER_TIMEOUT)
        except WrongPosition:
            head = await self.check_head(is_settling=True)
            if head.position == self.head.position:
                # The server is not done with the batch.
                return False
            self.adopt(head)
        else:
            self.adopt(barrier.settled(position))
        return True

    # --- the head on the server -------------------------------------------------------------------

    async def check_head(self, *, is_settling: bool = False) -> Head:
        """The head as it is on the server, which must be the one that this appender has written last.

        If the store went back, one that goes on from there.

        Raises:
          LogBusy, StoreUnusable: as :meth:`check`.
          StoreError: the server cannot be asked, or has stored a batch that it had refused.
        """
        head = await self._reader.last_head()
        if self.head.is_preceded_by(head):
            return await self._go_back(head)
        if head is None or not self.head.is_own(head):
            raise self.lose(head)
        if not is_settling and head.position != self.head.position:
            # Of a batch of this appender, which was stored although the server had said that it was not.
            self.adopt(head)
            raise StoreError(f"{self}: the server had stored what it said that it had not; try again")
        return head

    async def is_still_ours(self) -> bool:
        """Whether no other appender has opened the log, as far as the server says."""
        head = await self._reader.last_head()
        if self.head.is_own(head) or self.head.is_preceded_by(head):
            return True
        self.lose(head)
        return False

    async def went_back(self) -> bool:
        """Whether the log is as it was before the last known head was written."""
        return self.head.is_preceded_by(await self._reader.last_head())

    async def _go_back(self, found: Head | None) -> Head:
        """Go on from an earlier state of the log, if that is what the store has now.

        Raises:
          StoreError: it is not, or another appender of that time still has the lock.
        """
        known = self.head
        if found is None:
            last_seq = await self._last_seq_without_head()
            base = attrs.evolve(known, last_seq=last_seq, position=0)
            if not last_seq:
                base = attrs.evolve(base, mixed_through=0, mixed_seq=0, voids=())
            # Events behind the last known head are those of a batch that was not acknowledged.
            first_void = known.position + 1 if last_seq else 1
            new = attrs.evolve(base, number=self._next_number(), voids=(*base.voids, (first_void, HERE)))
        else:
            base = found
            new = found.barrier(session=self._session, number=self._next_number())
            new = attrs.evolve(new, opened=known.opened)
        await self._lock.take_again()
        # Only the leader of all replicas can do this, and only if there is no later head.
        position = await self._publish(new, base.position)
        self.adopt(new.settled(position))
        await self.clear_voids()
        return self.head

    async def _last_seq_without_head(self) -> int:
        """The last seq of a log whose head is gone, 0 if all its events are, too."""
        last = await self._stream.last(self._subjects.all_events)
        if last is None:
            return 0
        if last.position > self.head.position:
            # Not acknowledged, or of another stream than the one that was opened.
            before = await self._stream.next(1, self._subjects.all_events)
            return self.head.last_seq if before is not None and before.position <= self.head.position else 0
        return min(seq_of(last.subject), self.head.last_seq)
