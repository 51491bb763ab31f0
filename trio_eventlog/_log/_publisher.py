"""What the store has, as far as the log knows. Floor 4: Trio."""

from __future__ import annotations

import attrs

from trio_eventlog._model._errors import StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._reading._subscription import Feed

__all__ = ["Publisher", "Reversion"]


@attrs.frozen
class Reversion:
    """What it means that a store went back to an older state."""

    at_hand: list[PersistedEvent]
    """Events that the store no longer has, as far as the log has them."""

    earlier: tuple[int, int] | None
    """The lowest and highest seq that the store no longer has from earlier runs."""

    is_repeat: bool
    """Whether the store went back before it got any further than the last time."""

    is_told_again: bool
    """Whether the store has told of this once already, which its contract forbids."""


class Publisher:
    """Tells subscriptions what has become durable, and keeps in mind what that was.

    Args:
      feed: of the subscriptions.
      last_seq: the last seq of the store.
    """

    def __init__(self, feed: Feed, last_seq: int) -> None:
        self._feed = feed
        self.found_through = last_seq
        """The highest seq of an earlier run that is still stored."""
        self._highest_durable = last_seq  # even if it is stored no longer
        # Of the last time that the store went back: the highest durable seq, the append, and to which seq.
        self._reverted_at = self._reverted_in = self._reverted_to = -1

    def publish(self, stored: tuple[PersistedEvent, ...], size: int, offered_through: int) -> None:
        """Tell of a batch.

        Args:
          stored: what the store has taken of it.
          size: its bytes.
          offered_through: the highest seq that may be stored without the log having been told.
        """
        if not stored:
            return
        self._highest_durable = max(self._highest_durable, stored[-1].seq)
        before = self._feed.recent.durable_seq
        is_seamless = stored[0].seq == before + 1 and stored[-1].seq - before == len(stored)
        # In a gap there can be an event that the log gave up in doubt, and that was stored after all.
        is_complete = is_seamless or offered_through <= before
        self._feed.publish(stored, is_complete=is_complete, size=size)

    def go_back(self, error: StoreWentBack, append: int) -> Reversion:
        """The store went back.

        Args:
          error: what it raised.
          append: the number of the append that it was raised in.
        """
        last_seq = error.last_seq
        reversion = Reversion(
            at_hand=self._feed.go_back(last_seq),
            earlier=(last_seq + 1, self.found_through) if last_seq < self.found_through else None,
            is_repeat=self._reverted_at == self._highest_durable,
            is_told_again=self._reverted_in == append - 1 and last_seq >= self._reverted_to,
        )
        self.found_through = min(self.found_through, last_seq)
        self._reverted_at, self._reverted_in, self._reverted_to = self._highest_durable, append, last_seq
        return reversion
