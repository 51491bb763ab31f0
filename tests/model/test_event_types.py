"""Classes of a program as events: there and back, by version, and refused where they cannot."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import cattrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    from_json,
    open_event_log,
    to_json,
)
from trio_eventlog.abc import ERASED
from trio_eventlog.stores import MemoryStore
from trio_eventlog.typed import EventTypes, make_event_converter

orders = EventTypes(module="orders")


class Size(enum.Enum):
    """Values that JSON knows."""

    SMALL = 1
    LARGE = "large"


class Colour(enum.StrEnum):
    """Is text itself."""

    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Line:
    """Nested."""

    article: str
    count: int = 1
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Address:
    """Nested, and no attrs class."""

    street: str
    lines: tuple[str, ...] = ()


@orders.event
@attrs.frozen
class OrderPlaced:
    """Every kind of field."""

    order_id: UUID
    placed_at: datetime
    due: date
    at: time
    patience: timedelta
    total: Decimal
    signature: bytes
    size: Size
    colour: Colour
    lines: list[Line]
    address: Address | None
    weights: dict[str, float]
    tags: frozenset[str]
    pair: tuple[int, str]
    channel: Literal["web", "shop"]
    path: Path
    answer: int | str | None
    run_id: str
    anything: Any = None


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INSTANCES = st.builds(
    OrderPlaced,
    order_id=st.uuids(),
    placed_at=st.datetimes(timezones=st.none() | st.just(UTC)),
    due=st.dates(),
    at=st.times(),
    patience=st.timedeltas(timedelta(days=-90_000), timedelta(days=90_000)),
    total=st.decimals(allow_nan=False),
    signature=st.binary(max_size=20),
    size=st.sampled_from(Size),
    colour=st.sampled_from(Colour),
    lines=st.lists(st.builds(Line, TEXT, st.integers(-(2**63), 2**64 - 1), st.none() | TEXT), max_size=3),
    address=st.none() | st.builds(Address, TEXT, st.lists(TEXT, max_size=2).map(tuple)),
    weights=st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    tags=st.frozensets(TEXT, max_size=3),
    pair=st.tuples(st.integers(-(2**63), 2**64 - 1), TEXT),
    channel=st.sampled_from(["web", "shop"]),
    path=st.sampled_from([Path("a/b"), Path("/")]),
    answer=st.none() | st.integers(0, 9) | TEXT,
    run_id=TEXT,
    anything=st.none() | st.lists(st.booleans(), max_size=2),
)


@given(INSTANCES)
def test_there_and_back(instance: OrderPlaced) -> None:
    """Through JSON, equal in value and type."""
    event = orders.wrap(instance)
    assert (event.module, event.event_type) == ("orders", "order_placed")

    read = orders.unwrap(from_json(to_json(event), ModuleEvent))
    assert read == instance
    assert orders.unwrap(event, OrderPlaced) == instance


async def test_through_a_log(autojump_clock: trio.testing.MockClock) -> None:
    """A field that is a scope is found as one; the classes are names of event types."""
    types = EventTypes("jobs")

    @types.event
    @attrs.frozen
    class JobStarted:
        run_id: str

    @types.event(name="job.ended", version=3)
    @attrs.frozen
    class JobEnded:
        run_id: str
        seconds: float

    async with open_event_log(MemoryStore()) as log:
        log.ingest(types.wrap(JobStarted("r-1")))
        log.ingest(types.wrap(JobEnded("r-1", 2)))
        log.ingest(types.wrap(JobStarted("r-2")))
        await log.flush()

        first = [types.unwrap(event) for event in await log.query(EventQuery(run_id="r-1"))]
        assert first == [JobStarted("r-1"), JobEnded("r-1", 2.0)]
        started = EventQuery(event_types=types.names(JobStarted))
        assert [types.unwrap(event, JobStarted) for event in await log.query(started)] == [
            JobStarted("r-1"),
            JobStarted("r-2"),
        ]
        assert types.names() == ("job_started", "job.ended")
        (event,) = await log.query(EventQuery(event_types=("job.ended",)))
        assert event.event.payload == {"run_id": "r-1", "seconds": 2, "@version": 3}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OrderPlaced", "order_placed"),
        ("HTTPRequestSent", "http_request_sent"),
        ("Order2Placed", "order2_placed"),
        ("ordered", "ordered"),
        ("X", "x"),
    ],
)
def test_names(name: str, expected: str) -> None:
    """Snake case of the class."""
    types = EventTypes("m")
    types.event(attrs.make_class(name, []))

    assert types.names() == (expected,)


# --- what is not one of them ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        ModuleEvent("orders", "order_cancelled", {"order_id": 1}),
        ModuleEvent("stock", "order_placed", {}),
        AgentEvent("orders", "order_placed", {}),
    ],
)
def test_others_are_handed_back(event: Any) -> None:
    """As they are, in whatever they came."""
    envelope = EventEnvelope.of(event)
    persisted = PersistedEvent("e", 1, 1, None, event)

    assert orders.unwrap(event) is event
    assert orders.unwrap(envelope) is envelope
    assert orders.unwrap(persisted) is persisted
    with pytest.raises(CodecError, match="event_type: expected 'order_placed' version 1 of 'orders', got"):
        orders.unwrap(event, OrderPlaced)


def versioned() -> tuple[EventTypes, type]:
    """The third version of a class."""
    types = EventTypes("m")

    @types.event(version=3)
    @attrs.frozen
    class Moved:
        to: str
        metres: int
        by: str

    return types, Moved


def test_older_versions() -> None:
    """Go through the upcasters in turn; without one, they are handed back."""
    types, moved = versioned()
    old = ModuleEvent("m", "moved", {"to": "here", "km": 2})
    second = ModuleEvent("m", "moved", {"to": "here", "metres": 2000, "@version": 2})
    assert types.unwrap(old) is old
    assert types.unwrap(second) is second
    with pytest.raises(CodecError, match="expected 'moved' version 3 of 'm', got 'moved' version 2"):
        types.unwrap(second, moved)

    @types.upcaster(moved, from_version=2)
    def _(payload: dict[str, Any]) -> dict[str, Any]:
        assert "@version" not in payload
        return {**payload, "by": "foot"}

    assert types.unwrap(old) is old
    assert types.unwrap(second) == moved("here", 2000, "foot")

    @types.upcaster("moved", from_version=1)
    def _(payload: dict[str, Any]) -> dict[str, Any]:
        payload["metres"] = payload.pop("km") * 1000
        return payload

    assert types.unwrap(old) == moved("here", 2000, "foot")
    assert old.payload == {"to": "here", "km": 2}
    with pytest.raises(ValueError, match="'moved' has an upcaster from version 1 already"):
        types.upcaster("moved", 1)(dict)


def test_newer_versions() -> None:
    """Are handed back: a newer program wrote them."""
    types, _ = versioned()
    newer = ModuleEvent("m", "moved", {"@version": 4})

    assert types.unwrap(newer) is newer


def test_erased_payloads() -> None:
    """Are no payloads of the class, not even if all of its fields have defaults; no upcaster sees them."""
    types = EventTypes("m")

    @types.event(version=2)
    @attrs.frozen
    class Moved:
        to: str = "nowhere"

    types.upcaster(Moved, 1)(lambda payload: {"to": payload["where"]})
    payload = {"@erased": {"reason": "why", "at_ms": 1, "commitment": None}}
    erased = PersistedEvent("e", 1, 1, None, ModuleEvent("m", "moved", payload))

    assert types.unwrap(erased) is erased
    with pytest.raises(CodecError, match="payload: expected that of 'moved', it was erased"):
        types.unwrap(erased, Moved)


def test_what_an_upcaster_does_wrong() -> None:
    """Is its own error."""
    types, moved = versioned()
    types.upcaster(moved, 2)(lambda _payload: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="the upcaster of 'moved' from version 2 returned no dict"):
        types.unwrap(ModuleEvent("m", "moved", {"@version": 2}))


# --- errors ---------------------------------------------------------------------------------------


def broken(**changes: Any) -> ModuleEvent:
    """A payload with a flaw."""
    payload = orders.wrap(EXAMPLE).payload
    payload.update(changes)
    return ModuleEvent(
        "orders", "order_placed", {key: value for key, value in payload.items() if value is not ...}
    )


EXAMPLE = OrderPlaced(
    UUID(int=1),
    datetime(2026, 1, 1, tzinfo=UTC),
    date(2026, 1, 2),
    time(12),
    timedelta(seconds=1.5),
    Decimal("1.10"),
    b"\0\xff",
    Size.LARGE,
    Colour.RED,
    [Line("a")],
    Address("s"),
    {"a": 1.0},
    frozenset({"t"}),
    (1, "b"),
    "web",
    Path("/"),
    1,
    "r-1",
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_id": ...}, "payload.run_id: required field is missing"),
        ({"run_id": 1}, "payload.run_id: expected str, got 1"),
        ({"lines": [{"article": "a", "count": "1"}]}, "payload.lines[0].count: expected int, got '1'"),
        ({"lines": [{"article": "a", "count": True}]}, "payload.lines[0].count: expected int, got True"),
        ({"lines": [{"article": "a", "count": 1.0}]}, "payload.lines[0].count: expected int, got 1.0"),
        ({"order_id": "x"}, "payload.order_id: badly formed hexadecimal UUID string"),
        ({"total": "x"}, "payload.total: malformed: 'x'"),
        ({"signature": "?"}, "payload.signature: malformed: '?'"),
        ({"placed_at": 1}, "payload.placed_at: expected text, got 1"),
        ({"patience": "1"}, "payload.patience: expected float, got '1'"),
        ({"colour": "green"}, "payload.colour: 'green' is not a valid Colour"),
        ({"channel": "mail"}, "payload.channel: mail not in literal"),
        ({"@version": 0}, "payload['@version']: expected a version of 1 or more, got 0"),
        ({"@version": "2"}, "payload['@version']: expected a version of 1 or more, got '2'"),
    ],
    ids=str,
)
def test_a_payload_that_is_not_of_the_class(changes: dict[str, Any], message: str) -> None:
    """Is refused by the name of the field."""
    with pytest.raises(CodecError) as caught:
        orders.unwrap(broken(**changes))
    assert str(caught.value).startswith(message)


def test_a_payload_that_is_no_object() -> None:
    """Nor that."""
    with pytest.raises(CodecError, match="payload: expected an object for 'order_placed', got None"):
        orders.unwrap(ModuleEvent("orders", "order_placed"))


def test_unknown_fields_are_passed_over() -> None:
    """A newer program may have added them."""
    assert orders.unwrap(broken(added=1)) == EXAMPLE


async def test_a_value_that_is_no_json(autojump_clock: trio.testing.MockClock) -> None:
    """Is refused where the event is ingested, by the name of the field."""
    async with open_event_log(MemoryStore()) as log:
        with pytest.raises(CodecError, match=r"payload\.weights\.a: nan is not a JSON number"):
            log.ingest(orders.wrap(attrs.evolve(EXAMPLE, weights={"a": float("nan")})))
    with pytest.raises(CodecError, match=r"OrderPlaced cannot become JSON: .* too long"):
        orders.wrap(attrs.evolve(EXAMPLE, patience=timedelta.max))


@attrs.frozen
class Discounted(Line):
    """A line with more to it."""

    percent: int = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_id": 1}, "payload.run_id: expected str, got 1"),
        ({"lines": [Line("a", True)]}, "payload.lines[0].count: expected int, got True"),
        (
            {"lines": [Discounted("a", percent=5)]},
            "payload.lines: [Discounted(article='a', count=1, note=None",
        ),
        ({"pair": [1, "b"]}, "payload.pair: [1, 'b'] would be read back as (1, 'b')"),
        (
            {"anything": Line("a")},
            "payload.anything: Line(article='a', count=1, note=None) would be read back",
        ),
    ],
    ids=str,
)
def test_an_instance_that_would_not_come_back(changes: dict[str, Any], message: str) -> None:
    """Is refused where it is wrapped; and not, if nobody wants to know."""
    instance = attrs.evolve(EXAMPLE, **changes)
    with pytest.raises(CodecError) as caught:
        orders.wrap(instance)
    assert str(caught.value).startswith(message)

    careless = EventTypes("orders", check=False)
    careless.event(OrderPlaced)
    assert careless.wrap(instance).event_type == "order_placed"


def test_a_class_that_could_not_be_read() -> None:
    """Is refused when the first of it is written; with a hook, it works."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Point) and self.x == other.x

        __hash__ = None  # type: ignore[assignment]

    plain = EventTypes("m")
    seen = attrs.make_class("Seen", {"where": attrs.field(type=Point)})
    plain.event(seen)
    with pytest.raises(
        TypeError, match=r"Seen could not be read back: Unsupported type: .*Register a structure hook"
    ):
        plain.wrap(seen(Point(1)))

    converter = make_event_converter()
    converter.register_unstructure_hook(Point, lambda point: point.x)
    converter.register_structure_hook(Point, lambda x, _: Point(x))
    types = EventTypes("m", converter=converter)
    types.event(seen)
    event = types.wrap(seen(Point(1)))
    assert event.payload == {"where": 1}
    assert types.unwrap(event, seen).where.x == 1  # type: ignore[attr-defined]


def test_a_class_whose_instances_are_never_equal() -> None:
    """Cannot be checked; it says so, and can do without."""
    cls = attrs.make_class("Odd", {"x": attrs.field(type=int)}, eq=False)
    checked, unchecked = EventTypes("m"), EventTypes("m", check=False)
    checked.event(cls)
    unchecked.event(cls)
    with pytest.raises(
        CodecError, match=r"payload: Odd\(x=1\) would be read back as Odd\(x=1\), which is not equal"
    ):
        checked.wrap(cls(1))
    assert unchecked.unwrap(unchecked.wrap(cls(1)), cls).x == 1  # type: ignore[attr-defined]


def made(annotation: Any, value: Any, **options: Any) -> tuple[EventTypes, Any]:
    """An instance of a class with one field."""
    types = EventTypes("m", **options)
    cls = types.event(attrs.make_class("Made", {"field": attrs.field(type=annotation)}))
    return types, cls(value)


def there_and_back(annotation: Any, value: Any) -> Any:
    """Through JSON."""
    types, instance = made(annotation, value)
    read: Any = types.unwrap(from_json(to_json(types.wrap(instance)), ModuleEvent))
    return read.field


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("hours", range(-3, 4))
@pytest.mark.parametrize(
    "change", [datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)]
)
@pytest.mark.parametrize("minutes", [0, 30])
def test_times_around_a_change_of_clocks(change: datetime, hours: int, minutes: int) -> None:
    """Come back as the same moment with the same offset, in every hour of the year."""
    moment = (change + timedelta(hours=hours, minutes=minutes)).astimezone(BERLIN)
    read = there_and_back(datetime, moment)

    assert read.astimezone(UTC) == moment.astimezone(UTC)
    assert (read.utcoffset(), read.isoformat()) == (moment.utcoffset(), moment.isoformat())
    nested = [{"a": (moment,)}]
    assert (
        there_and_back(list[dict[str, tuple[datetime, ...]]], nested)[0]["a"][0].isoformat()
        == read.isoformat()
    )
    assert len(there_and_back(frozenset[datetime], frozenset({moment}))) == 1


@pytest.mark.parametrize("fold", [0, 1])
def test_times_that_clocks_never_show(fold: int) -> None:
    """Are moments all the same."""
    left_out = datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN, fold=fold)

    assert there_and_back(datetime, left_out).isoformat() == left_out.isoformat()


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 10, 25, 2, 30, fold=1), time(2, 30, fold=1), time(2, 30)],  # noqa: DTZ001 - the point of it
)
def test_the_fold_of_a_time_without_an_offset(value: datetime | time) -> None:
    """Is all that tells it from the same time an hour before."""
    read = there_and_back(type(value), value)

    assert (read, read.fold) == (value, value.fold)


def test_a_time_that_would_lose_its_zone() -> None:
    """Text has an offset, and a time of day in a zone has none."""
    types, instance = made(time, time(2, 30, tzinfo=BERLIN))
    with pytest.raises(CodecError, match=r"payload\.field: .*zoneinfo.* would be read back as"):
        types.wrap(instance)


class Level(enum.IntEnum):
    """Values that are integers."""

    LOW = 1
    HIGH = 2


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (dict[int, str], {1: "a", -20: "b", 2**64 - 1: "c"}),
        (Mapping[int, dict[int, float]], {1: {0: 0.5}}),
        (dict[Level, int], {Level.HIGH: 3}),
        (defaultdict[int, list[int]], defaultdict(list, {3: [4]})),
        (Counter[int], Counter({3: 4})),
        (dict[UUID, int], {UUID(int=1): 1}),
        (dict[str, int], {"1": 1}),
        (dict[date, int], {date(2026, 1, 1): 1}),
    ],
    ids=str,
)
async def test_keys_that_are_no_text(annotation: Any, value: Any) -> None:
    """Become text, and come back."""
    read = there_and_back(annotation, value)

    assert read == value
    assert [type(key) for key in read] == [type(key) for key in value]


@pytest.mark.parametrize("key", ["x", "01", "1.0", " 1", "\N{ARABIC-INDIC DIGIT ONE}", "-0", "9" * 5000])
def test_a_key_that_is_no_integer(key: str) -> None:
    """Is refused, however Python would read it."""
    types, _ = made(dict[int, int], {})
    with pytest.raises(CodecError, match=r"payload\.field.*expected int, got '"):
        types.unwrap(ModuleEvent("m", "made", {"field": {key: 1}}))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (float, float("nan"), "payload.field: nan is not a JSON number"),
        (int, 2**64, "payload.field: integer 18446744073709551616 is outside"),
        (str, "\ud800", "payload.field: lone surrogate"),
        (Any, {1: 2}, r"payload.field: keys must be str, got int \(1\)"),
        (Any, {(): 1}, "payload: Made cannot become JSON: unhashable"),
    ],
    ids=str,
)
async def test_what_a_log_would_refuse_is_not_wrapped(
    annotation: Any, value: Any, message: str, check: bool
) -> None:
    """By the name of the field, with or without a check."""
    types, instance = made(annotation, value, check=check)
    with pytest.raises(CodecError, match=message):
        types.wrap(instance)


class Nasty:
    """Raises where it is compared, and where it is shown."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("value", [Decimal("sNaN"), Decimal("NaN"), Nasty()], ids=["sNaN", "NaN", "nasty"])
def test_what_cannot_be_compared(value: Any) -> None:
    """Is no error of a stranger."""
    converter = make_event_converter()
    converter.register_unstructure_hook(Nasty, lambda _: "nasty")
    converter.register_structure_hook(Nasty, lambda _value, _type: Nasty())
    types, instance = made(type(value), value, converter=converter)
    with pytest.raises(CodecError, match=r"payload\.field: .* would be read back as"):
        types.wrap(instance)


def test_what_is_equal_and_not_the_same() -> None:
    """A field that == does not look at counts, too."""
    types = EventTypes("m")

    @types.event
    @dataclasses.dataclass
    class Done:
        a: int
        seconds: float = dataclasses.field(default=0.0, init=False, compare=False)

    @types.event
    @attrs.define
    class Seen:
        a: int
        count: int = attrs.field(default=0, init=False, eq=False)
        twice: int = attrs.field(init=False)
        noted: str = attrs.field(default="", eq=False)
        name: str = attrs.field(default="", eq=str.lower)

        def __attrs_post_init__(self) -> None:
            self.twice = 2 * self.a

    done, seen = Done(1), Seen(1, noted="x", name="A")
    assert types.unwrap(types.wrap(done)) == done
    read = types.unwrap(types.wrap(seen), Seen)
    assert (read, read.noted) == (seen, "x")

    done.seconds = 2.5
    with pytest.raises(CodecError, match=r"payload\.seconds: 2\.5 would be read back as 0\.0"):
        types.wrap(done)
    seen.count = 3
    with pytest.raises(CodecError, match=r"payload\.count: 3 would be read back as 0"):
        types.wrap(seen)


def test_upcasters_and_instances_own_what_they_get() -> None:
    """Changing it changes no event."""
    types = EventTypes("m")

    @types.event(version=2)
    @attrs.define
    class Tagged:
        tags: list[str]
        anything: Any = None

    @types.upcaster(Tagged, from_version=1)
    def _(payload: dict[str, Any]) -> dict[str, Any]:
        payload["tags"].append("new")
        return payload

    old = ModuleEvent("m", "tagged", {"tags": ["a"], "anything": {"deep": []}})
    assert types.unwrap(old) == Tagged(["a", "new"], {"deep": []})
    assert types.unwrap(old) == Tagged(["a", "new"], {"deep": []})
    assert old.payload == {"tags": ["a"], "anything": {"deep": []}}

    event = types.wrap(Tagged(["a"], {"deep": []}))
    types.unwrap(event, Tagged).anything["deep"].append(1)
    assert types.unwrap(event) == Tagged(["a"], {"deep": []})


def test_a_converter_that_makes_no_dicts() -> None:
    """Its events could never be read."""
    types, instance = made(
        int, 1, converter=cattrs.Converter(unstruct_strat=cattrs.UnstructureStrategy.AS_TUPLE)
    )
    with pytest.raises(CodecError, match="payload: expected a dict of Made, the converter made tuple"):
        types.wrap(instance)


def test_a_converter_of_another_kind() -> None:
    """Any of cattrs will do."""
    types = EventTypes("m", converter=cattrs.Converter())
    named = types.event(attrs.make_class("Named", {"name": attrs.field(type=str)}))

    assert types.unwrap(types.wrap(named("a"))) == named("a")


def test_bad_arguments() -> None:
    """Are named."""
    types = EventTypes("m")
    cls = attrs.make_class("Thing", [])
    types.event(cls)
    with pytest.raises(TypeError, match="module: expected a str, got int"):
        EventTypes(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Thing is registered already, as 'thing'"):
        types.event(name="other")(cls)
    with pytest.raises(ValueError, match="'thing' is Thing already; give Other another name"):
        types.event(name="thing")(attrs.make_class("Other", []))
    with pytest.raises(ValueError, match="version: expected 1 or more, got 0"):
        types.event(version=0)
    with pytest.raises(TypeError, match="version: expected an integer, got str"):
        types.event(version="1")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="name: expected a str, got int"):
        types.event(name=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="expected an attrs class or a dataclass, got <class 'str'>"):
        types.event(str)
    with pytest.raises(LookupError, match="int is not registered with <EventTypes 'm': thing>"):
        types.wrap(1)
    with pytest.raises(LookupError, match="int is not registered"):
        types.names(int)
    with pytest.raises(LookupError, match="int is not registered"):
        types.upcaster(int, 1)
    with pytest.raises(ValueError, match="from_version: expected 1 or more, got 0"):
        types.upcaster("thing", 0)
    with pytest.raises(TypeError, match="event: expected an event, or what carries one, got str"):
        types.unwrap("event")  # type: ignore[call-overload]


# --- members --------------------------------------------------------------------------------------

jobs = EventTypes(module="jobs")


@jobs.event(version=2, member="worker")
@attrs.frozen
class JobStarted:
    job: int
    worker: UUID | str | None = None


@jobs.upcaster("job_started", from_version=1)
def _(payload: dict[str, Any]) -> dict[str, Any]:
    assert set(payload) == {"job"}
    return {**payload, "worker": None}


@pytest.mark.parametrize(
    ("member", "worker", "expected"),
    [(None, "w2", "w2"), ("w3", "w2", "w3"), ("", "w2", ""), (None, "", ""), ("w3", None, "w3")],
)
def test_an_event_of_a_member(member, worker, expected):
    """As an agent's, there and back."""
    job = JobStarted(7, worker)
    event = jobs.wrap(job) if member is None else jobs.wrap(job, member=member)
    assert event == AgentEvent(
        expected, "job_started", {"job": 7, "worker": worker, "@version": 2, "@module": "jobs"}
    )
    assert jobs.unwrap(event, JobStarted) == job


def test_an_instance_without_a_member_is_one_of_its_module():
    assert isinstance(jobs.wrap(JobStarted(7)), ModuleEvent)


def test_agents_of_others_are_left_alone():
    """Of another module, of none, or with a payload that is no object."""
    for payload in ({"job": 7, "@module": "others"}, {"job": 7}, None, ["@module", "jobs"]):
        event = AgentEvent("w2", "job_started", payload)
        assert jobs.unwrap(event) is event


def test_an_old_event_of_a_member_is_brought_up_to_date():
    """The upcaster does not see what is not its own."""
    event = AgentEvent("w2", "job_started", {"job": 7, "@module": "jobs"})
    assert jobs.unwrap(event) == JobStarted(7, None)


def test_who_a_member_can_be():
    types = EventTypes(module="m")

    @types.event(member="by")
    @attrs.frozen
    class Done:
        by: int | UUID

    assert types.wrap(Done(UUID(int=1))).agent_id == str(UUID(int=1))
    with pytest.raises(CodecError, match=r"payload\.by: names the member: expected a string, got 7"):
        types.wrap(Done(7))
    with pytest.raises(TypeError, match=r"^member: expected a str"):
        types.wrap(Done(UUID(int=1)), member=7)
    with pytest.raises(TypeError, match=r"^member: expected a str"):
        types.event(member=7)
    with pytest.raises(ValueError, match=r"^member: Done has no field 'who'"):
        EventTypes(module="n").event(member="who")(Done)


def test_a_member_that_is_not_in_the_payload():
    """A converter that leaves out defaults says nothing about who it was."""
    types = EventTypes("m", converter=cattrs.Converter(omit_if_default=True))

    @types.event(member="by")
    @attrs.frozen
    class Done:
        by: str = "w1"

    assert types.wrap(Done()) == AgentEvent("w1", "done", {"@module": "m"})
    assert types.unwrap(types.wrap(Done())) == Done()


# --- erased events --------------------------------------------------------------------------------


@pytest.mark.parametrize("event_type", ["note", "thing", "others"])
@pytest.mark.parametrize("make", [ModuleEvent, AgentEvent])
def test_an_erased_event_is_no_instance(make, event_type):
    """Not even of a class whose fields all have defaults, nor for an upcaster."""
    types = EventTypes("m")
    note = types.event(attrs.make_class("Note", {"text": attrs.field(type=str, default="")}))
    types.event(version=2)(attrs.make_class("Thing", {"size": attrs.field(type=int)}))
    types.upcaster("thing", 1)(lambda payload: {"size": payload["length"]})
    event = make("m", event_type, {ERASED: {"reason": "asked for", "at_ms": 1, "commitment": None}})
    assert types.unwrap(event) is event
    with pytest.raises(CodecError, match="payload: expected that of 'note', it was erased"):
        types.unwrap(event, note)
