"""What can be wrong with keys, notes, files of checkpoints, and proofs."""

from __future__ import annotations

from trio_eventlog import EventLogError


class AuditError(EventLogError):
    """A key, a note, a file of checkpoints or a proof is not what it should be, or does not belong here.

    The message says which one, and why. It never has a secret in it.
    """
