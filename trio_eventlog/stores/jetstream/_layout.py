"""How logs lie in a stream: subjects, messages, and what a stream has to be like.

A stream is a database, and holds many logs. Of a log it holds:

* ``eventlog.STREAM.LOG.e.ID.SEQ.MEMBER.TYPE.IDENTITY.MOB.RUN.STEP``: an event, as its wire form. The subject
  begins with the id, so that the server finds out in no time whether it has the id; the rest is for filters.
* ``eventlog.STREAM.LOG.head``: what is true of the whole log, as of the last batch. Each batch ends with a
  new head and is stored only if the head before it is still there: that makes batches a sequence, across all
  appenders there ever were. What lies behind the last head does not count: a server whose disk is full was
  seen to store a part of a batch, in spite of all.
* ``eventlog.STREAM.LOG.lock``: who appends, for as long as its time to live is renewed.
* ``eventlog.STREAM.LOG.pruned``: the highest seq that was pruned from behind others, if there is one.

The stream keeps the last message of each subject. Its own sequence numbers are called positions here, to tell
them from the seqs of the log.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import attrs
import msgspec

from trio_eventlog._model._codec import (
    encoded_payload,
    from_json,
    persisted_event,
    scopes_of,
    sealed_agent_event,
    sealed_module_event,
    to_json,
)
from trio_eventlog._model._errors import CodecError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent, UnifiedEvent
from trio_eventlog._model._query import SCOPES, EventQuery
from trio_eventlog.stores.jetstream._driver import Publication

SCHEMA_VERSION: Final = 1

MAX_BATCH: Final = 999
"""A server takes a thousand messages in a batch, and one of them is the head."""

LEAST_PAYLOAD: Final = 128 * 1024
"""Bytes. An event of 64 KiB with its headers must fit into a message."""


_STREAM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,24}")
_ABSENT: Final = "~"


def check_stream_name(stream: str) -> None:
    """Raises TypeError or ValueError if that is no name of a stream."""
    if not isinstance(stream, str):
        msg = f"stream must be text, got {type(stream).__name__}"
        raise TypeError(msg)
    if not _STREAM_NAME.fullmatch(stream):
        msg = f"a stream is named by 1 to 64 of A-Z, a-z, 0-9, _ and -, got {stream!a:.80}"
        raise ValueError(msg)


# --- tokens of subjects ---------------------------------------------------------------------------


def _hashed(text: str, size: int) -> str:
    digest = blake2b(text.encode(), digest_size=size).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def id_token(event_id: str) -> str:
    """An id as a token. Two ids with the same one do not occur: it has 128 bits."""
    return _hashed(event_id, 16)


@lru_cache(maxsize=4096)
def _name_token(text: str) -> str:
    # As it is, if a person could have typed it into a filter. What is hashed begins with what no such name
    # has.
    return text if _PLAIN.fullmatch(text) else "=" + _hashed(text, 9)


@lru_cache(maxsize=256)
def log_token(log: str) -> str:
    """The name of a log as a token, another for each."""
    return log if _PLAIN.fullmatch(log) else "=" + _hashed(log, 16)


def _token(text: str | None) -> str:
    return _ABSENT if text is None else _name_token(text)


@attrs.frozen
class Subjects:
    """The subjects of one log."""

    stream: str
    log: str
    base: str = attrs.field(init=False)
    events: str = attrs.field(init=False)
    """What all subjects of events begin with."""
    all_events: str = attrs.field(init=False)
    head: str = attrs.field(init=False)
    lock: str = attrs.field(init=False)
    pruned: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        base = f"{root(self.stream)}.{log_token(self.log)}"
        for name, value in (
            ("base", base),
            ("events", f"{base}.e."),
            ("all_events", f"{base}.e.>"),
            ("head", f"{base}.head"),
            ("lock", f"{base}.lock"),
            ("pruned", f"{base}.pruned"),
        ):
            object.__setattr__(self, name, value)

    def of_id(self, event_id: str) -> str:
        """Whatever event has this id."""
        return f"{self.events}{id_token(event_id)}.>"

    def claim_of(self, subject: str) -> str:
        """The :meth:`of_id` that the subject of an event fits."""
        token = subject.removeprefix(self.events).partition(".")[0]
        return f"{self.events}{token}.>"

    def of_seq(self, seq: int) -> str:
        """Whatever event has this seq."""
        return f"{self.events}*.{seq}.>"

    def of_event(self, event: PersistedEvent, claim: str) -> str:
        """The subject of an event, ``claim`` being :meth:`of_id` of its id."""
        tokens = [str(event.seq), _token(event.member_id), _name_token(event.event.event_type)]
        tokens += map(_token, scopes_of(encoded_payload(event.event)))
        return claim[:-1] + ".".join(tokens)

    def filters(self, query: EventQuery) -> list[str]:
        """Subjects of which each matching event has one.

        Others may have it, too: names that are hashed alike, and what no subject tells.
        """
        scopes = [getattr(query, name) for name in SCOPES]
        fixed = ["*" if value is None else _name_token(value) for value in scopes]
        member = "*" if query.member_id is None else _name_token(query.member_id)
        types = list(dict.fromkeys(map(_name_token, query.event_types)))
        if not 1 <= len(types) <= _MOST_TYPES:
            types = ["*"]
        if [member, *types, *fixed] == ["*"] * (2 + len(SCOPES)):
            return [self.all_events]
        return [self.events + ".".join(["*", "*", member, kind, *fixed]) for kind in types]


_MOST_TYPES: Final = 8
"""Event types that are asked for one by one; with more, all are read."""


def root(stream: str) -> str:
    """What the subjects of a stream begin with."""
    return f"eventlog.{stream}"


def seq_of(subject: str) -> int:
    """The seq in the subject of an event.

    Raises:
      StoreUnusable: it is none of ours.
    """
    tokens = subject.split(".")
    try:
        return int(tokens[5])
    except (IndexError, ValueError) as exc:
        raise StoreUnusable(f"damaged: {subject!r:.200} is no subject of an event") from exc


# --- the head -------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Head:
    """What is true of a whole log, as of its last batch."""

    log: str
    log_id: str
    last_seq: int
    session: str
    """Of the appender that wrote it."""
    number: int
    """How many heads that one has written."""
    mixed_through: int
    """The position up to which events may be in another order than their seqs; 0 for none."""
    mixed_seq: int
    """The highest seq among those."""
    voids: tuple[tuple[int, int], ...]
    """Positions, first and last, between which nothing counts: a batch of which a server had stored a
    part."""
    opened: int = 0
    """How often the log was opened for appending; 0 if by an older version of this library."""
    first_seq: int = 0
    """The seq of the event that was stored first; 0 for none, and as above."""
    position: int
    """Its own; 0 before it is stored."""

    def is_void(self, position: int) -> bool:
        """Whether what lies there does not count."""
        return any(first <= position <= last for first, last in self.voids)

    def encode(self) -> bytes:
        """As JSON, a position of its own left open."""
        fields = {"format": SCHEMA_VERSION, **attrs.asdict(self)}
        del fields["position"]
        return msgspec.json.encode(fields)


HERE: Final = -1
"""For ``mixed_through`` and the end of a void: the position of this very head, which nobody knows before it
is stored."""


def settled(head: Head, position: int) -> Head:
    """A head that is stored at this position."""
    return attrs.evolve(
        head,
        position=position,
        mixed_through=position if head.mixed_through == HERE else head.mixed_through,
        voids=tuple((first, position - 1 if last == HERE else last) for first, last in head.voids),
    )


def barrier(head: Head, *, session: str, number: int) -> Head:
    """A head that says the same as the one before it, and that nothing between the two counts."""
    voids, first = head.voids, head.position + 1
    if voids and voids[-1][1] == head.position - 1:
        # Only that head lies between the two: a log that is opened over and over has one of them.
        voids, first = voids[:-1], voids[-1][0]
    return attrs.evolve(head, session=session, number=number, voids=(*voids, (first, HERE)))


def head_of(data: bytes, position: int) -> Head:
    """Read a head.

    Raises:
      StoreUnusable: it is none of ours, or of a newer version of this library.
    """
    try:
        stored = msgspec.json.decode(data, type=_StoredHead)
    except msgspec.MsgspecError as exc:
        raise StoreUnusable(f"damaged: the log's head cannot be read: {exc}") from exc
    if stored.format > SCHEMA_VERSION:
        raise StoreUnusable(
            f"the log was written by a newer version of this library (format {stored.format},"
            f" known is {SCHEMA_VERSION}); update trio-eventlog"
        )
    fields = {name: getattr(stored, name) for name in stored.__struct_fields__ if name != "format"}
    return settled(Head(**fields, position=0), position)


class _StoredHead(msgspec.Struct):
    format: int
    log: str
    log_id: str
    last_seq: int
    session: str
    number: int
    mixed_through: int
    mixed_seq: int
    voids: tuple[tuple[int, int], ...] = ()
    opened: int = 0
    first_seq: int = 0


# --- messages -------------------------------------------------------------------------------------

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_BATCH: Final = "Nats-Batch-Id"
_BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
_BATCH_COMMIT: Final = "Nats-Batch-Commit"
_TTL: Final = "Nats-TTL"


@attrs.frozen
class Draft:
    """An event on its way into a message."""

    event: PersistedEvent
    subject: str
    claim: str
    body: bytes

    @property
    def size(self) -> int:
        """Bytes of the message, headers included; at most so many."""
        return len(self.body) + len(self.claim) + _HEADERS_SIZE


_HEADERS_SIZE: Final = 256
"""Bytes of the headers of an event but for its claim, rounded up."""


def draft(subjects: Subjects, event: PersistedEvent) -> Draft:
    """Prepare a sealed event."""
    claim = subjects.of_id(event.id)
    return Draft(event, subjects.of_event(event, claim), claim, to_json(event))


def batch_piece(item: Draft, batch: str, number: int) -> Publication:
    """An event as the message of this number in a batch. It is stored only if its id is not there yet."""
    headers = {_EXPECTED: "0", _EXPECTED_SUBJECT: item.claim, _BATCH: batch, _BATCH_SEQUENCE: str(number)}
    return Publication(item.subject, item.body, headers)


def batch_end(
    subjects: Subjects, head: Head, *, after: int, batch: str, number: int, reply: str
) -> Publication:
    """The head that ends a batch, if the one before it is at ``after``."""
    headers = {**head_fields(after), _BATCH: batch, _BATCH_SEQUENCE: str(number), _BATCH_COMMIT: "1"}
    return Publication(subjects.head, head.encode(), headers, reply)


def head_fields(after: int) -> dict[str, str]:
    """The headers of a head. Whatever the stream forgets with time, it keeps this."""
    return {_EXPECTED: str(after), _TTL: "never"}


def lock_fields(after: int, seconds: int) -> dict[str, str]:
    """The headers of a lock that lives so long, if the one before it is at ``after``; 0 for none."""
    return {_EXPECTED: str(after), _TTL: str(seconds)}


def batch_abort(subjects: Subjects, batch: str) -> Publication:
    """A message that no batch can go on with, so that the server drops what it has of this one."""
    return Publication(f"{subjects.base}.abort", b"", {_BATCH: batch, _BATCH_SEQUENCE: str(MAX_BATCH + 1)})


# --- events out of messages -----------------------------------------------------------------------


class _Agent(msgspec.Struct, tag_field="kind", tag="agent"):
    agent_id: str
    event_type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _Module(msgspec.Struct, tag_field="kind", tag="module"):
    module: str
    event_type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    id: str
    seq: int
    timestamp_ms: int
    event: _Agent | _Module
    member_id: str | None = None


_decode_body: Final = msgspec.json.Decoder(_Body).decode


def event_of(body: bytes) -> PersistedEvent:
    """The event in a message. Its payload is decoded when somebody looks at it.

    Raises:
      StoreUnusable: there is none.
    """
    try:
        found = _decode_body(body)
    except msgspec.MsgspecError as exc:
        raise StoreUnusable(f"damaged: a message holds no event: {exc}: {body[:60]!r}") from exc
    inner = found.event
    event: UnifiedEvent
    if type(inner) is _Agent:
        event = sealed_agent_event(inner.agent_id, inner.event_type, bytes(inner.payload))
    else:
        assert type(inner) is _Module
        event = sealed_module_event(inner.module, inner.event_type, bytes(inner.payload))
    return persisted_event(found.id, found.seq, found.timestamp_ms, found.member_id, event)


def flaw(subjects: Subjects, subject: str, body: bytes) -> str | None:
    """What keeps a message from being the event that was stored there."""
    try:
        event = from_json(body, PersistedEvent)
    except CodecError as exc:
        return str(exc)
    expected = subjects.of_event(event, subjects.of_id(event.id))
    if subject != expected:
        return f"its subject is {subject!a:.300}, expected {expected!a:.300}"
    return None


# --- the stream -----------------------------------------------------------------------------------


def stream_config(
    stream: str, replicas: int, max_age: float | None, max_bytes: int | None = None
) -> dict[str, Any]:
    """The configuration of a new stream."""
    return {
        "name": stream,
        "description": "event logs of trio-eventlog",
        "subjects": [f"{root(stream)}.>"],
        "storage": "file",
        "num_replicas": replicas,
        "max_age": 0 if max_age is None else int(max_age * 1e9),
        "max_bytes": -1 if max_bytes is None else max_bytes,
        # A full stream refuses, rather than to forget what nobody has said may go.
        "discard": "new",
        "metadata": {"trio_eventlog": str(SCHEMA_VERSION)},
        **_NEEDED,
    }


_NEEDED: Final[Mapping[str, Any]] = {
    "retention": "limits",
    "max_msgs_per_subject": 1,
    "allow_atomic": True,
    "allow_msg_ttl": True,
    "allow_direct": True,
    "deny_delete": False,
    "deny_purge": False,
}

_TO_READ: Final = ("allow_direct",)

_FOR_UPKEEP: Final = ("deny_delete", "deny_purge")
"""What nobody can take back, and what appending does without."""


def check_stream(stream: str, config: Mapping[str, Any], *, writes: bool) -> None:
    """Look at the configuration of a stream that is to be opened.

    Raises:
      StoreUnusable: it is none of ours, of a newer layout, or lacks what is needed.
    """
    version = (config.get("metadata") or {}).get("trio_eventlog", str(SCHEMA_VERSION))
    if version != str(SCHEMA_VERSION):
        raise StoreUnusable(
            f"stream {stream} has layout {version!r:.20}, known is {SCHEMA_VERSION}; update trio-eventlog"
        )
    if config.get("subjects") != [f"{root(stream)}.>"]:
        raise StoreUnusable(
            f"stream {stream} is none of ours: its subjects are {config.get('subjects')!r:.200},"
            f" expected ['{root(stream)}.>']; name another stream"
        )
    wrong = _wrong(config, _NEEDED if writes else _TO_READ)
    if writes:
        wrong += _harmful(config)
        if config.get("sealed"):
            wrong.append("it is sealed")
    if wrong:
        raise StoreUnusable(
            f"stream {stream} cannot hold logs: {'; '.join(wrong)}; change that, or name another stream"
        )


def misfit(stream: str, config: Mapping[str, Any]) -> str | None:
    """What somebody has changed in a stream that is open for appending so that it cannot be relied on any
    more.

    They can change it back. None if there is nothing.
    """
    wrong = _wrong(config, [name for name in _NEEDED if name not in _FOR_UPKEEP]) + _harmful(config)
    if config.get("subjects") != [f"{root(stream)}.>"]:
        wrong.append(f"subjects is {config.get('subjects')!r:.200}, not ['{root(stream)}.>']")
    return "; ".join(wrong) or None


def _wrong(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [
        f"{name} is {config.get(name, False)!r}, not {_NEEDED[name]!r}"
        for name in names
        if config.get(name, False) != _NEEDED[name]
    ]


def _harmful(config: Mapping[str, Any]) -> list[str]:
    """Settings with which the server would lose, hide or invent events, or forget which seqs there were."""
    harmful = [
        f"{name} is {config[name]!r:.100}, which must not be set"
        for name in ("no_ack", "discard_new_per_subject", "subject_transform", "sources", "mirror")
        if config.get(name)
    ]
    if config.get("subject_delete_marker_ttl"):
        harmful.append("subject_delete_marker_ttl is set, and its markers would stand in the place of events")
    if config.get("storage", "file") != "file":
        harmful.append(f"storage is {config['storage']!r}, not 'file'")
    if config.get("persist_mode") == "async":
        harmful.append("persist_mode is 'async', with which the server answers before it has written")
    limits = [name for name in ("max_msgs", "max_bytes") if config.get(name, -1) > 0]
    if config.get("discard", "old") == "old" and limits:
        harmful.append(
            f"discard is 'old' with {' and '.join(limits)}: a full stream would forget which seqs there were;"
            " set it to 'new'"
        )
    if 0 < config.get("max_msg_size", -1) < LEAST_PAYLOAD:
        harmful.append(
            f"max_msg_size is {config['max_msg_size']}; set it to {LEAST_PAYLOAD} or more, or to -1"
        )
    return harmful
