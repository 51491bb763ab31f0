"""Stores that break S7 to S9: what is read equals what was written, nothing is shared, and ``last_seq``."""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests._helpers.broken_stores._broken import Broken, file, memory
from tests._helpers.correct_stores import (
    TOP,
    CorrectFileStore,
    CorrectMemoryStore,
    Held,
)
from trio_eventlog import (
    EventQuery,
    PersistedEvent,
)

# --- S7: what is read equals what was written -----------------------------------------------------


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with everything in it changed, from the inside out; keys stay as they are."""
    if isinstance(value, list):
        value = [mapped(item, change) for item in value]
    elif isinstance(value, dict):
        value = {key: mapped(item, change) for key, item in value.items()}
    return change(value)


class DamagedPayload(CorrectMemoryStore):
    """Filters see the payload undamaged, as if they had columns of their own."""

    def _give(self, held: Held) -> PersistedEvent:
        event = super()._give(held)
        payload = mapped(event.event.payload, self._damaged)
        return attrs.evolve(event, event=attrs.evolve(event.event, payload=payload))

    def _damaged(self, value: Any) -> Any:
        raise NotImplementedError


class TextCutAtNul(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return value.split("\0")[0] if isinstance(value, str) else value


class IntegersThroughFloats(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return int(float(value)) if type(value) is int else value


class TrueIsOne(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return int(value) if type(value) is bool else value


class FloatsAreIntegers(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return int(value) if type(value) is float and value.is_integer() else value


class EmptyIsNone(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return None if value == "" else value


class NoneDropped(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None}


class IntegersClamped(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return min(value, TOP) if type(value) is int else value


class BeyondTheBmp(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return re.sub("[\U00010000-\U0010ffff]", "\ufffd", value) if isinstance(value, str) else value


class SixteenDigits(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return float(f"{value:.16g}") if type(value) is float else value


class LineEndsUnified(DamagedPayload):
    """As files do that were opened as text."""

    def _damaged(self, value: Any) -> Any:
        return re.sub("\r\n?", "\n", value) if isinstance(value, str) else value


class ByteOrderMarkDropped(DamagedPayload):
    def _damaged(self, value: Any) -> Any:
        return value.removeprefix("\ufeff") if isinstance(value, str) else value


class EscapesResolved(DamagedPayload):
    """A backslash and an n are a line break when they come back."""

    def _damaged(self, value: Any) -> Any:
        return value.replace("\\n", "\n") if isinstance(value, str) else value


class TimesRewritten(DamagedPayload):
    """What looks like a time is taken for one."""

    def _damaged(self, value: Any) -> Any:
        return re.sub(r"(\d\d:\d\d)Z$", r"\1+00:00", value) if isinstance(value, str) else value


class KeysDamaged(DamagedPayload):
    """Keys that become the same, of which the last one counts."""

    def _damaged(self, value: Any) -> Any:
        return {self._key_of(key): item for key, item in value.items()} if isinstance(value, dict) else value

    def _key_of(self, key: str) -> str:
        raise NotImplementedError


class KeysNormalised(KeysDamaged):
    def _key_of(self, key: str) -> str:
        return unicodedata.normalize("NFC", key)


class KeysTrimmed(KeysDamaged):
    def _key_of(self, key: str) -> str:
        return key.strip(" ") or key


class KeysWithoutProto(KeysDamaged):
    """JavaScript has a meaning of its own for one key."""

    def _key_of(self, key: str) -> str:
        return "proto" if key == "__proto__" else key


class KeysInLowerCase(KeysDamaged):
    """Where another key differs in its case alone, that is."""

    def _damaged(self, value: Any) -> Any:
        if not isinstance(value, dict) or len({key.lower() for key in value}) == len(value):
            return value
        return super()._damaged(value)

    def _key_of(self, key: str) -> str:
        return key.lower()


class SeqThroughFloat(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        event = super()._give(held)
        return attrs.evolve(event, seq=int(float(event.seq)))


class TimeInSeconds(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        event = super()._give(held)
        return attrs.evolve(event, timestamp_ms=event.timestamp_ms // 1_000 * 1_000)


class MemberIsTheAgent(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        event = super()._give(held)
        return attrs.evolve(event, member_id=getattr(event.event, "agent_id", None))


class BoundsOverflow(CorrectMemoryStore):
    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        bounds = (query.since_ms, query.until_ms, query.limit, query.after_seq)
        if any(bound is not None and bound > TOP for bound in bounds):
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return await super().query(query)


# --- S8: nothing is shared ------------------------------------------------------------------------


class KeepsGivenObjects(CorrectMemoryStore):
    def _hold(self, event: PersistedEvent) -> Held:
        return attrs.evolve(super()._hold(event), event=event)

    def _give(self, held: Held) -> PersistedEvent:
        return copy.deepcopy(held.event)


class KeepsShallowCopies(KeepsGivenObjects):
    def _hold(self, event: PersistedEvent) -> Held:
        held = super()._hold(event)
        return attrs.evolve(held, event=with_shallow_copy(held.event))


class GivesItsOwnObjects(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        return held.event


class GivesShallowCopies(CorrectMemoryStore):
    def _give(self, held: Held) -> PersistedEvent:
        return with_shallow_copy(held.event)


def with_shallow_copy(event: PersistedEvent) -> PersistedEvent:
    return attrs.evolve(event, event=attrs.evolve(event.event, payload=copy.copy(event.event.payload)))


class GivesItsOwnList(CorrectMemoryStore):
    """The events in the list are the reader's own; only the list is not."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.results: dict[tuple[EventQuery, int], list[PersistedEvent]] = {}

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        found = await super().query(query)
        # A log only grows: as many events are the same events.
        result = self.results.setdefault((query, len(found)), found)
        # What a reader has cleared stays empty, what a reader has added stays there.
        result[:] = [*found[: len(result)], *result[len(found) :]]
        return result


# --- S9: last_seq ---------------------------------------------------------------------------------


class LastSeqIsACount(CorrectMemoryStore):
    async def last_seq(self) -> int:
        await super().last_seq()
        return len(self.by_seq)


class LastSeqIsTheLatest(CorrectMemoryStore):
    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        self.highest = new[-1].event.seq


class LastSeqCountsRepeats(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        elsewhere = await super().append_batch(events)
        self.highest = max([self.highest, *elsewhere])
        return elsewhere


class LastSeqForgottenOnReopen(CorrectFileStore):
    async def _open(self) -> None:
        await super()._open()
        self.highest = 0


BROKEN: tuple[Broken, ...] = (
    memory("S7", "text cut at NUL", TextCutAtNul),
    memory("S7", "integers through floats", IntegersThroughFloats),
    memory("S7", "seq through float", SeqThroughFloat, "S2"),
    memory("S7", "time in seconds", TimeInSeconds, "S14"),
    memory("S7", "true is 1", TrueIsOne),
    memory("S7", "1.0 is 1", FloatsAreIntegers),
    memory("S7", "floats of 16 digits", SixteenDigits),
    memory("S7", "keys normalised to NFC", KeysNormalised),
    memory("S7", "keys trimmed", KeysTrimmed),
    memory("S7", "keys that differ in case alone", KeysInLowerCase),
    memory("S7", "ends of lines unified", LineEndsUnified),
    memory("S7", "a byte order mark dropped", ByteOrderMarkDropped),
    memory("S7", "escapes resolved", EscapesResolved),
    memory("S7", "times rewritten", TimesRewritten),
    memory("S7", "the key __proto__ renamed", KeysWithoutProto),
    memory("S7", "bounds overflow", BoundsOverflow, "S5", "S11", "S12"),
    memory("S7", "an empty string is None", EmptyIsNone),
    memory("S7", "the member is the agent", MemberIsTheAgent),
    memory("S7", "None dropped from dicts", NoneDropped),
    memory("S7", "integers clamped", IntegersClamped),
    memory("S7", "characters beyond the BMP damaged", BeyondTheBmp),
    memory("S8", "keeps the given objects", KeepsGivenObjects),
    memory("S8", "keeps shallow copies", KeepsShallowCopies),
    memory("S8", "gives its own objects", GivesItsOwnObjects),
    memory("S8", "gives shallow copies", GivesShallowCopies),
    memory("S8", "gives its own list", GivesItsOwnList),
    memory("S9", "last_seq is a count", LastSeqIsACount, "S14"),
    memory("S9", "last_seq is the latest, not the highest", LastSeqIsTheLatest),
    memory("S9", "last_seq counts repeats", LastSeqCountsRepeats),
    file("S9", "last_seq forgotten on reopen", LastSeqForgottenOnReopen, "S10"),
)
