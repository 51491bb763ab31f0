"""Stores that break S5 and S6: filters, order and limit, and how strings compare."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

import attrs

from tests._helpers.broken_stores._broken import ANY, Broken, memory
from tests._helpers.correct_stores import (
    CorrectMemoryStore,
    Held,
)
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    StoreError,
)

# --- S5: filters, order, limit --------------------------------------------------------------------


class InclusiveCursor(CorrectMemoryStore):
    def _after(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.after_seq is None or event.seq >= query.after_seq


class ExclusiveSince(CorrectMemoryStore):
    def _since(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.since_ms is None or event.timestamp_ms > query.since_ms


class InclusiveUntil(CorrectMemoryStore):
    def _until(self, event: PersistedEvent, query: EventQuery) -> bool:
        return query.until_ms is None or event.timestamp_ms <= query.until_ms


class LimitBeforeFilter(CorrectMemoryStore):
    def _candidates(self, query: EventQuery) -> list[Held]:
        return self._limited(self._ordered(super()._candidates(query)), query.limit)


class FalsyLimit(CorrectMemoryStore):
    def _limited(self, found: list[Held], limit: int | None) -> list[Held]:
        return super()._limited(found, limit or None)


class FalsyUntil(CorrectMemoryStore):
    def _until(self, event: PersistedEvent, query: EventQuery) -> bool:
        return not query.until_ms or event.timestamp_ms < query.until_ms


class TypesOfModulesOnly(CorrectMemoryStore):
    def _of_type(self, event: PersistedEvent, types: frozenset[str]) -> bool:
        return isinstance(event.event, AgentEvent) or super()._of_type(event, types)


class RunIdOfAgentsOnly(CorrectMemoryStore):
    def _in_scopes(self, event: PersistedEvent, query: EventQuery) -> bool:
        if query.run_id is not None and isinstance(event.event, ModuleEvent):
            return False
        return super()._in_scopes(event, query)


class OrForAnd(CorrectMemoryStore):
    def _matches(self, event: PersistedEvent, query: EventQuery, types: frozenset[str]) -> bool:
        given = attrs.asdict(query, filter=lambda field, value: value not in (None, ()), recurse=False)
        given.pop("limit", None)
        parts = [EventQuery(**{name: value}) for name, value in given.items()]
        match = super()._matches
        return not parts or any(match(event, part, frozenset(part.event_types)) for part in parts)


class AtMost999Types(CorrectMemoryStore):
    def _types(self, query: EventQuery) -> tuple[str, ...]:
        if len(query.event_types) > 999:
            raise StoreError("too many SQL variables")
        return super()._types(query)


class PageSize(CorrectMemoryStore):
    def _limited(self, found: list[Held], limit: int | None) -> list[Held]:
        return super()._limited(found, limit)[:1_000]


class OrderOfInsertion(CorrectMemoryStore):
    def _ordered(self, found: list[Held]) -> list[Held]:
        return found


class Descending(CorrectMemoryStore):
    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        return (await super().query(query))[::-1]


class FirstTypeOnly(CorrectMemoryStore):
    def _types(self, query: EventQuery) -> tuple[str, ...]:
        return query.event_types[:1]


class LimitKeepsHighest(CorrectMemoryStore):
    def _limited(self, found: list[Held], limit: int | None) -> list[Held]:
        return found if limit is None else found[max(0, len(found) - limit) :]


class NamedTwiceFoundTwice(CorrectMemoryStore):
    """Asks for each type by itself, and adds up what it finds."""

    async def _select(self, query: EventQuery) -> list[Held]:
        if not query.event_types:
            return await super()._select(query)
        found: list[Held] = []
        for event_type in query.event_types:
            found += await super()._select(attrs.evolve(query, event_types=(event_type,), limit=None))
        return self._limited(self._ordered(found), query.limit)


class TypesInThousands(CorrectMemoryStore):
    """Asks for a thousand types at once, and finds what is named in two of these lists twice."""

    async def _select(self, query: EventQuery) -> list[Held]:
        types = query.event_types
        if len(types) <= 1_000:
            return await super()._select(query)
        found: list[Held] = []
        for start in range(0, len(types), 1_000):
            part = types[start : start + 1_000]
            found += await super()._select(attrs.evolve(query, event_types=part, limit=None))
        return self._limited(self._ordered(found), query.limit)


# --- S6: strings compare exactly ------------------------------------------------------------------


class CaseInsensitive(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return text.casefold()


class TypesJoinedByCommas(CorrectMemoryStore):
    separator = ","

    def _types(self, query: EventQuery) -> tuple[str, ...]:
        return (
            tuple(self.separator.join(query.event_types).split(self.separator)) if query.event_types else ()
        )


class TypesJoinedByLines(TypesJoinedByCommas):
    separator = "\n"


class TypesInAnArray(CorrectMemoryStore):
    """As PostgreSQL reads an array, braces are not part of a text."""

    def _types(self, query: EventQuery) -> tuple[str, ...]:
        return tuple(re.sub("[{}]", "", event_type) for event_type in query.event_types)


class PrefixMatch(CorrectMemoryStore):
    def _same(self, wanted: str, found: object) -> bool:
        return isinstance(found, str) and found.startswith(wanted)


class LikePatterns(CorrectMemoryStore):
    def _same(self, wanted: str, found: object) -> bool:
        pattern = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in wanted)
        return isinstance(found, str) and re.fullmatch(pattern, found, re.DOTALL) is not None


class TrailingSpaceTrimmed(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return text.rstrip()


class EmptyIsNoFilter(CorrectMemoryStore):
    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        names = ("member_id", "identity", "mob_id", "run_id", "step_id")
        filters = {name: getattr(query, name) or None for name in names}
        return await super().query(attrs.evolve(query, **filters))


class Normalised(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return unicodedata.normalize("NFC", text)


class CaseInsensitiveIds(CorrectMemoryStore):
    def _identity(self, event: PersistedEvent) -> str:
        return event.id.casefold()


class NumbersAsStrings(CorrectMemoryStore):
    def _same(self, wanted: str, found: object) -> bool:
        return super()._same(wanted, str(found) if type(found) is int else found)


class AccentsFolded(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))


class BetweenTwoBounds(CorrectMemoryStore):
    """Two bounds become a BETWEEN, which includes both."""

    def _until(self, event: PersistedEvent, query: EventQuery) -> bool:
        if query.since_ms is not None and query.until_ms is not None:
            return event.timestamp_ms <= query.until_ms
        return super()._until(event, query)


class CursorForgotten(CorrectMemoryStore):
    """The statement for one run has no place for the cursor, unless there is a limit."""

    def _after(self, event: PersistedEvent, query: EventQuery) -> bool:
        return (query.run_id is not None and query.limit is None) or super()._after(event, query)


class TypesJoinedBySlashes(CorrectMemoryStore):
    def _types(self, query: EventQuery) -> tuple[str, ...]:
        return tuple("/".join(query.event_types).split("/")) if query.event_types else ()


class PercentDecoded(CorrectMemoryStore):
    """Texts go through the path of a URL."""

    def _key(self, text: str) -> str:
        return unquote(text)


class DigitsByValue(CorrectMemoryStore):
    def _key(self, text: str) -> str:
        return "".join(str(unicodedata.digit(char)) if char.isdigit() else char for char in text)


BROKEN: tuple[Broken, ...] = (
    memory("S5", "inclusive cursor", InclusiveCursor),
    memory("S5", "exclusive since_ms", ExclusiveSince),
    memory("S5", "inclusive until_ms", InclusiveUntil),
    memory("S5", "limit before filter", LimitBeforeFilter),
    memory("S5", "limit 0 is no limit", FalsyLimit),
    memory("S5", "until_ms 0 is no filter", FalsyUntil),
    memory("S5", "event_types filter module events only", TypesOfModulesOnly, "S6"),
    memory("S5", "run_id finds agent events only", RunIdOfAgentsOnly, "S6", "S7", "S8", "S14"),
    memory("S5", "OR for AND", OrForAnd),
    memory("S5", "at most 999 event types", AtMost999Types),
    memory("S5", "hidden page size of 1,000", PageSize),
    memory("S5", "order of insertion", OrderOfInsertion, "S2"),
    memory("S5", "descending", Descending, *ANY),
    memory("S5", "first of event_types only", FirstTypeOnly),
    memory("S5", "limit keeps the highest seqs", LimitKeepsHighest),
    memory("S5", "a type that is named twice is found twice", NamedTwiceFoundTwice),
    memory("S5", "types in lists of a thousand", TypesInThousands),
    memory("S6", "types joined by commas", TypesJoinedByCommas),
    memory("S6", "types joined by line breaks", TypesJoinedByLines),
    memory("S6", "types in an array", TypesInAnArray),
    memory("S6", "case-insensitive", CaseInsensitive),
    memory("S6", "prefixes match", PrefixMatch),
    memory("S6", "LIKE wildcards", LikePatterns),
    memory("S6", "trailing white space trimmed", TrailingSpaceTrimmed),
    memory("S6", "an empty string is no filter", EmptyIsNoFilter),
    memory("S6", "normalised to NFC", Normalised),
    memory("S6", "ids case-insensitive", CaseInsensitiveIds, "S1", "S7"),
    memory("S6", "numbers found as strings", NumbersAsStrings),
    memory("S6", "accents folded", AccentsFolded),
    memory("S5", "BETWEEN for two bounds", BetweenTwoBounds),
    memory("S5", "the cursor forgotten beside run_id", CursorForgotten),
    memory("S6", "types joined by slashes", TypesJoinedBySlashes),
    memory("S6", "percent signs decoded", PercentDecoded),
    memory("S6", "digits compared by value", DigitsByValue),
)
