"""The epochs of a log, and cursors that are of none that is still there. Floor 3: Trio."""

from __future__ import annotations

import attrs

from trio_eventlog._answers import ask_query
from trio_eventlog._declared import check_store
from trio_eventlog._model._epochs import FIRST_EPOCH_SEQ, Epoch, epoch_of, epochs_after, is_epoch
from trio_eventlog._model._errors import StaleCursor
from trio_eventlog.abc import EventStore


async def list_epochs(store: EventStore) -> list[Epoch]:
    """The epochs of a log except its first, in the order in which they began.

    An epoch begins when a log goes on from a backup or from another older state of itself:
    ``trio-eventlog restore`` and ``adopt`` begin one, and :func:`trio_eventlog.stores.begin_epoch`. A
    checkpoint; can be cancelled.

    Raises:
      TypeError: ``store`` is not a store.
      StoreError: the store could not be asked.
    """
    check_store(store)
    found = map(epoch_of, await ask_query(store, epochs_after(0)))
    return [epoch for epoch in found if epoch is not None]


async def skipped_seqs(store: EventStore, cursor: int) -> list[tuple[int, int]]:
    """Ranges of seqs, first and last, that no event has had because an epoch began after ``cursor``.

    A checkpoint; can be cancelled.

    Raises:
      StoreError: the store could not be asked.
    """
    # What an erased one has skipped is not known.
    found = map(epoch_of, filter(is_epoch, await ask_query(store, epochs_after(cursor))))
    return [(epoch.after_seq + 1, epoch.seq - 1) for epoch in found if epoch is not None]


async def check_cursor(store: EventStore, cursor: int, end: int) -> None:
    """Check that a log did not go on from a state before ``cursor``, at which a reader is.

    A checkpoint only if the store is asked, which logs without epochs are not.

    Args:
      store: of the log.
      cursor: where the reader is.
      end: a seq up to which the log is known to reach.

    Raises:
      StaleCursor: it did.
    """
    # If the first epoch that began after the cursor has what the reader has read, all later ones have.
    if cursor and end > cursor and end >= FIRST_EPOCH_SEQ:
        query = attrs.evolve(epochs_after(cursor), limit=1)
        for epoch in map(epoch_of, await ask_query(store, query)):
            if epoch is not None and epoch.is_stale(cursor):
                raise StaleCursor(cursor, epoch.after_seq, epoch.seq)
