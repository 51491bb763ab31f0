"""What stores report about a log: a description, and the result of a check."""

from __future__ import annotations

from typing import Final

import attrs

GAPS_SHOWN: Final = 10
"""Highest number of gaps that a description lists."""


@attrs.frozen(kw_only=True)
class Finding:
    """Something that is wrong with a log."""

    seq: int | None
    """Seq of the event; None if the problem is not about one event."""

    problem: str
    """What is wrong."""


@attrs.frozen(kw_only=True)
class StoreVerification:
    """The result of checking a log, from the ``verify`` of a store that has one."""

    events: int
    """Events checked."""

    first_seq: int | None
    """Lowest seq among them; None if there is none."""

    last_seq: int | None
    """Highest seq among them."""

    problems: int
    """Number of problems; 0 for a log that is sound."""

    findings: tuple[Finding, ...]
    """The first problems, at most as many as were asked for."""

    gaps: int
    """Number of runs of missing seqs: events lost, duplicate or pruned. Not a problem in itself."""

    missing: int
    """Missing seqs in all of these runs together."""

    first_gaps: tuple[tuple[int, int], ...]
    """The first of these runs, at most 10, each as its first and last missing seq."""


@attrs.frozen(kw_only=True)
class StoreDescription:
    """What a log holds, in numbers, from the ``describe`` of a store that has one."""

    events: int
    """Events held."""

    first_seq: int | None
    """Lowest seq held; None if the log is empty."""

    last_seq: int | None
    """Highest seq held; None if the log is empty."""

    highest_seq: int
    """Highest seq ever stored, which pruning does not lower; 0 before the first event."""

    first_timestamp_ms: int | None
    """Earliest ``timestamp_ms`` held, milliseconds since 1970-01-01 UTC; None if the log is empty."""

    last_timestamp_ms: int | None
    """Latest ``timestamp_ms`` held; None if the log is empty."""

    distinct_event_types: int
    """How many different event types occur."""

    event_types: tuple[tuple[str, int], ...]
    """The most frequent event types, each with its number of events, most frequent first."""

    distinct_members: int
    """How many different members occur."""

    members: tuple[tuple[str, int], ...]
    """The members with the most events, each with its number of events, most events first."""

    gaps: int
    """Number of runs of missing seqs between ``first_seq`` and ``last_seq``, whose events were lost or
    duplicates."""

    missing: int
    """Missing seqs in all of these runs together."""

    first_gaps: tuple[tuple[int, int], ...]
    """The first of these runs, at most 10, each as its first and last missing seq."""

    size_bytes: int | None
    """Bytes on disk of the whole database, which may hold other logs too; None for a store in memory."""

    wal_bytes: int | None = None
    """The part of ``size_bytes`` in SQLite's write-ahead log, which grows during long reads; None for other
    stores."""

    schema_version: int | None
    """Version of the database schema; None for a store in memory."""
