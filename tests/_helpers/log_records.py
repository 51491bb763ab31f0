"""Records in tests of logging, and objects in them that are hard to look at."""

from __future__ import annotations

from collections.abc import Mapping

from trio_eventlog import EventQuery, open_event_log
from trio_eventlog.logging import capture_logging
from trio_eventlog.stores import MemoryStore


async def captured(logger, work, **options):
    """The events that the records of ``work`` become."""
    store = MemoryStore()
    async with open_event_log(store) as log:
        with capture_logging(log, logger, **options) as handler:
            work()
    return await store.query(EventQuery()), handler


class Row(Mapping):
    """Of an ORM whose session is gone."""

    def __getitem__(self, key):
        raise RuntimeError("the row is not bound to a session")

    def __iter__(self):
        raise RuntimeError("the row is not bound to a session")

    def __len__(self):
        return 1


class HalfARow(Row):
    def __iter__(self):
        yield from ("a", "b")


class Rows(list):
    def __iter__(self):
        raise RuntimeError("no")


class Pairs(Row):
    def items(self):
        return [1, 2, 3]


class Number(int):
    def __int__(self):
        raise ValueError("no")

    __le__ = __ge__ = __repr__ = __int__


class Fraction(float):
    def __float__(self):
        raise ValueError("no")

    __repr__ = __float__


class Wide(int):
    """Answers what it is asked, and is beyond JSON."""

    def __le__(self, other):
        return True

    __ge__ = __le__

    def __repr__(self):
        return "Wide()"


class Text(str):
    __slots__ = ()

    def __str__(self):
        raise ValueError("no")


class Mute:
    def __str__(self):
        raise ValueError("no")

    def __repr__(self):
        return "Mute()"


class NoText:
    def __str__(self):
        return 5  # noqa: PLE0307 - the point of it

    __repr__ = __str__


class LoudText(str):
    """What a __str__ may return."""

    __slots__ = ()

    def __len__(self):
        raise ValueError("no")

    isascii = encode = __getitem__ = __len__


class GivesLoudText:
    def __str__(self):
        return LoudText("loud")

    __repr__ = __str__


class Array:
    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")

    def __eq__(self, other):
        raise ValueError("ambiguous")

    __hash__ = None

    def __repr__(self):
        return "Array()"


class Liar:
    """Claims to be what it is not."""

    def __init__(self, claim):
        self.claim = claim

    @property
    def __class__(self):
        if self.claim is None:
            raise RuntimeError("none of your business")
        return self.claim

    def __repr__(self):
        return "Liar()"


class Meta(type):
    def __getattribute__(cls, name):
        raise RuntimeError(name)


class Nameless(metaclass=Meta):
    def __repr__(self):
        raise RuntimeError("no")


class Key:
    def __init__(self, hashed=1):
        self.hashed = hashed

    def __hash__(self):
        return self.hashed

    def __eq__(self, other):
        raise RuntimeError("no")

    def __repr__(self):
        return "Key()"


class OddError(Exception):
    @property
    def args(self):
        raise RuntimeError("no")

    def __str__(self):
        return 5  # noqa: PLE0307 - as above

    __notes__ = __cause__ = args


STRANGERS = {
    "row": (Row(), "<Row that cannot be shown>"),
    "half a row": (HalfARow(), "<HalfARow that cannot be shown>"),
    "rows": (Rows([1]), "<Rows that cannot be shown>"),
    "pairs": (Pairs(), "<Pairs that cannot be shown>"),
    "number": (Number(3), "<Number that cannot be shown>"),
    "fraction": (Fraction(3), "<Fraction that cannot be shown>"),
    "wide": (Wide(2**64), "Wide()"),
    "text": (Text("x"), "<Text that cannot be shown>"),
    "no text": (NoText(), "<NoText that cannot be shown>"),
    "loud text": (GivesLoudText(), "loud"),
    "array": (Array(), "Array()"),
    "liar": (Liar(None), "Liar()"),
    "no dict": (Liar(dict), "Liar()"),
    "no text either": (Liar(str), "Liar()"),
    "no error": (Liar(ValueError), "Liar()"),
    "nameless": (Nameless(), "<Nameless that cannot be shown>"),
    "inside": ([Row(), 1], ["<Row that cannot be shown>", 1]),
    "keys": ({Key(): 1, NoText(): 2}, {"Key()": 1, "<NoText that cannot be shown>": 2}),
    "error": (OddError(), "<OddError that cannot be shown>"),
    "surrogates": ({"\ud800": "\udcff"}, {"\\ud800": "\\udcff"}),
}
