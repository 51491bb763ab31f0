"""Values as Python: what a program shows of the events, queries and numbers that it uses.

Programs are pasted by people: what follows a rule is written as that rule, however long it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent

_MAX_LINE: Final = 110

_MIN_RANGE: Final = 12
"""How many consecutive seqs, or events on them, are written as a range."""

_MIN_NUMBERED_TYPES: Final = 20


def numbered(n: int) -> PersistedEvent:
    """An event that differs from others of its kind in its number alone."""
    return PersistedEvent(f"id-{n}", n, n, None, ModuleEvent("m", "t", {"n": n}))


class Series(list[PersistedEvent]):
    """Events that differ in their seqs alone, so that a program can name any number of them in one line."""

    def __init__(self, first: int, count: int) -> None:
        super().__init__(map(numbered, range(first, first + count)))
        self.code = (
            '[PersistedEvent(f"id-{n}", n, n, None, ModuleEvent("m", "t", {"n": n}))'
            f" for n in range({first}, {first + count})]"
        )

    def __repr__(self) -> str:
        return self.code


def numbered_types(count: int) -> tuple[str, ...]:
    """Event types that a program can name in one line, however many they are."""
    return tuple(f"type-{n}" for n in range(count))


class Code(str):
    """What is Python already."""

    __slots__ = ()


def code_of(value: object) -> str:
    """A value as Python: an event, a query, or anything that is made of them and of literals."""
    match value:
        case Code():
            return value
        case Series():
            return value.code
        case PersistedEvent():
            return _event_code(value)
        case EventQuery():
            return _query_code(value)
        case str():
            # A string that no reader would count is written the way they would type it.
            is_long = len(value) > _MAX_LINE and len(set(value)) == 1
            return f"{value[0]!a} * {len(value)}" if is_long else ascii(value)
        case Mapping():
            return "{" + ", ".join(f"{key!a}: {code_of(item)}" for key, item in value.items()) + "}"
        case tuple() if len(value) > _MIN_NUMBERED_TYPES and value[0] == "type-0":
            return _types_code(value)
        case list() | range():
            return _list_code(value)
        case set() | frozenset():
            return _set_code(value)
        case _:
            return ascii(value)


def _event_code(event: PersistedEvent) -> str:
    inner = event.event
    actor = inner.agent_id if isinstance(inner, AgentEvent) else inner.module
    fields = (event.id, event.seq, event.timestamp_ms, event.member_id)
    payload = "" if inner.payload is None else f", {code_of(inner.payload)}"
    made = f"{type(inner).__name__}({code_of(actor)}, {code_of(inner.event_type)}{payload})"
    return f"PersistedEvent({', '.join(map(code_of, fields))}, {made})"


def _query_code(query: EventQuery) -> str:
    fields = {field.name: getattr(query, field.name) for field in attrs.fields(EventQuery)}
    given = (
        f"{name}={code_of(value)}"
        for name, value in fields.items()
        if value is not None and value not in ((), {})
    )
    return f"EventQuery({', '.join(given)})"


# --- collections ----------------------------------------------------------------------------------


def _types_code(types: tuple[object, ...]) -> str:
    """Types, of which most are :func:`numbered_types`."""
    count = next((n for n, item in enumerate(types) if item != f"type-{n}"), len(types))
    numbered_ones = f'f"type-{{n}}" for n in range({count})'
    rest = "".join(f", {code_of(item)}" for item in types[count:])
    return f"(*({numbered_ones}){rest})" if rest else f"tuple({numbered_ones})"


def _list_code(values: Sequence[object]) -> str:
    if all(type(value) is int for value in values):
        pieces = _number_pieces([value for value in values if type(value) is int])
    elif all(isinstance(value, PersistedEvent) for value in values):
        pieces = _event_pieces([value for value in values if isinstance(value, PersistedEvent)])
    else:
        pieces = [code_of(value) for value in values]
    if len(pieces) == 1 and pieces[0].startswith("*range("):
        return f"list({pieces[0][1:]})"
    if len(pieces) == 1 and pieces[0].startswith("*("):
        return f"[{pieces[0][2:-1]}]"
    line = f"[{', '.join(pieces)}]"
    if len(line) <= _MAX_LINE or not any(isinstance(value, PersistedEvent) for value in values):
        return line
    return "\n".join(["[", *(f"    {piece}," for piece in pieces), "]"])


def _set_code(values: Iterable[object]) -> str:
    items = list(values)
    if not items:
        return "set()"
    if all(type(item) is int for item in items):
        pieces = _number_pieces(sorted(item for item in items if type(item) is int))
        return f"set({pieces[0][1:]})" if pieces[0].startswith("*") and not pieces[1:] else _braced(pieces)
    return _braced(sorted(map(code_of, items)))


def _braced(pieces: Sequence[str]) -> str:
    return "{" + ", ".join(pieces) + "}"


def _number_pieces(numbers: Sequence[int]) -> list[str]:
    """The items of a display, where those that follow one another are a range."""
    pieces: list[str] = []
    start = 0
    while start < len(numbers):
        end = start + 1
        while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            end += 1
        if end - start >= _MIN_RANGE:
            pieces.append(f"*range({numbers[start]}, {numbers[end - 1] + 1})")
        else:
            pieces += map(str, numbers[start:end])
        start = end
    return pieces


def _event_pieces(events: Sequence[PersistedEvent]) -> list[str]:
    """The same for events, where those that differ in their seqs alone are a comprehension."""
    codes = [code_of(event) for event in events]
    pieces: list[str] = []
    start = 0
    while start < len(events):
        end, template = _longest_run(events, codes, start)
        if end - start >= _MIN_RANGE:
            numbers = f"range({events[start].seq}, {events[end - 1].seq + 1})"
            pieces.append(f"*({_with_variable(template)} for n in {numbers})")
        else:
            end = start + 1
            pieces.append(codes[start])
        start = end
    return pieces


_Template = tuple[str, ...]
"""A text in the gaps of which a seq stands."""


def _longest_run(events: Sequence[PersistedEvent], codes: Sequence[str], start: int) -> tuple[int, _Template]:
    """The end of the longest run from ``start`` on of events whose code differs in the seq alone."""
    best: tuple[int, _Template] = (start, ())
    # A constant of the first event may happen to equal its seq; that of the second then does not.
    for sample in range(start, min(start + 2, len(events))):
        template = _template_of(codes[sample], events[sample].seq)
        end = start
        while (
            end < len(events)
            and events[end].seq == events[start].seq + end - start
            and str(events[end].seq).join(template) == codes[end]
        ):
            end += 1
        best = max(best, (end, template), key=lambda found: found[0])
    return best


def _template_of(code: str, seq: int) -> _Template:
    """The code of an event, with gaps where its seq stands: as a number, or somewhere in a string."""
    number = rf"(?<![\w.]){seq}(?![\w.])"
    pieces: list[str] = []
    end = 0
    for literal in _STRING.finditer(code):
        # The digits of an escape are none of a number.
        in_string = number if "\\" in literal[0] else rf"(?<!\d){seq}(?!\d)"
        pieces += [re.sub(number, _GAP, code[end : literal.start()]), re.sub(in_string, _GAP, literal[0])]
        end = literal.end()
    pieces.append(re.sub(number, _GAP, code[end:]))
    return tuple("".join(pieces).split(_GAP))


_STRING: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_GAP: Final = "\0"
"""No code has it: strings are written in printable ASCII."""


def _with_variable(template: _Template) -> str:
    """The code of an event, with the variable ``n`` in place of its seq."""

    def formatted(literal: re.Match[str]) -> str:
        if _GAP not in literal[0]:
            return literal[0]
        return "f" + literal[0].replace("{", "{{").replace("}", "}}").replace(_GAP, "{n}")

    return _STRING.sub(formatted, _GAP.join(template)).replace(_GAP, "n")


# --- messages -------------------------------------------------------------------------------------

_MAX_NUMBERS_SHOWN: Final = 5
_MAX_NUMBERS: Final = 12
_MAX_MESSAGE: Final = 1_500
_LONG_RUN: Final = re.compile(rf"-?\d+(?:, -?\d+){{{_MAX_NUMBERS},}}")


def shortened(message: str) -> str:
    """A message for people: of many numbers the first five, and not more text than anybody reads."""

    def first(run: re.Match[str]) -> str:
        numbers = run[0].split(", ")
        return f"{', '.join(numbers[:_MAX_NUMBERS_SHOWN])} and {len(numbers) - _MAX_NUMBERS_SHOWN:,} more"

    short = _LONG_RUN.sub(first, message)
    if len(short) <= _MAX_MESSAGE:
        return short
    half = _MAX_MESSAGE // 2
    return f"{short[:half]} ... ({len(short) - 2 * half:,} characters left out) ... {short[-half:]}"
