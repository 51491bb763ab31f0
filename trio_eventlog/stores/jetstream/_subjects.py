"""The subjects of a stream: how events, and what else belongs to a log, are named there.

A stream is a database and holds many logs. For each log it holds:

* ``eventlog.STREAM.LOG.e.ID.SEQ.MEMBER.TYPE.IDENTITY.MOB.RUN.STEP``: an event, in its wire form. The subject
  begins with the id, so that the server finds out quickly whether it has the id; the rest is for filters.
* ``eventlog.STREAM.LOG.head``: what is true of the whole log, as of the last batch; see ``_head.py``.
* ``eventlog.STREAM.LOG.lock``: which process appends, for as long as its time to live is renewed.
* ``eventlog.STREAM.LOG.pruned``: the highest seq that was pruned from behind other events, if there is one.

The stream keeps the last message of each subject. Its own sequence numbers are called positions here, to tell
them from the seqs of the log.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import attrs

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._payload import SCOPES
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._sealed import scopes_of_event

_STREAM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,24}")
_ABSENT: Final = "~"
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")

_MAX_TYPES: Final = 8
"""Event types that are asked for one by one; with more, all are read."""


def check_stream_name(stream: str) -> None:
    """Check the name of a stream.

    Raises:
      TypeError: it is not a string.
      ValueError: it is malformed.
    """
    if not isinstance(stream, str):
        raise TypeError(f"stream must be a string, got {type(stream).__name__}")
    if not _STREAM_NAME.fullmatch(stream):
        raise ValueError(f"a stream is named by 1 to 64 of A-Z, a-z, 0-9, _ and -, got {stream!a:.80}")


# --- tokens ---------------------------------------------------------------------------------------


def _hashed(text: str, size: int) -> str:
    digest = blake2b(text.encode(), digest_size=size).digest()
    # What base64.urlsafe_b64encode() makes of it, in half the time.
    return b2a_base64(digest, newline=False).translate(_URL_SAFE).decode().rstrip("=")


def id_token(event_id: str) -> str:
    """An id as a token. With 128 bits, two ids do not share one."""
    return _hashed(event_id, 16)


def _name_token(text: str) -> str:
    # As it is, if a person could have typed it into a filter. A hash begins with what no such name has.
    return text if _PLAIN.fullmatch(text) else "=" + _hashed(text, 9)


@lru_cache(maxsize=256)
def log_token(log: str) -> str:
    """The name of a log as a token, a different one for each."""
    return log if _PLAIN.fullmatch(log) else "=" + _hashed(log, 16)


@lru_cache(maxsize=4096)
def _token(text: str | None) -> str:
    return _ABSENT if text is None else _name_token(text)


# --- subjects -------------------------------------------------------------------------------------


def root(stream: str) -> str:
    """What the subjects of a stream begin with."""
    return f"eventlog.{stream}"


def _below(suffix: str) -> str:
    """A field of :class:`Subjects` that is made from ``base``."""
    derived: str = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.base + suffix, takes_self=True)
    )
    return derived


@attrs.frozen
class Subjects:
    """The subjects of one log."""

    stream: str
    log: str
    base: str = attrs.field(
        init=False,
        default=attrs.Factory(lambda self: f"{root(self.stream)}.{log_token(self.log)}", takes_self=True),
    )
    events: str = _below(".e.")
    """What all subjects of events begin with."""
    all_events: str = _below(".e.>")
    head: str = _below(".head")
    lock: str = _below(".lock")
    pruned: str = _below(".pruned")

    def id_filter(self, event_id: str) -> str:
        """Matches the event with this id."""
        return f"{self.events}{id_token(event_id)}.>"

    def id_filter_of(self, subject: str) -> str:
        """The :meth:`id_filter` that the subject of an event matches."""
        token = subject.removeprefix(self.events).partition(".")[0]
        return f"{self.events}{token}.>"

    def seq_filter(self, seq: int) -> str:
        """Matches the event with this seq."""
        return f"{self.events}*.{seq}.>"

    def of_event(self, event: PersistedEvent, id_filter: str) -> str:
        """The subject of an event, given the :meth:`id_filter` of its id."""
        names = (event.member_id, event.event.event_type, *scopes_of_event(event.event))
        return f"{id_filter[:-1]}{event.seq}.{'.'.join(map(_token, names))}"

    def filters(self, query: EventQuery) -> list[str]:
        """Filters of which each matching event matches exactly one.

        Other events may match, too: names that share a hash, and conditions that subjects do not tell.
        """
        scopes = [getattr(query, name) for name in SCOPES]
        fixed = ["*" if value is None else _name_token(value) for value in scopes]
        member = "*" if query.member_id is None else _name_token(query.member_id)
        types = list(dict.fromkeys(map(_name_token, query.event_types)))
        if not 1 <= len(types) <= _MAX_TYPES:
            types = ["*"]
        if [member, *types, *fixed] == ["*"] * (2 + len(SCOPES)):
            return [self.all_events]
        return [self.events + ".".join(["*", "*", member, kind, *fixed]) for kind in types]


def tells_all(query: EventQuery) -> bool:
    """Whether nearly every event that matches the filters of a query matches the query."""
    return query.since_ms is None and query.until_ms is None and query.module is None and not query.fields


def seq_of(subject: str) -> int:
    """The seq in the subject of an event.

    Raises:
      StoreUnusable: it is not the subject of an event.
    """
    tokens = subject.split(".")
    try:
        return int(tokens[5])
    except (IndexError, ValueError) as exc:
        raise StoreUnusable(f"damaged: {subject!r:.200} is no subject of an event") from exc
