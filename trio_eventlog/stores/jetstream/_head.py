"""The head of a log: what is true of the whole log, as of its last batch. Pure.

Each batch ends with a new head and is stored only if the head before it is still there: that makes batches a
sequence, across all appenders there ever were. What lies behind the last head does not count: a server whose
disk was full has been seen to store a part of a batch in spite of all.
"""

from __future__ import annotations

from typing import Final

import attrs
import msgspec

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog.stores.jetstream._protocol import decode_json

SCHEMA_VERSION: Final = 1

HERE: Final = -1
"""For ``mixed_through`` and the end of a void: the position of this head, unknown before it is stored."""


@attrs.frozen(kw_only=True)
class Head:
    """What is true of a whole log."""

    log: str
    log_id: str
    last_seq: int
    session: str
    """Of the appender that wrote it."""
    number: int
    """How many heads that one has written."""
    mixed_through: int
    """The position up to which events may be in another order than their seqs; 0 if all are in order."""
    mixed_seq: int
    """The highest seq among those."""
    voids: tuple[tuple[int, int], ...] = ()
    """Positions, first and last, between which nothing counts: a batch that a server had stored in part."""
    opened: int = 0
    """How often the log was opened for appending; 0 if by an older version of this library."""
    first_seq: int = 0
    """The seq of the event that was stored first; 0 for none, and as above."""
    position: int = 0
    """Its own; 0 before it is stored."""

    def is_void(self, position: int) -> bool:
        """Whether what lies there does not count."""
        return any(first <= position <= last for first, last in self.voids)

    def encode(self) -> bytes:
        """As JSON, without its own position."""
        fields = {"format": SCHEMA_VERSION, **attrs.asdict(self)}
        del fields["position"]
        return msgspec.json.encode(fields)

    def settled(self, position: int) -> Head:
        """This head as it is once stored at this position."""
        return attrs.evolve(
            self,
            position=position,
            mixed_through=position if self.mixed_through == HERE else self.mixed_through,
            voids=tuple((first, position - 1 if last == HERE else last) for first, last in self.voids),
        )

    def barrier(self, *, session: str, number: int) -> Head:
        """A head that says the same as this one, and that nothing between the two counts."""
        voids, first = self.voids, self.position + 1
        if voids and voids[-1][1] == self.position - 1:
            # Only this head lies between the two: a log that is opened over and over has one void.
            voids, first = voids[:-1], voids[-1][0]
        return attrs.evolve(self, session=session, number=number, voids=(*voids, (first, HERE)))

    def after_batch(self, lowest_seq: int, highest_seq: int) -> Head:
        """The head that ends a batch with these seqs, appended behind this one."""
        is_mixed = lowest_seq <= self.last_seq
        last_seq = max(self.last_seq, highest_seq)
        return attrs.evolve(
            self,
            last_seq=last_seq,
            number=self.number + 1,
            mixed_through=HERE if is_mixed else self.mixed_through,
            mixed_seq=last_seq if is_mixed else self.mixed_seq,
            first_seq=self.first_seq or (0 if self.last_seq else lowest_seq),
        )

    def is_own(self, found: Head | None) -> bool:
        """Whether ``found`` was written by the appender of this head, as this one or later."""
        return found is not None and found.session == self.session and found.number >= self.number

    def is_preceded_by(self, found: Head | None) -> bool:
        """Whether ``found`` is how the log was before this head was written."""
        if found is None:
            return True
        if found.log_id != self.log_id:
            return False
        if found.session == self.session:
            return found.number < self.number
        return found.opened < self.opened and found.position < self.position


def first_head(log: str, log_id: str, session: str) -> Head:
    """The head of a log that is opened for the first time."""
    return Head(
        log=log,
        log_id=log_id,
        last_seq=0,
        session=session,
        number=1,
        mixed_through=0,
        mixed_seq=0,
        opened=1,
    )


def decode_head(data: bytes, position: int) -> Head:
    """Read a head that is stored at this position.

    Raises:
      StoreUnusable: it is damaged, or of a newer version of this library.
    """
    try:
        version = decode_json(data, _Format).format
        if version > SCHEMA_VERSION:
            raise StoreUnusable(
                f"the log was written by a newer version of this library (format {version},"
                f" known is {SCHEMA_VERSION}); update trio-eventlog"
            )
        return decode_json(data, Head).settled(position)
    except ValueError as exc:
        raise StoreUnusable(f"damaged: the log's head cannot be read: {exc}") from exc


class _Format(msgspec.Struct):
    format: int
