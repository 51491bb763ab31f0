"""Describing, verifying and pruning a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Final

import attrs
import msgspec

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores._common._prune import PruneProgress
from trio_eventlog.stores._common._statistics import EventCounter, SeqGaps
from trio_eventlog.stores._common._verify import Verifier
from trio_eventlog.stores.jetstream._api import StoredMessage, Stream, WrongPosition
from trio_eventlog.stores.jetstream._head import SCHEMA_VERSION, Head, decode_head, first_head
from trio_eventlog.stores.jetstream._messages import event_of, flaw, head_fields
from trio_eventlog.stores.jetstream._protocol import decode_json
from trio_eventlog.stores.jetstream._reader import Reader, Scan
from trio_eventlog.stores.jetstream._subjects import Subjects, root, seq_of

_PAGE_SIZE: Final = 5_000

_PURGE_SIZE: Final = 1_000
"""Events that are deleted in one request, at the beginning of a log."""

_DELETE_SIZE: Final = 500
"""Events that are deleted one by one between two calls of ``on_progress``."""

_MAX_SUBJECTS: Final = 100_000
"""As many as a server names at once."""


async def log_names(stream: Stream) -> list[str]:
    """The names of all logs of a stream, ascending."""
    names: list[str] = []
    offset = 0
    while True:
        info = await stream.info(f"{root(stream.name)}.*.head", offset)
        if info is None:
            raise StoreError(f"{stream}: there is no such stream any more")
        subjects = list(info["state"].get("subjects") or ())
        heads = await stream.lasts(subjects)
        names += [decode_head(found.data, found.position).log for found in heads]
        offset += len(subjects)
        if len(subjects) < _MAX_SUBJECTS:
            return sorted(names)


async def _read_all(
    reader: Reader,
    head: Head,
    take: Callable[[StoredMessage], object],
    end_page: Callable[[], object] | None = None,
) -> None:
    """Call ``take`` with each event of the log, and ``end_page`` now and then."""
    time_slice = TimeSlice()
    with closing(Scan(reader, reader.subjects.all_events, 1, head)) as scan:
        while (messages := await scan.read(_PAGE_SIZE)) is not None:
            for message in messages:
                await time_slice.checkpoint_if_over()
                take(message)
            if end_page is not None:
                end_page()


# --- describe and verify --------------------------------------------------------------------------


async def describe(reader: Reader, top: int) -> StoreDescription:
    """See :meth:`JetStreamStore.describe`."""
    head = await reader.head()
    info = await reader.stream.info()
    if info is None:
        raise StoreError(f"{reader.stream}: there is no such stream any more")
    seqs: list[int] = []
    counter = EventCounter()

    def take(message: StoredMessage) -> None:
        event = event_of(message.data)
        seqs.append(event.seq)
        counter.add(event)

    if head is not None:
        await _read_all(reader, head, take)
    gaps = SeqGaps()
    time_slice = TimeSlice()
    for seq in sorted(seqs):
        await time_slice.checkpoint_if_over()
        gaps.add(seq)
    return counter.describe(
        gaps,
        top,
        highest_seq=0 if head is None else head.last_seq,
        size_bytes=info["state"]["bytes"],
        schema_version=SCHEMA_VERSION,
    )


@attrs.define
class _LogVerifier:
    """Checks a log, message by message."""

    subjects: Subjects
    head: Head
    found: Verifier
    seqs: list[int] = attrs.Factory(list)
    ids: set[str] = attrs.Factory(set)
    previous: int = 0

    def check(self, message: StoredMessage) -> None:
        problem = flaw(self.subjects, message.subject, message.data)
        try:
            seq = seq_of(message.subject)
        except StoreUnusable as exc:
            self.found.add_problem(f"position {message.position}: {exc}")
            return
        if problem is not None:
            self.found.add_problem(problem, seq)
        token = message.subject.removeprefix(self.subjects.events).partition(".")[0]
        if token in self.ids:
            self.found.add_problem("its id stands twice", seq)
        self.ids.add(token)
        if message.position > self.head.mixed_through:
            if seq <= max(self.previous, self.head.mixed_seq):
                self.found.add_problem(f"comes after seq {max(self.previous, self.head.mixed_seq)}", seq)
            self.previous = seq
        self.seqs.append(seq)

    async def result(self) -> StoreVerification:
        time_slice = TimeSlice()
        for seq in sorted(self.seqs):
            await time_slice.checkpoint_if_over()
            self.found.add_event(seq)
        for seq in sorted(seq for seq, times in Counter(self.seqs).items() if times > 1):
            self.found.add_problem("the seq stands twice", seq)
        last_seq = self.found.gaps.last_seq
        if last_seq is not None and last_seq > self.head.last_seq:
            self.found.add_problem(f"the log says that its highest seq is {self.head.last_seq}", last_seq)
        return self.found.result()


async def verify(
    reader: Reader, max_findings: int, on_progress: Callable[[int], object] | None
) -> StoreVerification:
    """See :meth:`JetStreamStore.verify`."""
    subjects = reader.subjects
    found = Verifier(max_findings)
    head: Head | None = None
    problem = "the log's head is gone"
    try:
        head = await reader.head()
    except StoreUnusable as exc:
        # Without a head that can be read, all messages that are there now are checked.
        reader.stream.connection.check_open()
        found.add_problem(str(exc))
        problem = ""
    if head is not None and head.log != subjects.log:
        found.add_problem(f"the log's head is that of log {head.log!a:.100}")
    if head is None:
        last = await reader.stream.last(subjects.all_events)
        if last is not None and problem:
            found.add_problem(problem)
        end = 0 if last is None else last.position
        head = attrs.evolve(
            first_head(subjects.log, "", ""), last_seq=MAX_STORED, mixed_through=end, position=end + 1
        )
    verifier = _LogVerifier(subjects, head, found)

    def end_page() -> None:
        if on_progress is not None and verifier.seqs:
            on_progress(verifier.seqs[-1])

    await _read_all(reader, head, verifier.check, end_page)
    return await verifier.result()


# --- prune ----------------------------------------------------------------------------------------


async def prune(
    reader: Reader,
    *,
    before_ms: int | None,
    keep: int | None,
    through_seq: int | None,
    dry_run: bool,
    on_progress: Callable[[int, int], object] | None,
) -> int:
    """See :meth:`JetStreamStore.prune`."""
    head = await reader.head()
    if head is None:
        return 0
    # Positions and seqs in the order of positions, and which of them go.
    places: list[tuple[int, int]] = []
    goes: list[bool] = []

    def take(message: StoredMessage) -> None:
        places.append((message.position, seq_of(message.subject)))
        is_within = through_seq is None or places[-1][1] <= through_seq
        goes.append(is_within and (before_ms is None or event_of(message.data).timestamp_ms < before_ms))

    await _read_all(reader, head, take)
    if keep is not None:
        ranked = sorted(seq for _, seq in places)
        through = ranked[-keep - 1] if keep < len(ranked) else 0
        goes = [seq <= through for _, seq in places]
    total = sum(goes)
    if dry_run or not total:
        return total
    leading = goes.index(False) if False in goes else total
    progress = PruneProgress(total, on_progress)
    # The first ones, with which a log begins, in one request for many.
    for start in range(0, leading, _PURGE_SIZE):
        end = min(start + _PURGE_SIZE, leading)
        progress.add(await reader.stream.purge(reader.subjects.all_events, places[end - 1][0] + 1))
        progress.report()
    rest = [place for place, does_go in zip(places[leading:], goes[leading:], strict=True) if does_go]
    if rest:
        await _note_pruned(reader, max(seq for _, seq in rest))
    for start in range(0, len(rest), _DELETE_SIZE):
        positions = [position for position, _ in rest[start : start + _DELETE_SIZE]]
        progress.add(await reader.stream.delete(positions))
        progress.report()
    return progress.gone


# --- what was pruned ------------------------------------------------------------------------------


async def pruned_seq(reader: Reader) -> int:
    """See :meth:`JetStreamStore.pruned_seq`."""
    head = await reader.head()
    if head is None:
        return 0
    _, noted = await _noted(reader)
    # What the server removes, or a purge, is what was stored first. It is missed by its seq.
    position = 1
    while True:
        first = await reader.stream.next(position, reader.subjects.all_events)
        if first is None or first.position > head.position:
            return max(noted, head.last_seq)
        if not head.is_void(first.position):
            break
        position = first.position + 1
    seq = seq_of(first.subject)
    if seq == (head.first_seq or 1):
        return noted
    return max(noted, head.mixed_seq if first.position <= head.mixed_through else seq - 1)


async def _noted(reader: Reader) -> tuple[int, int]:
    """The note of what was pruned from behind other events: its position, and the highest seq; or zeros."""
    found = await reader.stream.last(reader.subjects.pruned)
    if found is None:
        return 0, 0
    try:
        return found.position, decode_json(found.data, _Note).seq
    except ValueError as exc:
        raise StoreUnusable(f"damaged: the note of what was pruned cannot be read: {exc}") from exc


async def _note_pruned(reader: Reader, seq: int) -> None:
    while True:
        position, noted = await _noted(reader)
        if noted >= seq:
            return
        try:
            await reader.stream.publish(
                reader.subjects.pruned, msgspec.json.encode(_Note(seq)), head_fields(position)
            )
        except WrongPosition:
            continue  # another program has just noted something
        return


class _Note(msgspec.Struct):
    seq: int
