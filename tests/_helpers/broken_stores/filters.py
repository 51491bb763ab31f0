"""Stores that break S5 and S6: filters, order and limit, and how strings compare."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any
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


# --- modules, and values of payloads ----------------------------------------------------------------


class ModuleIgnored(CorrectMemoryStore):
    def _of_module(self, event: PersistedEvent, query: EventQuery) -> bool:
        return True


class ModulesAndAgents(CorrectMemoryStore):
    """Both are in one column."""

    def _of_module(self, event: PersistedEvent, query: EventQuery) -> bool:
        inner = event.event
        return query.module in (None, inner.agent_id if isinstance(inner, AgentEvent) else inner.module)


class ModulesIgnoreCase(CorrectMemoryStore):
    def _of_module(self, event: PersistedEvent, query: EventQuery) -> bool:
        module = getattr(event.event, "module", None)
        return query.module is None or (module is not None and module.lower() == query.module.lower())


class FieldsIgnored(CorrectMemoryStore):
    def _with_fields(self, event: PersistedEvent, query: EventQuery) -> bool:
        return True


class OneFieldOnly(CorrectMemoryStore):
    def _with_fields(self, event: PersistedEvent, query: EventQuery) -> bool:
        first = dict(list(query.fields.items())[:1])
        return super()._with_fields(event, attrs.evolve(query, fields=first))


class AbsentIsNull(CorrectMemoryStore):
    def _with_fields(self, event: PersistedEvent, query: EventQuery) -> bool:
        payload = event.event.payload
        found = payload if isinstance(payload, dict) else {}
        return all(self._same_value(wanted, found.get(key)) for key, wanted in query.fields.items())


class FieldsAsText(CorrectMemoryStore):
    """Looks for the pair in the text of the payload."""

    def _with_fields(self, event: PersistedEvent, query: EventQuery) -> bool:
        text = json.dumps(event.event.payload, sort_keys=True)
        pairs = (json.dumps({key: wanted}, sort_keys=True)[1:-1] for key, wanted in query.fields.items())
        return all(f"{pair}," in text or f"{pair}}}" in text for pair in pairs)


class LimitBeforeFields(CorrectMemoryStore):
    """What the statement cannot say is checked in what it has found."""

    async def _select(self, query: EventQuery) -> list[Held]:
        found = await super()._select(attrs.evolve(query, fields={}))
        return [held for held in found if self._with_fields(held.event, query)]


class EqualAsPythonHasIt(CorrectMemoryStore):
    def _same_value(self, wanted: Any, found: Any) -> bool:
        return bool(wanted == found)


class NumbersAsFloats(CorrectMemoryStore):
    def _same_value(self, wanted: Any, found: Any) -> bool:
        if type(wanted) in (int, float) and type(found) in (int, float):
            return float(wanted) == float(found)
        return super()._same_value(wanted, found)


class OrderOfKeysMatters(CorrectMemoryStore):
    def _same_value(self, wanted: Any, found: Any) -> bool:
        return json.dumps(wanted) == json.dumps(found)


class ListsAreSets(CorrectMemoryStore):
    def _same_value(self, wanted: Any, found: Any) -> bool:
        if isinstance(wanted, list) and isinstance(found, list):
            return sorted(map(repr, wanted)) == sorted(map(repr, found))
        return super()._same_value(wanted, found)


class KeysArePaths(CorrectMemoryStore):
    def _with_fields(self, event: PersistedEvent, query: EventQuery) -> bool:
        for path, wanted in query.fields.items():
            found = event.event.payload
            for key in path.split("."):
                if not isinstance(found, dict) or key not in found:
                    return False
                found = found[key]
            if not self._same_value(wanted, found):
                return False
        return True


class KeysIgnoreCase(CorrectMemoryStore):
    def _with_fields(self, event: PersistedEvent, query: EventQuery) -> bool:
        payload = event.event.payload
        if not query.fields or not isinstance(payload, dict):
            return not query.fields
        lowered = {key.lower(): value for key, value in payload.items()}
        return all(
            key.lower() in lowered and self._same_value(wanted, lowered[key.lower()])
            for key, wanted in query.fields.items()
        )


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
    memory("S5", "module ignored", ModuleIgnored, "S6"),
    memory("S5", "modules and agents in one column", ModulesAndAgents, "S6"),
    memory("S6", "modules ignore case", ModulesIgnoreCase),
    memory("S5", "fields ignored", FieldsIgnored, "S6"),
    memory("S5", "only one of the fields", OneFieldOnly),
    memory("S5", "a key that is absent is null", AbsentIsNull),
    memory("S5", "fields found anywhere in the text", FieldsAsText, "S6"),
    memory("S5", "limit before fields", LimitBeforeFields),
    memory("S6", "values equal as Python has it", EqualAsPythonHasIt),
    memory("S6", "numbers compared as floats", NumbersAsFloats),
    memory("S6", "order of keys matters", OrderOfKeysMatters),
    memory("S6", "lists compared as sets", ListsAreSets),
    memory("S6", "keys are paths", KeysArePaths),
    memory("S6", "keys ignore case", KeysIgnoreCase),
)
