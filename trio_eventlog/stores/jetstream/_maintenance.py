"""What a log holds in numbers, looking it over, and taking old events out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Final

import attrs
import msgspec
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog.stores._common._batches import Steps
from trio_eventlog.stores._common._statistics import Census, Findings, Gaps
from trio_eventlog.stores.jetstream._api import Stream, WrongPosition
from trio_eventlog.stores.jetstream._head import SCHEMA_VERSION, Head, decode_head
from trio_eventlog.stores.jetstream._messages import event_of, flaw, head_fields
from trio_eventlog.stores.jetstream._reader import Reader, Scan
from trio_eventlog.stores.jetstream._subjects import root, seq_of

_PAGE: Final = 5_000

_PURGE_SIZE: Final = 1_000

_DELETE_SIZE: Final = 500
"""Between two calls of ``on_progress``."""

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


# --- describe -------------------------------------------------------------------------------------


async def describe(reader: Reader, top: int) -> StoreDescription:
    """See :meth:`JetStreamStore.describe`."""
    head = await reader.head()
    info = await reader.stream.info()
    if info is None:
        raise StoreError(f"{reader.stream}: there is no such stream any more")
    seqs: list[int] = []
    census = Census()
    steps = Steps()
    if head is not None:
        with closing(Scan(reader, reader.subjects.all_events, 1, head)) as scan:
            while (messages := await scan.read(_PAGE)) is not None:
                for message in messages:
                    if steps.is_over():
                        await steps.rest()
                    event = event_of(message.data)
                    seqs.append(event.seq)
                    census.add(event)
    return census.describe(
        await _gaps(seqs, steps),
        top,
        highest_seq=0 if head is None else head.last_seq,
        size_bytes=info["state"]["bytes"],
        schema_version=SCHEMA_VERSION,
    )


async def _gaps(seqs: list[int], steps: Steps) -> Gaps:
    gaps = Gaps()
    for seq in sorted(seqs):
        if steps.is_over():
            await steps.rest()
        gaps.add(seq)
    await trio.lowlevel.checkpoint()
    return gaps


# --- verify ---------------------------------------------------------------------------------------


@attrs.define
class _Verifier:
    """Collects what is wrong with a log, message by message."""

    reader: Reader
    head: Head
    findings: Findings
    seqs: list[int] = attrs.Factory(list)
    ids: set[str] = attrs.Factory(set)
    previous: int = 0

    def look(self, position: int, subject: str, data: bytes) -> None:
        problem = flaw(self.reader.subjects, subject, data)
        try:
            seq = seq_of(subject)
        except StoreUnusable as exc:
            self.findings.add(f"position {position}: {exc}")
            return
        if problem is not None:
            self.findings.add(problem, seq)
        token = subject.removeprefix(self.reader.subjects.events).partition(".")[0]
        if token in self.ids:
            self.findings.add("its id stands twice", seq)
        self.ids.add(token)
        if position > self.head.mixed_through and seq <= max(self.previous, self.head.mixed_seq):
            self.findings.add(f"comes after seq {max(self.previous, self.head.mixed_seq)}", seq)
        if position > self.head.mixed_through:
            self.previous = seq
        self.seqs.append(seq)

    async def finish(self, steps: Steps) -> StoreVerification:
        gaps = await _gaps(self.seqs, steps)
        for seq in sorted(seq for seq, times in Counter(self.seqs).items() if times > 1):
            self.findings.add("the seq stands twice", seq)
        if gaps.last_seq is not None and gaps.last_seq > self.head.last_seq:
            self.findings.add(f"the log says that its highest seq is {self.head.last_seq}", gaps.last_seq)
        return self.findings.report(len(self.seqs), gaps)


async def verify(
    reader: Reader, most_findings: int, on_progress: Callable[[int], object] | None
) -> StoreVerification:
    """See :meth:`JetStreamStore.verify`."""
    subjects = reader.subjects
    problem: str | None = None
    try:
        head = await reader.head()
    except StoreUnusable as exc:
        # Without a head that can be read, all messages that are there now are looked at.
        reader.stream.connection.check_open()
        head, problem = None, str(exc)
    if head is None:
        last = await reader.stream.last(subjects.all_events)
        if last is not None and problem is None:
            problem = "the log's head is gone"
        head = Head(
            log=subjects.log,
            log_id="",
            last_seq=MAX_STORED,
            session="",
            number=0,
            mixed_through=0 if last is None else last.position,
            mixed_seq=0,
            voids=(),
            position=0 if last is None else last.position + 1,
        )
    verifier = _Verifier(reader, head, Findings(most_findings))
    if problem is not None:
        verifier.findings.add(problem)
    elif head.log != subjects.log:
        verifier.findings.add(f"the log's head is that of log {head.log!a:.100}")
    steps = Steps()
    with closing(Scan(reader, subjects.all_events, 1, head)) as scan:
        while (messages := await scan.read(_PAGE)) is not None:
            for message in messages:
                if steps.is_over():
                    await steps.rest()
                verifier.look(message.position, message.subject, message.data)
            if on_progress is not None and verifier.seqs:
                on_progress(verifier.seqs[-1])
    return await verifier.finish(steps)


# --- prune ----------------------------------------------------------------------------------------


async def prune(
    reader: Reader,
    *,
    before_ms: int | None,
    keep: int | None,
    dry_run: bool,
    on_progress: Callable[[int, int], object] | None,
) -> int:
    """See :meth:`JetStreamStore.prune`."""
    reader.stream.connection.check_open()
    head = await reader.head()
    if head is None:
        return 0
    # Positions and seqs in the order of positions, and which of them go.
    places: list[tuple[int, int]] = []
    goes: list[bool] = []
    steps = Steps()
    with closing(Scan(reader, reader.subjects.all_events, 1, head)) as scan:
        while (messages := await scan.read(_PAGE)) is not None:
            for message in messages:
                if steps.is_over():
                    await steps.rest()
                places.append((message.position, seq_of(message.subject)))
                goes.append(before_ms is not None and event_of(message.data).timestamp_ms < before_ms)
    if keep is not None:
        ranked = sorted(seq for _, seq in places)
        through = ranked[-keep - 1] if keep < len(ranked) else 0
        goes = [seq <= through for _, seq in places]
    total = sum(goes)
    if dry_run or not total:
        return total
    leading = goes.index(False) if False in goes else total
    gone = 0
    # The first ones, with which a log begins, in one request for many.
    for start in range(0, leading, _PURGE_SIZE):
        end = min(start + _PURGE_SIZE, leading)
        gone += await reader.stream.purge(reader.subjects.all_events, places[end - 1][0] + 1)
        if on_progress is not None:
            on_progress(gone, total)
    rest = [place for place, does_go in zip(places[leading:], goes[leading:], strict=True) if does_go]
    if rest:
        await _note_pruned(reader, max(seq for _, seq in rest))
    others = [position for position, _ in rest]
    for start in range(0, len(others), _DELETE_SIZE):
        some = others[start : start + _DELETE_SIZE]
        gone += await reader.stream.delete(some)
        if on_progress is not None:
            on_progress(gone, total)
    return gone


# --- what was pruned ------------------------------------------------------------------------------


async def pruned_seq(reader: Reader) -> int:
    """See :meth:`JetStreamStore.pruned_seq`."""
    head = await reader.head()
    if head is None:
        return 0
    _, noted = await _noted(reader)
    # The server, and whoever purges, removes what is stored first. That is missed by its seq.
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
        return found.position, msgspec.json.decode(found.data, type=_Note).seq
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
            continue  # somebody else has just noted something
        return


class _Note(msgspec.Struct):
    seq: int
