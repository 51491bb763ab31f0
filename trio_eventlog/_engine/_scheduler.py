"""When to append, and when to try again. Pure: time is an argument.

Times are seconds on any one clock. ``due`` answers the only question that the flush task asks; the other
methods tell the scheduler what happened.
"""

from __future__ import annotations

import math

import attrs

from trio_eventlog._engine._policy import RetryPolicy


@attrs.define(kw_only=True)
class Scheduler:
    """The timing of one log.

    Args:
      batch_size: this many waiting events are due at once.
      flush_interval: seconds after which even a single one is due.
      retry: how long to wait after failures.
    """

    batch_size: int
    flush_interval: float
    retry: RetryPolicy

    failures: int = attrs.field(default=0, init=False)
    """Failed appends in a row."""

    _oldest: float | None = attrs.field(default=None, init=False)
    """When the oldest event arrived that was never offered to the store."""

    _more_at_once: bool = attrs.field(default=False, init=False)
    """Whether the waiting events include some that were already waiting when the last batch left."""

    _retry_at: float | None = attrs.field(default=None, init=False)
    """When the wait after a failure is over; None if there is none."""

    _hurried: bool = attrs.field(default=False, init=False)
    """Whether this wait was already cut short."""

    _started: float = attrs.field(default=-math.inf, init=False)
    """When the last append started."""

    _last_took: float = attrs.field(default=math.inf, init=False)
    """How many seconds the last append that succeeded took."""

    _margin: float = attrs.field(default=0.0, init=False)
    """Seconds between the last attempt and the end."""

    _last_at: float | None = attrs.field(default=None, init=False)
    """When the last attempt before the end of the log starts; None while the log is open."""

    _deadline: float = attrs.field(default=math.inf, init=False)
    """When the log ends."""

    @property
    def is_idle(self) -> bool:
        """Whether no event arrived since the last batch left."""
        return self._oldest is None

    def arrived(self, now: float) -> None:
        """An event arrived, the first since the last batch left."""
        self._oldest = now

    def due(self, waiting: int, *, awaited: bool, is_heavy: bool = False) -> float:
        """When the next append may start: a time, ``-inf`` for at once, ``inf`` for never.

        Args:
          waiting: how many events wait.
          awaited: whether a flush waits for them.
          is_heavy: whether they make up a batch by their bytes.
        """
        if not waiting:
            return math.inf
        if self._retry_at is not None:
            return self._retry_at
        gathered = waiting >= self.batch_size or is_heavy or self._more_at_once
        if gathered or awaited or self._last_at is not None or self._oldest is None:
            return -math.inf
        return self._oldest + self.flush_interval

    def taken(self, left: int, now: float) -> None:
        """An append starts; ``left`` events still wait."""
        self._started = now
        self._more_at_once = left > 0
        if not left:
            self._oldest = None

    def append_until(self, timeout: float) -> float:
        """When the append under way has taken too long.

        That is after ``timeout`` seconds. But while the log closes, a call that hangs must not cost the
        events what a new call might save: it ends early enough for a last attempt, if the store last took a
        batch in the time that this attempt would have. A store that is merely slow is left alone.
        """
        end = self._started + timeout
        if self._last_at is None or self._started >= self._last_at or self._last_took > self._margin:
            return end
        return min(end, self._last_at)

    def succeeded(self, now: float) -> None:
        """The store took the batch."""
        self._last_took = now - self._started
        self.failures = 0
        self._retry_at = None
        self._hurried = False

    def rejected(self, left: int) -> None:
        """The store rejected some events of the batch; the ``left`` others go again at once."""
        self._more_at_once = self._more_at_once or left > 0
        self._retry_at = None

    def failed(self, now: float) -> float:
        """The append failed. Returns the seconds until the next attempt, ``inf`` if there is none."""
        self.failures += 1
        self._hurried = False
        retry_at = now + self.retry.delay(self.failures)
        if self._last_at is not None:
            was_last = self._started >= self._last_at or now >= self._deadline
            retry_at = math.inf if was_last else min(retry_at, max(now, self._last_at))
        self._retry_at = retry_at
        return retry_at - now

    def hurry(self) -> None:
        """A flush starts: end the wait after a failure, once per wait. New events never do that."""
        if self._retry_at is not None and self._retry_at < math.inf and not self._hurried:
            self._hurried = True
            self._retry_at = -math.inf

    def close(self, now: float, deadline: float) -> None:
        """No more events arrive, and ``deadline`` ends the attempts: start over with short waits.

        A last attempt starts before the deadline. It leaves the store as much time as the first wait after a
        failure, or half of the remaining time if that is less.
        """
        self._margin = min(self.retry.initial, (deadline - now) / 2)
        self._last_at = min(deadline - self._margin, math.nextafter(deadline, -math.inf))
        self._deadline = deadline
        self.failures = 0
        self._retry_at = None
