"""How many events there are in each stretch of a log, kept beside them.

Counting a million events by time and type takes most of a second. So a log has a table of *chunks*: a range
of seqs with how many events are in it, between which times, and how many of each type, member and module. An
appender counts what it appends, and adds a chunk in the transaction that brings it to 256 events; the events
of a smaller one are counted when somebody asks.

A chunk is right as long as it is there. Whatever changes what it has counted removes it in the same
transaction (:func:`forget`): an append in the midst of it, or one of which some events are repeats, and
pruning. What is in no chunk is counted from the events. So a log needs no chunk, and one that is missing
costs time alone. The next appender that opens the log adds those that are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, TypeAlias

import apsw
import attrs
import msgspec

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._events import MAX_STORED, ModuleEvent, PersistedEvent
from trio_eventlog._model._sealed import SealedEvents
from trio_eventlog._speedups import core
from trio_eventlog.stores._common._columns import MODULE
from trio_eventlog.stores.sqlite._checksums import checksum
from trio_eventlog.stores.sqlite._layout import counts_of
from trio_eventlog.stores.sqlite._schema import Log, damaged, roll_back, same_log, snapshot, transaction

CHUNK_EVENTS: Final = 256
"""Events of a chunk: with more, the table is smaller, and more must be counted where a chunk is cut."""

_MOST_TEXT: Final = 64 * 1024
"""Characters of what a chunk has counted. Longer ones are not kept: they take longer to read than the events
to count, and 256 long strings could be more than SQLite can hold."""

_MOST_CAUGHT_UP: Final = 20_000
"""Events to count when a log is opened; some 30 ms."""

_TIME: Final = attrgetter("timestamp_ms")
_SEQ: Final = attrgetter("seq")
_MEMBER: Final = attrgetter("member_id")
_TYPE: Final = attrgetter("event.event_type")


Counted: TypeAlias = tuple[int, int, dict[str, int], dict[str, int], dict[str, int]]
"""What :func:`count_events` returns."""


class Counts(msgspec.Struct):
    """How many events there are of each type, member and module."""

    types: dict[str, int]
    members: dict[str, int]
    modules: dict[str, int]


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Counts).decode


@attrs.frozen
class Chunk:
    """A row of the table."""

    first_seq: int
    last_seq: int
    first_ms: int
    last_ms: int
    events: int
    text: str

    @property
    def counts(self) -> Counts:
        """What is in it."""
        return _decode(self.text)


@attrs.frozen
class Tally:
    """What was counted so far of the chunk that comes next."""

    first_seq: int
    last_seq: int
    events: int = 0
    first_ms: int = MAX_STORED
    last_ms: int = 0
    types: Mapping[str, int] = attrs.Factory(dict)
    members: Mapping[str, int] = attrs.Factory(dict)
    modules: Mapping[str, int] = attrs.Factory(dict)

    @classmethod
    def after(cls, seq: int) -> Tally:
        """Of nothing yet: of what comes after this seq."""
        return cls(seq + 1, seq)

    def plus(self, events: Sequence[PersistedEvent], start: int, stop: int) -> Tally:
        """With a part of some events that come after, ascending by seq; at least one."""
        first_ms, last_ms, *counts = count_events(events, start, stop)
        before = self.types, self.members, self.modules
        return Tally(
            self.first_seq,
            events[stop - 1].seq,
            self.events + stop - start,
            min(self.first_ms, first_ms),
            max(self.last_ms, last_ms),
            *map(_sum, before, counts),
        )

    def plus_rows(self, rows: Sequence[tuple[Any, ...]], last_seq: int) -> Tally:
        """With the rows of events, as :data:`_COLUMNS` has them; nothing else is there up to ``last_seq``."""
        times = [row[1] for row in rows]
        return Tally(
            self.first_seq,
            last_seq,
            self.events + len(rows),
            min((self.first_ms, *times)),
            max((self.last_ms, *times)),
            _sum(self.types, _counts_of(row[4] for row in rows)),
            _sum(self.members, _counts_of(row[5] for row in rows)),
            _sum(self.modules, _counts_of(row[3] for row in rows if row[2] == MODULE)),
        )

    def chunk(self) -> Chunk:
        """As a chunk."""
        text = _encode(Counts(dict(self.types), dict(self.members), dict(self.modules))).decode()
        return Chunk(self.first_seq, self.last_seq, self.first_ms, self.last_ms, self.events, text)


def count_events(events: Sequence[PersistedEvent], start: int, stop: int) -> Counted:
    """The first and the last time of some events, and how often each type, member and module comes."""
    if core is not None:
        found: Counted | None = core.count_events(events, start, stop)
        if found is not None:
            return found
    return count_in_python(events[start:stop])


def count_in_python(events: Sequence[PersistedEvent]) -> Counted:
    """The same without the core."""
    times = list(map(_TIME, events))
    modules = (event.event.module for event in events if isinstance(event.event, ModuleEvent))
    types, members = _counts_of(map(_TYPE, events)), _counts_of(map(_MEMBER, events))
    return min(times), max(times), types, members, _counts_of(modules)


def _counts_of(values: Iterable[str | None]) -> dict[str, int]:
    return {value: times for value, times in Counter(values).items() if value is not None}


def _sum(counts: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
    if not counts:
        return more
    added = dict(counts)
    for value, times in more.items():
        added[value] = added.get(value, 0) + times
    return added


def split(tally: Tally, events: Sequence[PersistedEvent]) -> tuple[list[Chunk], Tally]:
    """The chunks that are complete with these events, and what is counted of the next one."""
    chunks: list[Chunk] = []
    start = 0
    while start < len(events):
        stop = min(start + CHUNK_EVENTS - tally.events, len(events))
        tally = tally.plus(events, start, stop)
        start = stop
        if tally.events == CHUNK_EVENTS:
            chunks.append(tally.chunk())
            tally = Tally.after(tally.last_seq)
    return chunks, tally


# --- the table ------------------------------------------------------------------------------------


def has_counts(db: apsw.Connection, log: Log) -> bool:
    """Whether there is the table; logs of earlier versions have none until they are opened for writing."""
    return db.table_exists("main", counts_of(log.number))


def load(db: apsw.Connection, log: Log, after_seq: int = 0, most: int = -1) -> list[Chunk]:
    """The chunks that have a seq above ``after_seq``, the first ``most`` of them; within a transaction.

    Raises:
      StoreUnusable: one of them is not what was written.
    """
    if not has_counts(db, log):
        return []
    columns = "first_seq, last_seq, first_ms, last_ms, events, counts, checksum"
    sql = f"SELECT {columns} FROM {counts_of(log.number)} WHERE last_seq > ? ORDER BY first_seq LIMIT ?"  # noqa: S608 - no values
    chunks: list[Chunk] = []
    before = 0
    seed = log.seed
    for *values, found in db.execute(sql, (after_seq, most)):
        if checksum(tuple(values), seed) != found or not before < values[0] <= values[1]:
            raise damaged(db, f"the counts of log {log.name!r} after seq {before} are not what was written")
        chunks.append(Chunk(*values))
        before = values[1]
    return chunks


def _add(db: apsw.Connection, log: Log, chunks: Iterable[Chunk]) -> None:
    sql = f"INSERT INTO {counts_of(log.number)} VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - no values
    seed = log.seed
    for chunk in chunks:
        if len(chunk.text) <= _MOST_TEXT:
            row = attrs.astuple(chunk)
            db.execute(sql, (*row, checksum(row, seed)))


def forget(db: apsw.Connection, log: Log, seqs: Iterable[int]) -> None:
    """Remove the chunks that have counted any of these seqs; within the transaction that changes them.

    For whatever deletes events, or changes the time, the type, the member or the module of one. The appender
    also keeps a tally of what it has appended last, which it drops when it finds that a seq in it was pruned.
    """
    if has_counts(db, log):
        # Not all between the lowest and the highest: what is pruned by time can be anywhere.
        table = counts_of(log.number)
        of_seq = f"first_seq = (SELECT max(first_seq) FROM {table} WHERE first_seq <= ?)"  # noqa: S608 - no values
        sql = f"DELETE FROM {table} WHERE {of_seq} AND last_seq >= ?"  # noqa: S608 - as above
        db.executemany(sql, ((seq, seq) for seq in seqs))


def uncounted(chunks: Sequence[Chunk], first_seq: int, last_seq: int) -> list[tuple[int, int]]:
    """The ranges of seqs from ``first_seq`` to ``last_seq`` that are in none of these chunks."""
    ranges: list[tuple[int, int]] = []
    for chunk in chunks:
        if chunk.first_seq > first_seq:
            ranges.append((first_seq, min(chunk.first_seq - 1, last_seq)))
        first_seq = max(first_seq, chunk.last_seq + 1)
    if first_seq <= last_seq:
        ranges.append((first_seq, last_seq))
    return [(first, last) for first, last in ranges if first <= last]


# --- an appender's part ---------------------------------------------------------------------------


class CountKeeper:
    """Keeps the chunks of a log up to date with what is appended to it."""

    def __init__(self) -> None:
        self._tally: Tally | None = None
        self._next: Tally | None = None

    def begin(self, db: apsw.Connection, log: Log) -> None:
        """Catch up with a log that is opened, as far as that takes little time."""
        try:
            self._tally = _catch_up(db, log)
        except (apsw.Error, StoreUnusable, UnicodeDecodeError):
            # Another writer may be busy. What is damaged is told by whoever reads it.
            roll_back(db)
            self._tally = None

    def count(
        self, db: apsw.Connection, log: Log, batch: Sequence[PersistedEvent], inserted: int, *, is_same: bool
    ) -> None:
        """Count what is new of a batch; within its transaction, before :meth:`keep`.

        Args:
          db: the connection.
          log: the log as it was before.
          batch: the events; of those with one id, the one that is held.
          inserted: how many of them were not there before.
          is_same: whether nobody can have put another file in the place of this one.
        """
        tally = self._tally
        if tally is not None and (tally.last_seq != log.last_seq or log.pruned_seq >= tally.first_seq):
            # Of what was counted something may be gone.
            tally = None
        if tally is None or not is_same:
            tally = Tally.after(log.last_seq)
        # There was nothing above the last seq: these are new.
        new = batch
        if type(batch) is not SealedEvents or batch[0].seq <= log.last_seq:
            new = sorted((event for event in batch if event.seq > log.last_seq), key=_SEQ)
        if len(new) == inserted:
            chunks, self._next = split(tally, new)
            _add(db, log, chunks)
        else:
            forget(db, log, (event.seq for event in batch if event.seq <= log.last_seq))
            self._next = None

    def keep(self) -> None:
        """The transaction of :meth:`count` was committed."""
        self._tally = self._next


_COLUMNS: Final = "seq, timestamp_ms, kind, actor, event_type, member_id"


def _catch_up(db: apsw.Connection, log: Log) -> Tally | None:
    """Add chunks that are missing.

    Returns:
      What is counted behind the last one; None if some are missing still.
    """
    with snapshot(db):
        log = same_log(db, log.name, log.unique_id)
        chunks, tally = _missing(db, log)
    if not chunks:
        return tally
    with transaction(db):
        # Once more: others may have pruned meanwhile.
        log = same_log(db, log.name, log.unique_id)
        chunks, tally = _missing(db, log)
        _add(db, log, chunks)
    return tally


def _missing(db: apsw.Connection, log: Log) -> tuple[list[Chunk], Tally | None]:
    left = _MOST_CAUGHT_UP
    chunks: list[Chunk] = []
    tally = Tally.after(log.last_seq)
    for first_seq, last_seq in uncounted(load(db, log), 1, log.last_seq):
        following = first_seq
        while following <= last_seq:
            rows = _rows(db, log, following, last_seq, CHUNK_EVENTS)
            left -= len(rows)
            if left < 0:
                return chunks, None
            is_end = len(rows) < CHUNK_EVENTS
            found = Tally.after(following - 1).plus_rows(rows, last_seq if is_end else rows[-1][0])
            following = found.last_seq + 1
            if is_end and last_seq == log.last_seq:
                tally = found
            elif rows:
                chunks.append(found.chunk())
    return chunks, tally


def _rows(
    db: apsw.Connection, log: Log, first_seq: int, last_seq: int, most: int = -1
) -> list[tuple[Any, ...]]:
    where = "seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"
    sql = f"SELECT {_COLUMNS} FROM {log.table} NOT INDEXED WHERE {where}"  # noqa: S608 - no values
    rows = db.execute(sql, (first_seq, last_seq, most)).fetchall()
    # A damaged file can have anything where the layout forbids it.
    if not all(type(row[1]) is int and type(row[3]) is type(row[4]) is str for row in rows):
        raise damaged(db, f"events of log {log.name!r} after seq {first_seq - 1} are not what was stored")
    return rows


# --- verify ---------------------------------------------------------------------------------------


def find_wrong(db: apsw.Connection, log: Log, after_seq: int, most: int) -> tuple[list[str], int | None]:
    """What is wrong with the next chunks, and the last seq of those that were checked; None at the end."""
    problems: list[str] = []
    some = load(db, log, after_seq, most)
    for chunk in some:
        rows = _rows(db, log, chunk.first_seq, chunk.last_seq)
        there = Tally.after(chunk.first_seq - 1).plus_rows(rows, chunk.last_seq).chunk()
        if attrs.evolve(there, text="") != attrs.evolve(chunk, text="") or there.counts != chunk.counts:
            seqs = f"{chunk.first_seq} to {chunk.last_seq}"
            problems.append(f"the counts of seqs {seqs} are not those of the events")
    return problems, some[-1].last_seq if some else None
