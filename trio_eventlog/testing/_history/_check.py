"""Judging a history."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

import attrs

from trio_eventlog.testing._history._last_seqs import LastSeqJudge
from trio_eventlog.testing._history._missing import MissingJudge
from trio_eventlog.testing._history._offers import collect_offers, group_atoms
from trio_eventlog.testing._history._operations import (
    LastSeqOperation,
    Operation,
    Outcome,
    QueryOperation,
)
from trio_eventlog.testing._history._reads import ReadJudge
from trio_eventlog.testing._history._recorder import History
from trio_eventlog.testing._history._report import Findings, HistoryReport


def check_history(
    source: History | str | os.PathLike[str] | Iterable[History | str | os.PathLike[str]],
    *,
    after_seq: int = 0,
    max_skew: float | None = None,
) -> HistoryReport:
    """Judge whether a store that keeps its contract could have answered so.

    The contract gives the events one order, that of their seqs, and each append one moment at which all of it
    becomes visible. So the judgement takes no search: its time grows in proportion to the history, times the
    logarithm of its length. What the contract leaves open is allowed: an append of unknown outcome may land
    until the next call of its instance that comes after it, and a read-only instance may lag. Pruning is not
    known to histories: do not prune the log meanwhile.

    Args:
      source: the history, or a file with one; or several, of the processes that used the log.
      after_seq: judge only events above this seq: what the log's last seq was before the recording began.
      max_skew: for histories of several machines, by how many seconds their wall clocks may differ at most;
        what is closer together counts as concurrent.

    Returns:
      What was found.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: ``after_seq`` or ``max_skew`` is negative, or the histories come from several machines and
        ``max_skew`` is missing.
      HistoryFormatError: a file is no history.
      OSError: a file cannot be read.
    """
    if type(after_seq) is not int:
        raise TypeError(f"after_seq: expected an integer, got {type(after_seq).__name__}")
    if after_seq < 0:
        raise ValueError(f"after_seq: expected 0 or more, got {after_seq}")
    if max_skew is not None and type(max_skew) not in (int, float):
        raise TypeError(f"max_skew: expected seconds or None, got {type(max_skew).__name__}")
    if max_skew is not None and not 0 <= max_skew <= sys.float_info.max:
        raise ValueError(f"max_skew: expected 0 seconds or more, and finite, got {max_skew}")
    history = _merged(source)
    clocks = {operation.clock for operation in history.operations}
    if len(clocks) > 1 and max_skew is None:
        raise ValueError(
            f"max_skew: these histories come from {len(clocks)} machines; give the seconds by which their"
            " wall clocks may differ at most"
        )
    return judge(_on_one_clock(history), after_seq=after_seq, skew=max_skew or 0.0)


def _merged(source: object) -> History:
    if isinstance(source, str | os.PathLike):
        return History.read(source)
    if isinstance(source, History):
        return source
    if not isinstance(source, Iterable):
        raise TypeError(f"source: expected a History, a path, or several, got {type(source).__name__}")
    histories = [_merged(one) for one in source]
    if not histories:
        raise ValueError("source: expected at least one history")
    merged = History()
    for one in histories:
        merged.merge(one)
    return merged


def _on_one_clock(history: History) -> Sequence[Operation]:
    used = {operation.clock for operation in history.operations}
    if len(used) <= 1:
        return history.operations
    offsets = history.clocks
    return [
        attrs.evolve(
            operation,
            began=operation.began + offsets[operation.clock],
            ended=operation.ended + offsets[operation.clock],
        )
        for operation in history.operations
    ]


def judge(operations: Sequence[Operation], *, after_seq: int = 0, skew: float = 0.0) -> HistoryReport:
    """Judge operations whose times are by one clock."""
    ordered = sorted(operations, key=lambda operation: operation.began)
    findings = Findings(ordered[0].began if ordered else 0.0)
    offers = collect_offers(ordered, after_seq)
    queries = [
        operation
        for operation in ordered
        if isinstance(operation, QueryOperation) and operation.outcome is Outcome.OK
    ]
    reads = ReadJudge(offers, findings, after_seq=after_seq, skew=skew).judge(queries)
    group_atoms(offers)
    missing = MissingJudge(offers, findings, after_seq=after_seq, skew=skew)
    missing.judge(reads)
    calls = [operation for operation in ordered if isinstance(operation, LastSeqOperation)]
    LastSeqJudge(offers, findings, after_seq=after_seq, skew=skew).judge(calls, reads)
    events = {event.id for append in offers.appends for event in append.batch}
    return HistoryReport(
        operations=len(ordered),
        events=len(events),
        anomalies=findings.anomalies(),
        counts=findings.counts(),
        unjudged=missing.unjudged,
    )
