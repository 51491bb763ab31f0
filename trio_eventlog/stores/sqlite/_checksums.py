"""Checksums of rows, since SQLite has none.

A bit that has changed on the disk, or a page that a file system has mixed up, must not be taken for what was
stored. Each row has a CRC-32 of its values, encoded as MessagePack. It begins with one of the log's id, so
that rows of one log are not taken for those of another. It tells damage, not forgery.

What is *not* in the checksum of an event is in its payload: the columns that are made from that. A row that
is missing has no checksum at all. SQLite notices much of that, and ``verify`` the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, repeat
from operator import itemgetter, lt
from typing import Any, Final
from zlib import crc32

import msgspec

_encode: Final = msgspec.msgpack.Encoder().encode


def seed_of(unique_id: str) -> int:
    """What the checksums of a log begin with."""
    return crc32(unique_id.encode())


def checksum(values: tuple[Any, ...], seed: int = 0) -> int:
    """The checksum of these values, which are integers, strings and None."""
    return crc32(_encode(values), seed)


# --- rows of events, as they are read -------------------------------------------------------------

_COUNT: Final = 8
"""Values of an event. Its checksum comes after them."""

_VALUES: Final = itemgetter(slice(_COUNT))
_CHECKSUM: Final = itemgetter(_COUNT)
_SEQ: Final = itemgetter(0)


def values_of(rows: Sequence[tuple[Any, ...]], seed: int) -> list[tuple[Any, ...]] | None:
    """The values of rows that were read, without their checksums; None if one is not what was stored.

    All at once, which is faster. The rows must ascend by seq.
    """
    values = list(map(_VALUES, rows))
    if list(map(crc32, map(_encode, values), repeat(seed))) != list(map(_CHECKSUM, rows)):
        return None
    seqs = list(map(_SEQ, values))
    return values if all(map(lt, seqs, islice(seqs, 1, None))) else None
