"""Checking a log: collecting what is wrong with it, and what keeps a row from being its event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs

from trio_eventlog._model._errors import CodecError
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._payload import SCOPES, scopes_of
from trio_eventlog._model._reports import Finding, StoreVerification
from trio_eventlog._model._sealed import encoded_payload
from trio_eventlog._model._wire import from_json, to_json
from trio_eventlog.stores._common._columns import AGENT, MODULE
from trio_eventlog.stores._common._statistics import SeqGaps


@attrs.define
class Verifier:
    """Collects what is wrong with a log."""

    max_findings: int
    """How many problems are named; all are counted."""

    events: int = 0
    gaps: SeqGaps = attrs.Factory(SeqGaps)
    problems: int = 0
    _findings: list[Finding] = attrs.Factory(list)

    def add_problem(self, problem: str, seq: int | None = None) -> None:
        """Something is wrong: with the event at ``seq``, or with the log."""
        self.problems += 1
        if len(self._findings) < self.max_findings:
            self._findings.append(Finding(seq=seq, problem=problem))

    def add_event(self, seq: int, problem: str | None = None) -> None:
        """An event was checked, and ``problem`` is wrong with it, if anything. Ascending by seq."""
        self.events += 1
        self.gaps.add(seq)
        if problem is not None:
            self.add_problem(problem, seq)

    def result(self) -> StoreVerification:
        """All that was found."""
        return StoreVerification(
            events=self.events,
            first_seq=self.gaps.first_seq,
            last_seq=self.gaps.last_seq,
            problems=self.problems,
            findings=tuple(self._findings),
            gaps=self.gaps.count,
            missing=self.gaps.missing,
            first_gaps=self.gaps.shown,
        )


async def check_pages(
    check_page: Callable[[], Awaitable[int | None]], on_progress: Callable[[int], object] | None
) -> None:
    """Call ``check_page`` until it returns None instead of the last seq of a page, reporting those seqs."""
    while (seq := await check_page()) is not None:
        if on_progress is not None:
            on_progress(seq)


def problem_of_row(
    seq: int,
    kind: object,
    decode: Callable[[], PersistedEvent],
    scopes: Sequence[bytes | None],
    key_of: Callable[[bytes], bytes] = bytes,
) -> str | None:
    """What keeps a row from being the event that was stored there; None if nothing does.

    ``decode`` makes the event from the other columns, or raises ``ValueError``. A column of ``scopes`` holds
    the ``key_of`` of the string in UTF-8.
    """
    if seq < 1:
        return "seq: expected 1 to 2**63 - 1"
    if kind not in (AGENT, MODULE):
        return f"kind is {kind!r:.50}, neither 0 nor 1"
    try:
        event = decode()
        from_json(to_json(event), PersistedEvent)
    except UnicodeDecodeError as exc:
        return f"a text is not UTF-8: {exc.reason}"
    except (CodecError, ValueError) as exc:
        return str(exc)
    found = scopes_of(encoded_payload(event.event))
    for name, column, value in zip(SCOPES, scopes, found, strict=True):
        if column != (None if value is None else key_of(value.encode())):
            shown = None if column is None else column.decode(errors="backslashreplace")
            return f"{name} is {value!a:.100} in the payload and {shown!a:.100} in its column"
    return None
