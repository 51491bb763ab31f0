"""Recording checkpoints of a log that lives. Trio.

The recorder is a reader of the log like any other, so it holds up nobody: it follows by cursor, from memory
as long as it keeps up and from the store otherwise. What it has hashed and not yet sealed is not kept over a
restart; it is read again.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import attrs
import trio

from trio_eventlog import (
    CodecError,
    EventLog,
    EventsPruned,
    PersistedEvent,
    RetryPolicy,
    StoreError,
    StoreUnusable,
    Subscription,
)
from trio_eventlog.audit._arguments import checked_events, checked_seconds
from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._keys import Signer
from trio_eventlog.audit._work import CheckpointRecorder, Work, logger, opened_work

Anchor: TypeAlias = Callable[[str], Awaitable[object]]
"""Called with each note, once it is in the file; see :func:`record_checkpoints`."""

_RETRY: Final = RetryPolicy(initial=0.5, maximum=30.0)


@attrs.frozen
class _Settings:
    every_events: int
    every_seconds: float
    anchor: Anchor | None


class _Follower:
    """Follows a log, and seals what it has read."""

    def __init__(self, work: Work, settings: _Settings, events: Subscription) -> None:
        self._work = work
        self._settings = settings
        self._events = events
        self._deadline = math.inf
        self._failures = 0
        self._store_failures = 0
        self._read: Sequence[PersistedEvent] = ()
        self._ended_by: StoreError | CodecError | None = None
        # An earlier run may have ended before the last note reached its anchor.
        self._unanchored = None if work.record is None else work.record.note

    async def run(self) -> None:
        """Go on until the log is closed, or cannot be read any more. To be cancelled at any time.

        Raises:
          Exception: what the anchor raises.
        """
        await self.hand_over()
        while True:  # noqa: ASYNC913 - every step is a checkpoint: a page, or a seal
            is_over = False
            with trio.move_on_at(self._deadline) as scope:  # noqa: ASYNC912 - reading a page is one
                try:
                    self._read = await self._next_page()
                    is_over = not self._read
                except (StoreUnusable, CodecError) as exc:
                    # As with the log itself, that is no reason to end the program.
                    self._end(exc)
                    return
            if scope.cancelled_caught:
                await self._seal()
            await self._take()
            if is_over or self._ended_by is not None:
                return

    async def finish(self) -> None:
        """Seal everything that is durable now. To be called once, after :meth:`run`.

        Raises:
          AuditError: the last checkpoint could not be written.
          StoreError, CodecError: the log cannot be read any more.
        """
        if self._ended_by is None:
            self._work.add(self._read)
            while not self._events.is_caught_up and (page := await self._next_page()):
                self._work.add(page)
        if self._work.sealer.unsealed:
            self._unanchored = (await self._work.seal()).note
        if self._ended_by is not None:
            raise self._ended_by

    async def hand_over(self) -> None:
        """Call the anchor with the last note, if it was not yet."""
        note = self._unanchored
        if note is not None and self._settings.anchor is not None:
            await self._settings.anchor(note)
        # Only now: one that was cancelled, or failed, is handed over again.
        self._unanchored = None

    def _end(self, error: StoreError | CodecError) -> None:
        self._ended_by = error
        logger.error("there will be no more checkpoints, since the log cannot be read: %s", error)

    async def _next_page(self) -> list[PersistedEvent]:
        """The next events; none once the log is closed."""
        while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
            try:
                page: list[PersistedEvent] = await anext(self._events.pages(), [])
            except EventsPruned as exc:
                # They can be in no tree any more. That their seqs are missing will be seen.
                logger.warning("no checkpoint covers some events: %s", exc)
            except StoreUnusable:
                raise
            except StoreError as exc:
                self._store_failures += 1
                if self._store_failures == 1:
                    logger.warning("checkpoints wait for the store, which failed: %s", exc)
                await trio.sleep(_RETRY.delay(self._store_failures))
            else:
                self._store_failures = 0
                return page

    async def _take(self) -> None:
        # What is read is not read again: it is kept here until it is in the tree, also when cancelled.
        while self._read:
            try:
                self._read = self._work.take(self._read, self._settings.every_events)
            except CodecError as exc:
                self._end(exc)
                return
            if self._deadline == math.inf:
                self._deadline = trio.current_time() + self._settings.every_seconds
            # After a failure, the deadline says when to try again.
            if self._work.sealer.unsealed >= self._settings.every_events and not self._failures:
                await self._seal()

    async def _seal(self) -> None:
        try:
            record = await self._work.seal()
        except AuditError as exc:
            self._failures += 1
            if self._failures == 1:
                logger.error("a checkpoint cannot be written, and is tried again: %s", exc)
            self._deadline = trio.current_time() + _RETRY.delay(self._failures)
            return
        self._failures = 0
        self._deadline = math.inf
        self._unanchored = record.note
        await self.hand_over()


@asynccontextmanager
async def record_checkpoints(
    log: EventLog,
    signer: Signer,
    path: str | os.PathLike[str] | None = None,
    *,
    every_events: int = 1000,
    every_seconds: float = 60.0,
    anchor: Anchor | None = None,
    origin: str | None = None,
    grace_period: float = 5.0,
) -> AsyncIterator[CheckpointRecorder]:
    """Record signed checkpoints of a log, for the length of an ``async with`` block.

    ::

        async with open_event_log(store) as log:
            async with record_checkpoints(log, Signer.load("audit.key"), "audit.checkpoints"):
                await main(log)

    Follows the log as a subscriber does, so it holds up neither ``ingest`` nor an append. A checkpoint covers
    events that are durable, all of them up to a seq. It is made after ``every_events`` events, or
    ``every_seconds`` after the first event that none covers yet, whichever comes first. A run goes on where
    the file ends, and first seals what was stored since.

    Leaving the block seals everything that is durable by then, also if it is left by an error or cancelled.
    To have the last events sealed, call ``await log.flush()`` in the block. What the log stores later, as it
    closes, is sealed by the next run, or by :func:`seal`.

    If a checkpoint cannot be written, or the store cannot be read, that is tried again, and the logger
    ``trio_eventlog`` is told once. Only on leaving is it an error. Entering and leaving are checkpoints of
    Trio. What the block raises comes out as it is, unless ``anchor`` fails at the same time.

    Args:
      log: the open log.
      signer: the keys.
      path: the file that checkpoints are appended to, each of them synced; created if it does not exist. One
        recorder at a time for each file. None to only call ``anchor``: then each run begins with the first
        event of the log.
      every_events: 1 or more.
      every_seconds: more than 0; ``math.inf`` for no bound.
      anchor: an async function that is called with each note, after it was written, to leave a copy where the
        owner of the log cannot change it. The next checkpoint waits for it. A run begins with the last note
        of the file, which an earlier run may not have handed over. If the block is left meanwhile, it is
        cancelled; and unless the block failed, called again with the last note. What it raises ends the
        block: let it catch, and try again, what may pass.
      origin: the id of the log in the notes, without white space and plus signs; by default the ``log_id`` of
        its store.
      grace_period: seconds that sealing, and ``anchor`` after it, may take when the block is left, 0 or more.

    Raises:
      TypeError, ValueError: an argument is not as described, or the store has no id and ``origin`` is None.
      AuditError: on entering, the file is in use, does not end in a checkpoint of this log and key, or the
        log no longer has the event that was sealed last. On leaving, if the block succeeded, the last
        checkpoint could not be written, or not within ``grace_period``, or ``anchor`` took longer.
      StoreError: the store failed on entering; or on leaving, if the block succeeded, it has become unusable.
      CodecError: on leaving, if the block succeeded: the store is damaged, a payload is no JSON.
      Exception: what ``anchor`` raises.
    """
    settings = _Settings(
        checked_events("every_events", every_events),
        checked_seconds("every_seconds", every_seconds, above=True),
        anchor,
    )
    checked_seconds("grace_period", grace_period)
    if anchor is not None and not callable(anchor):
        raise TypeError(f"anchor: expected an async function, got {type(anchor).__name__}")
    if path is None and anchor is None:
        raise ValueError("path: expected a file, or an anchor instead")
    async with opened_work(log.store, signer, path, origin) as work:
        after = 0 if work.record is None else work.record.last_seq
        async with log.subscribe(after_seq=after) as events:
            follower = _Follower(work, settings, events)
            async with _following(follower, grace_period):
                yield CheckpointRecorder(work)


@asynccontextmanager
async def _following(follower: _Follower, grace_period: float) -> AsyncIterator[None]:
    body_error: BaseException | None = None
    outer_error: BaseException | None = None
    anchor_error: Exception | None = None

    async def follow(scope: trio.CancelScope) -> None:
        nonlocal anchor_error
        try:
            await follower.run()
        except Exception as exc:  # noqa: BLE001 - raised below, without the group of the nursery
            anchor_error = exc
            scope.cancel(reason="the anchor of checkpoints failed")

    try:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, nursery.cancel_scope)
                try:
                    yield
                except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, outside of the nursery
                    body_error = exc
                nursery.cancel_scope.cancel(reason="the block of record_checkpoints was left")
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, once all is sealed
            # Cancelled from outside, or Ctrl-C.
            outer_error = exc
        errors = (body_error, anchor_error, outer_error)
        await _finish(follower, grace_period, has_failed=any(error is not None for error in errors))
        _raise(body_error, anchor_error, outer_error)
    finally:
        # A local variable that holds an exception whose traceback holds this frame is a cycle.
        del body_error, anchor_error, outer_error


def _raise(
    body_error: BaseException | None, anchor_error: Exception | None, outer_error: BaseException | None
) -> None:
    """Raise what went wrong, the error of the block as it is if there is no other."""
    others = [error for error in (anchor_error, _without_cancelled(outer_error)) if error is not None]
    if not others:
        error = body_error or outer_error
        if error is not None:
            raise error
        return
    # The block was cancelled for them.
    rest = _without_cancelled(body_error)
    if rest is not None:
        others.insert(0, rest)
    if len(others) > 1:
        raise BaseExceptionGroup("the block and the recorder of its checkpoints failed", others)
    raise others[0]


def _without_cancelled(error: BaseException | None) -> BaseException | None:
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return error


async def _finish(follower: _Follower, grace_period: float, *, has_failed: bool) -> None:
    unfinished = "the last checkpoint was not made"
    with trio.move_on_after(grace_period, shield=True) as scope:  # noqa: ASYNC912 - if there is work
        try:
            await follower.finish()
        except (AuditError, StoreError, CodecError) as exc:
            if not has_failed:
                raise
            logger.error("the last checkpoint could not be made: %s", exc)
            return
        unfinished = "the anchor did not take the last note"
        if not has_failed:
            # It is code of the caller, who may cancel it as ever.
            scope.shield = False
            await follower.hand_over()
    if scope.cancelled_caught:
        message = f"{unfinished} within {grace_period:g} seconds"
        if not has_failed:
            raise AuditError(message)
        logger.error("%s", message)
