"""Waiting after failures. Floor 4; time is an argument."""

from __future__ import annotations

import math

import attrs

from trio_eventlog._engine._policy import RetryPolicy

__all__ = ["Backoff"]


@attrs.define(eq=False)
class Backoff:
    """When something that failed may be tried again."""

    _policy: RetryPolicy
    _failures: int = attrs.field(default=0, init=False)  # in a row
    retry_at: float = attrs.field(default=-math.inf, init=False)
    """The earliest time of the next attempt."""

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._failures = 0
        self.retry_at = -math.inf

    def failed(self, now: float, *, is_final: bool = False) -> float:
        """Count a failure.

        Args:
          now: the current time.
          is_final: whether there will be no other attempt.

        Returns:
          The seconds until the next attempt; infinite if there will be none.
        """
        self._failures += 1
        retry_in = math.inf if is_final else self._policy.delay(self._failures)
        self.retry_at = now + retry_in
        return retry_in
