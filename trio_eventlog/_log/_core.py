"""The parts of a log, put together. Floor 4: Trio."""

from __future__ import annotations

from typing import Final

import trio

from trio_eventlog._declared import max_batch_of, sync_of
from trio_eventlog._engine._losses import LossAccount
from trio_eventlog._engine._retry_buffer import RetryBuffer
from trio_eventlog._engine._scheduler import Scheduler
from trio_eventlog._log._backlog import Backlog, FlushTimer
from trio_eventlog._log._outcome import Outcome, Tasks
from trio_eventlog._log._reporter import Reporter
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._spill_file import SpillFile
from trio_eventlog._log._spill_queue import SpillQueue
from trio_eventlog._log._spiller import Spiller, Syncer
from trio_eventlog._log._writer import BatchSender, Publisher, Writer
from trio_eventlog._model._errors import LossReason
from trio_eventlog._own_work import OwnWork
from trio_eventlog._reading._subscription import Feed
from trio_eventlog.abc import EventStore

_HEAVY_SHARE: Final = 8
"""A share of ``max_pending_bytes`` as large as this is due at once, as ``batch_size`` events are. Otherwise
events could reach the limit beside a healthy store."""


class Core:
    """What an :class:`EventLog` is made of, from being opened to being closed.

    ``last_seq`` is the seq after which the numbers of this run begin, ``log`` what log records name as their
    source.
    """

    def __init__(
        self, store: EventStore, settings: Settings, last_seq: int, spill_file: SpillFile | None, log: object
    ) -> None:
        recovered = 0 if spill_file is None else spill_file.recovered
        buffer = RetryBuffer(
            settings.retry_buffer_cap,
            max_bytes=settings.max_pending_bytes,
            first_seq=last_seq + 1,
            spilled=recovered,
        )
        scheduler = Scheduler(
            batch_size=settings.batch_size, flush_interval=settings.flush_interval, retry=settings.retry
        )
        self.feed: Final = Feed(store, last_seq)
        self.own_work: Final = OwnWork()
        self.outcome: Final = Outcome()
        self.tasks: Final = Tasks(self.outcome, self._stop, self._give_up, self._finish)
        self.is_done = False
        """Whether nothing more will be stored."""
        self.publisher: Final = Publisher(self.feed, last_seq)
        self.reporter: Final = Reporter(buffer.losses, settings.on_failure, log, self.tasks.interrupt)
        self.backlog: Final = Backlog(settings, buffer, self.reporter, last_seq + recovered)
        timer = FlushTimer(
            scheduler, self.backlog, self.outcome, max(settings.max_pending_bytes // _HEAVY_SHARE, 1)
        )
        self.spiller: Final = (
            None if spill_file is None else self._make_spiller(store, settings, spill_file, timer)
        )
        self.sender: Final = BatchSender(
            store=store,
            max_batch=max_batch_of(store),
            append_timeout=settings.append_timeout,
            backlog=self.backlog,
            timer=timer,
            publisher=self.publisher,
            reporter=self.reporter,
            outcome=self.outcome,
            own_work=self.own_work,
            spiller=self.spiller,
        )
        self.writer: Final = Writer(
            settings=settings,
            backlog=self.backlog,
            timer=timer,
            sender=self.sender,
            spiller=self.spiller,
            reporter=self.reporter,
            outcome=self.outcome,
        )

        self.backlog.ingress.look = self.writer.look

    def _make_spiller(
        self, store: EventStore, settings: Settings, spill_file: SpillFile, timer: FlushTimer
    ) -> Spiller:
        queue = SpillQueue(spill_file, self.backlog.buffer, self.reporter, settings.max_pending_bytes)
        sync = sync_of(store)
        return Spiller(
            queue=queue,
            syncer=None if sync is None else Syncer(sync, queue, settings, self.outcome),
            settings=settings,
            backlog=self.backlog,
            timer=timer,
            outcome=self.outcome,
        )

    def start(self, nursery: trio.Nursery, store_last_seq: int) -> None:
        """Start the tasks in the nursery of the body, and report what the spill file says about the past."""
        jobs = [self.writer.run, self.reporter.run]
        if self.spiller is not None:
            jobs.append(self.spiller.run)
            if self.spiller.syncer is not None:
                jobs.append(self.spiller.syncer.run)
        self.tasks.start(nursery, *jobs)
        if self.spiller is not None:
            self.spiller.queue.tell_what_was_found(store_last_seq, self.publisher.found_through + 1)

    def close(self) -> LossAccount:
        """The body has ended: take no more events. Returns the account of what is lost from now on."""
        account = self.backlog.buffer.losses.open_final_account()
        self.backlog.ingress.close_sending()
        self.backlog.room.close()
        self.outcome.close()
        self.writer.close()
        return account

    async def drain(self, nursery: trio.Nursery) -> None:
        """Wait until all is stored, spilled or given up. Takes a bounded time, whatever the cancellation."""
        await self.tasks.join()
        if self.spiller is not None:
            # In a task too, so that no KeyboardInterrupt cuts it off.
            self.tasks.start(nursery, self.spiller.close)
            await self.tasks.join()

    def conclude(self) -> None:
        """Nothing runs any more: report what is left to report."""
        self.backlog.ingress.close()
        self.reporter.close()
        self.outcome.conclude()

    def _stop(self, reason: str) -> None:
        self.writer.stop(reason)
        self.reporter.stop(reason)

    def _give_up(self, reason: LossReason) -> None:
        self.writer.give_up(reason)

    def _finish(self) -> None:
        self.is_done = True
        self.feed.close()
