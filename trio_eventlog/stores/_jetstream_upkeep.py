"""What a log holds in numbers, looking it over, and taking old events out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs

from trio_eventlog._errors import StoreUnusable
from trio_eventlog._events import MAX_STORED
from trio_eventlog._reports import GAPS_SHOWN, Finding, StoreDescription, StoreVerification
from trio_eventlog.stores import _jetstream_layout as layout
from trio_eventlog.stores._incoming import Steps
from trio_eventlog.stores._jetstream_layout import Head
from trio_eventlog.stores._jetstream_reader import Reader, Scan
from trio_eventlog.stores._jetstream_stream import Stream

_PAGE: Final = 5_000

_PRUNED_TOGETHER: Final = 1_000

_DELETED_TOGETHER: Final = 500
"""Between two calls of ``on_progress``."""

_SUBJECTS_TOGETHER: Final = 100_000
"""As many as a server names at once."""


async def log_names(stream: Stream) -> list[str]:
    """The names of all logs of a stream, ascending."""
    names: list[str] = []
    offset = 0
    while True:
        info = await stream.info(f"{layout.root(stream.name)}.*.head", offset)
        if info is None:
            raise StoreUnusable(f"{stream} was removed")
        subjects = list(info["state"].get("subjects") or ())
        heads = await stream.lasts(subjects)
        names += [layout.head_of(found.data, found.position).log for found in heads]
        offset += len(subjects)
        if len(subjects) < _SUBJECTS_TOGETHER:
            return sorted(names)


# --- describe -------------------------------------------------------------------------------------


@attrs.define
class _Gaps:
    """Counts runs of seqs that hold no event; fed with seqs in ascending order."""

    previous: int | None = None
    count: int = 0
    missing: int = 0
    first: list[tuple[int, int]] = attrs.Factory(list)

    def add(self, seq: int) -> None:
        previous, self.previous = self.previous, seq
        if previous is not None and seq > previous + 1:
            self.count += 1
            self.missing += seq - previous - 1
            if len(self.first) < GAPS_SHOWN:
                self.first.append((previous + 1, seq - 1))


async def describe(reader: Reader, top: int) -> StoreDescription:
    """See :meth:`JetStreamStore.describe`."""
    head = await reader.head()
    info = await reader.stream.info()
    if info is None:
        raise StoreUnusable(f"{reader.stream} was removed")
    seqs: list[int] = []
    types: Counter[str] = Counter()
    members: Counter[str] = Counter()
    first_ms: int | None = None
    last_ms: int | None = None
    steps = Steps()
    scan = None if head is None else Scan(reader, reader.subjects.all_events, 1, head)
    while scan is not None and (messages := await scan.read(_PAGE)) is not None:
        for message in messages:
            if steps.is_over():
                await steps.rest()
            event = layout.event_of(message.data)
            seqs.append(event.seq)
            types[event.event.event_type] += 1
            if event.member_id is not None:
                members[event.member_id] += 1
            if first_ms is None or event.timestamp_ms < first_ms:
                first_ms = event.timestamp_ms
            if last_ms is None or event.timestamp_ms > last_ms:
                last_ms = event.timestamp_ms
    seqs.sort()
    gaps = _Gaps()
    for seq in seqs:
        gaps.add(seq)
    return StoreDescription(
        events=len(seqs),
        first_seq=seqs[0] if seqs else None,
        last_seq=seqs[-1] if seqs else None,
        highest_seq=0 if head is None else head.last_seq,
        first_timestamp_ms=first_ms,
        last_timestamp_ms=last_ms,
        distinct_event_types=len(types),
        event_types=_ranked(types, top),
        distinct_members=len(members),
        members=_ranked(members, top),
        gaps=gaps.count,
        missing=gaps.missing,
        first_gaps=tuple(gaps.first),
        size_bytes=info["state"]["bytes"],
        schema_version=layout.SCHEMA_VERSION,
    )


def _ranked(counts: Counter[str], top: int) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top])


# --- verify ---------------------------------------------------------------------------------------


@attrs.define
class _Verifier:
    """Collects what is wrong with a log, message by message."""

    reader: Reader
    head: Head
    most_findings: int
    findings: list[Finding] = attrs.Factory(list)
    problems: int = 0
    seqs: list[int] = attrs.Factory(list)
    ids: set[str] = attrs.Factory(set)
    previous: int = 0

    def found(self, problem: str, seq: int | None = None) -> None:
        self.problems += 1
        if len(self.findings) < self.most_findings:
            self.findings.append(Finding(seq=seq, problem=problem))

    def look(self, position: int, subject: str, data: bytes) -> None:
        problem = layout.flaw(self.reader.subjects, subject, data)
        try:
            seq = layout.seq_of(subject)
        except StoreUnusable as exc:
            self.found(f"position {position}: {exc}")
            return
        if problem is not None:
            self.found(problem, seq)
        token = subject.removeprefix(self.reader.subjects.events).partition(".")[0]
        if token in self.ids:
            self.found("its id stands twice", seq)
        self.ids.add(token)
        if position > self.head.mixed_through and seq <= max(self.previous, self.head.mixed_seq):
            self.found(f"comes after seq {max(self.previous, self.head.mixed_seq)}", seq)
        if position > self.head.mixed_through:
            self.previous = seq
        self.seqs.append(seq)

    def finish(self) -> StoreVerification:
        self.seqs.sort()
        gaps = _Gaps()
        for index, seq in enumerate(self.seqs):
            if index and self.seqs[index - 1] == seq:
                self.found("the seq stands twice", seq)
            gaps.add(seq)
        if self.seqs and self.seqs[-1] > self.head.last_seq:
            self.found(f"the log says that its highest seq is {self.head.last_seq}", self.seqs[-1])
        return StoreVerification(
            events=len(self.seqs),
            first_seq=self.seqs[0] if self.seqs else None,
            last_seq=self.seqs[-1] if self.seqs else None,
            problems=self.problems,
            findings=tuple(self.findings),
            gaps=gaps.count,
            missing=gaps.missing,
            first_gaps=tuple(gaps.first),
        )


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
        reader.stream.link.check_open()
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
    verifier = _Verifier(reader, head, most_findings)
    if problem is not None:
        verifier.found(problem)
    elif head.log != subjects.log:
        verifier.found(f"the log's head is that of log {head.log!a:.100}")
    steps = Steps()
    scan = Scan(reader, subjects.all_events, 1, head)
    while (messages := await scan.read(_PAGE)) is not None:
        for message in messages:
            if steps.is_over():
                await steps.rest()
            verifier.look(message.position, message.subject, message.data)
        if on_progress is not None and verifier.seqs:
            on_progress(verifier.seqs[-1])
    return verifier.finish()


# --- prune ----------------------------------------------------------------------------------------


def check_criteria(before_ms: int | None, keep: int | None) -> None:
    """Raises ValueError unless exactly one is given, and in range."""
    if (before_ms is None) == (keep is None):
        msg = "before_ms, keep: expected one of them"
        raise ValueError(msg)
    for name, value in (("before_ms", before_ms), ("keep", keep)):
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_STORED):
            msg = f"{name}: expected an integer of 0 to 2**63 - 1, got {value!r:.50}"
            raise ValueError(msg)


async def prune(
    reader: Reader,
    *,
    before_ms: int | None,
    keep: int | None,
    dry_run: bool,
    on_progress: Callable[[int, int], object] | None,
) -> int:
    """See :meth:`JetStreamStore.prune`."""
    reader.stream.link.check_open()
    head = await reader.head()
    if head is None:
        return 0
    # Positions and seqs in the order of positions, and which of them go.
    places: list[tuple[int, int]] = []
    goes: list[bool] = []
    steps = Steps()
    scan = Scan(reader, reader.subjects.all_events, 1, head)
    while (messages := await scan.read(_PAGE)) is not None:
        for message in messages:
            if steps.is_over():
                await steps.rest()
            places.append((message.position, layout.seq_of(message.subject)))
            goes.append(before_ms is not None and layout.event_of(message.data).timestamp_ms < before_ms)
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
    for start in range(0, leading, _PRUNED_TOGETHER):
        end = min(start + _PRUNED_TOGETHER, leading)
        await reader.stream.purge(reader.subjects.all_events, places[end - 1][0] + 1)
        gone = end
        if on_progress is not None:
            on_progress(gone, total)
    others = [place[0] for place, does_go in zip(places[leading:], goes[leading:], strict=True) if does_go]
    for start in range(0, len(others), _DELETED_TOGETHER):
        some = others[start : start + _DELETED_TOGETHER]
        await reader.stream.delete(some)
        gone += len(some)
        if on_progress is not None:
            on_progress(gone, total)
    return gone
