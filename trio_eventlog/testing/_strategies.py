"""Hypothesis strategies for events and queries, with the values at which stores go wrong.

They stay within what every store must hold (see :class:`EventStore`) and collide often: an id, a seq or a
text that never comes twice tests nothing.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    UnifiedEvent,
)
from trio_eventlog.testing._program import Series

MAX_STORED: Final = 2**63 - 1
MAX_U64: Final = 2**64 - 1

# Each family holds texts that something takes for the same, simplest first.
FAMILIES: Final[tuple[tuple[str, ...], ...]] = (
    ("a", "A", "ab", "\u00e1", "a\u0301"),  # case, prefix, accents
    ("a", "a ", " a", "a\t", "a\n"),  # white space at the ends
    ("a", "a\0", "a\0b", "\0"),  # C ends a string at NUL
    ("a", "", "%", "_", "a%"),  # no filter at all, and the wildcards of LIKE
    ("ab", "a_", "a%b", "*", "a*", "?"),
    ("\u00e9", "e\u0301", "e", "\u00c9"),  # the same letter in several normal forms
    ("ss", "\u00df", "SS", "\u1e9e"),  # what case folding makes of them
    ("i", "I", "\u0130", "\u0131"),
    ("\U0001f600", "\ufffd", "?", "\U0001f601"),  # beyond the BMP
    ("'", '"', "''", "\\", "\\'", "';--"),  # quotes
    ("1", "01", "1.0", " 1", "1e0"),  # numbers as text
    ("null", "None", "true", "[]", "{}"),
    ("fi", "\ufb01"),  # compatibility forms
    ("\u212a", "K", "k"),
    ("a", "b", "a,b", "a;b", "a|b", "a b", "a\tb", "a\nb", "a\0b", "a', 'b", 'a", "b'),  # lists as text
    ("a", "{a}", "(a)", "[a]", "<a>", "$a", ":a", "@a", "a\\", "\\a"),  # what templates and arrays mark
    # Ends of lines, and what is not shown.
    (
        *("ab", "a\nb", "a\\nb", "a\rb", "a\r\nb", "a\x0bb", "a\x85b", "a\u2028b", "a\u200bb", "a\u00adb"),
        *("\ufeffab", "a\x01b", "a\x7fb", "a\uffffb", "a\ue000b"),
    ),
    # Escapes, as texts, paths, and names that mean something.
    (
        *("a b", "a+b", "a%20b", "a&#32;b", "a\\u0020b", "a\\tb"),
        *("a.b", "a-b", "a_b", "a/b", "a:b", "$a.b", "a[b]", "__proto__"),
    ),
    # Digits, and times as texts.
    (
        *("1", "\u0661", "\u00b9", "\uff11"),
        *("2024-01-02T03:04:05Z", "2024-01-02T03:04:05+00:00", "2024-01-02T03:04:05.000Z"),
    ),
    ("x" * 500, "x" * 499, "x" * 500 + "y"),  # long
)

_TEXTS: Final = tuple(dict.fromkeys(text for family in FAMILIES for text in family))
_SEQS: Final = (*range(1, 12), 2**31, 2**32, 2**53 - 1, 2**53, 2**53 + 1, MAX_STORED - 1, MAX_STORED)
_TIMES: Final = (0, 1, 2, 3, 5, 2**31, 2**53, 2**53 + 1, MAX_STORED - 1, MAX_STORED)
_BOUNDS: Final = (*_TIMES, MAX_STORED + 1, MAX_U64)
_LIMITS: Final = (0, 1, 2, 3, 100, 10_000, MAX_STORED, MAX_U64)
NUMBERS: Final = (
    *(0, 1, -1, 1.0, 0.0, -0.0, 0.1, 1e22, 1e300, 5e-324, -1.5),
    # Some need 17 digits.
    *(0.1 + 0.2, 1 / 3, 2 / 3, 1e23, 123456789.12345679, 1.7976931348623157e308),
    *(2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, MAX_U64, -(2**63)),
)
_SCOPES: Final = ("identity", "mob_id", "run_id", "step_id")


# Hypothesis validates and labels each strategy that is made, which takes longer than most draws: what depends
# on nothing is made once, here and in the checks.
_TEXT: Final = st.sampled_from(_TEXTS) | st.text(max_size=8)


def texts() -> SearchStrategy[str]:
    """Texts that look alike, and any others.

    Returns:
      A strategy for str of at most 512 bytes in UTF-8, with NUL, combining and case pairs, characters
      beyond the BMP, wildcards, quotes, white space, the empty text, texts that look like numbers.
    """
    return _TEXT


def _any_payload() -> SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.sampled_from(NUMBERS) | _TEXT
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
        max_leaves=6,
    )
    scoped = st.dictionaries(
        st.sampled_from((*_SCOPES, "kind", "payload", "seq")),
        _TEXT | st.sampled_from((None, 1, True, 1.0)) | st.just(["a"]) | st.just({"run_id": "a"}),
        min_size=1,
        max_size=4,
    )
    return st.none() | st.sampled_from(NUMBERS) | scoped | values


_PAYLOAD: Final = _any_payload()

_FIELDS: Final = st.dictionaries(
    st.sampled_from((*_SCOPES, "kind", "payload", "seq")),
    _TEXT | st.sampled_from((None, 1, True, 1.0)) | st.just(["a"]) | st.just({"run_id": "a"}),
    min_size=1,
    max_size=2,
)


def payloads() -> SearchStrategy[Any]:
    """JSON values of every type.

    Returns:
      A strategy for None, bool, int from -2**63 to 2**64 - 1, finite float, str, list and dict, nested;
      among them dicts with the scopes of queries as texts, as numbers and nested, and with keys
      that the wire form uses itself, such as ``kind``.
    """
    return _PAYLOAD


_EVENT: Final = st.builds(ModuleEvent, _TEXT, _TEXT, _PAYLOAD) | st.builds(AgentEvent, _TEXT, _TEXT, _PAYLOAD)


def events() -> SearchStrategy[UnifiedEvent]:
    """Agent and module events, with :func:`texts` and :func:`payloads`.

    Returns:
      A strategy for :class:`AgentEvent` and :class:`ModuleEvent`.
    """
    return _EVENT


_Batches: TypeAlias = SearchStrategy[list[PersistedEvent]]


def _with_ids(ids: SearchStrategy[str]) -> SearchStrategy[PersistedEvent]:
    return st.builds(
        PersistedEvent, ids, st.sampled_from(_SEQS), st.sampled_from(_TIMES), st.none() | _TEXT, _EVENT
    )


_PERSISTED_EVENT: Final = _with_ids(_TEXT)
_OF_ONE_FAMILY: Final = tuple(_with_ids(st.sampled_from(family)) for family in FAMILIES)
"""Independent ids hardly ever differ in case alone."""


def envelopes() -> SearchStrategy[EventEnvelope]:
    """Events with an identity and a time, as a program hands them in.

    Returns:
      A strategy for :class:`EventEnvelope`, with ids that differ in case, accents or white space alone, and
      that come again; times from 0 to 2**63 - 1 ms, also near 2**31 and 2**53. Every one of them can be
      ingested.
    """
    return st.builds(EventEnvelope.of, events(), event_id=texts(), timestamp_ms=st.sampled_from(_TIMES))


def persisted_events() -> SearchStrategy[PersistedEvent]:
    """Events as a store gets them.

    Returns:
      A strategy for :class:`PersistedEvent`, with seqs from 1 to 2**63 - 1 and times from 0 on, also near
      2**31, 2**53 and the end; members that are not the agent.
    """
    return _PERSISTED_EVENT


def _itself(strategy: _Batches) -> _Batches:
    return strategy


def batches(*, max_batch: int | None = None, unique: bool = False) -> SearchStrategy[list[PersistedEvent]]:
    """Batches for :meth:`EventStore.append_batch`.

    Args:
      max_batch: most events of a batch, at least 1; what the store declares as ``max_batch``. None: some
        batches have 1,000 and 5,000 events.
      unique: no id and no seq comes twice within a batch. Otherwise they do: some batches hold repeats,
        some must raise ``SequenceConflict``.

    Returns:
      A strategy for lists of :class:`PersistedEvent`, the empty one included.

    Raises:
      ValueError: ``max_batch`` is less than 1.
    """
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch: expected at least 1, got {max_batch}")
    most = 8 if max_batch is None else min(8, max_batch)
    # Events of a batch differ in two ways, so that a pair of keys says whether one is unique.
    keys = (lambda event: event.id, lambda event: event.seq) if unique else None
    any_ids = st.lists(_PERSISTED_EVENT, max_size=most, unique_by=keys)
    like_ids = [st.lists(events, max_size=most, unique_by=keys) for events in _OF_ONE_FAMILY]
    small = any_ids | st.sampled_from(like_ids).flatmap(_itself)
    sizes = [size for size in (100, 1_000, 5_000) if max_batch is None or size <= max_batch]
    if max_batch is not None and max_batch > most and max_batch not in sizes:
        sizes.append(max_batch)
    if not sizes:
        return small
    large = st.builds(Series, st.sampled_from((1, 2**32)), st.sampled_from(sorted(sizes)))
    # One in ten: they take long.
    return st.integers(0, 9).flatmap(lambda number: large if number == 9 else small)  # noqa: PLR2004 - the 9 above


def queries() -> SearchStrategy[EventQuery]:
    """Queries with no filter, one or several.

    Returns:
      A strategy for :class:`EventQuery`, with bounds to 2**64 - 1, limits of 0, 1 and more than there is,
      many event types, fields of every JSON type, and texts that match events of the other strategies, or
      nearly.
    """
    fields: dict[str, SearchStrategy[Any]] = {
        "since_ms": st.sampled_from(_BOUNDS),
        "until_ms": st.sampled_from(_BOUNDS),
        "after_seq": st.sampled_from((*_SEQS, *_BOUNDS)),
        "limit": st.sampled_from(_LIMITS),
        "member_id": texts(),
        "module": texts(),
        "fields": _FIELDS,
        **{scope: texts() for scope in _SCOPES},
        "event_types": st.lists(texts(), max_size=4).map(tuple)
        | st.just(tuple(f"{number}" for number in range(40))),
    }
    # A filter alone finds more than all of them together.
    few = st.lists(st.sampled_from(list(fields)), max_size=2, unique=True)
    return _queries(few | st.just(list(fields)), fields)


@st.composite
def _queries(
    draw: DrawFn, names: SearchStrategy[list[str]], fields: dict[str, SearchStrategy[Any]]
) -> EventQuery:
    # Drawn one by one: a strategy that is built for each query takes longer than all the rest.
    return EventQuery(**{name: draw(fields[name]) for name in draw(names)})
