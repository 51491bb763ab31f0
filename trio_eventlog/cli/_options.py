"""Options that several commands share."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, NoReturn, TypeAlias, TypeVar

import attrs
from cyclopts import Parameter, Token
from cyclopts.validators import Number as InRange

from trio_eventlog import EventQuery, EventStore
from trio_eventlog.cli._terminal import CommandError
from trio_eventlog.stores import open_readers, open_store, without_secrets

T = TypeVar("T")

USAGE_STATUS: Final = 2
"""Exit status for an invalid command line."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


# --- the store ------------------------------------------------------------------------------------

StoreUrl: TypeAlias = Annotated[
    str,
    Parameter(
        name="--store",
        metavar="URL",
        help=(
            "URL of the log: `sqlite:PATH`, `postgresql://HOST/DATABASE` or `nats://HOST/STREAM`; add"
            " `?log=NAME` for a log other than `default`."
        ),
    ),
]


def opened_store(
    url: str, option: str = "--store", *, read_only: bool = False
) -> AbstractAsyncContextManager[EventStore]:
    """Open the store that an option names, for the length of an ``async with`` block.

    Raises:
      CommandError: the URL is malformed.
      StoreError: the store cannot be opened.
    """
    return _opened(open_store(url, read_only=read_only), option)


@asynccontextmanager
async def opened_readers(url: str) -> AsyncIterator[Mapping[str, EventStore]]:
    """Open all logs of the file, database or stream of ``--store`` for reading.

    Raises:
      CommandError: the URL is malformed or names one log, or there is no log.
      StoreError: the logs cannot be opened.
    """
    async with _opened(open_readers(url), "--store with --all-logs") as readers:
        if not readers:
            raise CommandError(f"there is no log in {without_secrets(url)}")
        yield readers


@asynccontextmanager
async def _opened(store: AbstractAsyncContextManager[T], option: str) -> AsyncIterator[T]:
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(store)
        except ValueError as exc:
            # Only from opening: a ValueError in the block is a bug, not a malformed URL.
            raise CommandError(f"{option}: {exc}", USAGE_STATUS) from exc
        yield opened


# --- values ---------------------------------------------------------------------------------------


def _time(_type: Any, tokens: Sequence[Token]) -> int:
    """Milliseconds since 1970, from a number of them or an ISO 8601 time."""
    text = tokens[0].value.strip()
    if text.isascii() and text.isdecimal():
        if len(text) == _DIGITS_OF_A_DATE and _is_date(text):
            raise ValueError(
                f"{text} could be a date or milliseconds; write {text[:4]}-{text[4:6]}-{text[6:]} or 0{text}"
            )
        # An option that says so, or a leading 0, means milliseconds.
        if text[0] != "0" and not (tokens[0].keyword or "").endswith("-ms"):
            _refuse_other_units(text)
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!a} is not a time; write milliseconds since 1970-01-01 UTC, or ISO 8601 such as"
            " 2026-07-14T09:30:00Z, 2026-07-14T11:30+02:00 or 2026-07-14"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment < _EPOCH:
        raise ValueError(f"{text} is before 1970, and so before every event")
    # Rounded up: events have whole milliseconds, and both bounds mean "from here on".
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


_OTHER_UNITS: Final = (("seconds", 10**3, 1), ("microseconds", 1, 10**3), ("nanoseconds", 1, 10**6))
"""The factor and the divisor that give milliseconds."""

_PLAUSIBLE: Final = range(10**11, 4 * 10**12)
"""Milliseconds from 1973 to 2096: in another unit, a time of these years lies far outside this range."""


def _refuse_other_units(text: str) -> None:
    number = int(text)
    for unit, factor, divisor in _OTHER_UNITS:
        milliseconds = number * factor // divisor
        if number not in _PLAUSIBLE and milliseconds in _PLAUSIBLE:
            raise ValueError(
                f"{text} looks like {unit}, not milliseconds since 1970; write {milliseconds}, or 0{text} if"
                " you mean milliseconds"
            )


_DIGITS_OF_A_DATE: Final = 8


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _number(_type: Any, tokens: Sequence[Token]) -> int:
    # The conversion of cyclopts would also accept 1.5 and 0x10.
    text = tokens[0].value.strip()
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!a} is not an integer of 0 or more")
    return int(text)


_AGE: Final = re.compile(r"(\d{1,9})([smhdw])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def _age(_type: Any, tokens: Sequence[Token]) -> int:
    """Milliseconds, from a number and a unit."""
    found = _AGE.fullmatch(tokens[0].value.strip())
    if found is None:
        raise ValueError(
            f"{tokens[0].value!a} is not an age; write a number and s, m, h, d or w, such as 90m, 12h or 30d"
        )
    return int(found[1]) * _UNITS[found[2]] * 1000


Time: TypeAlias = Annotated[int | None, Parameter(converter=_time, metavar="TIME")]
Age: TypeAlias = Annotated[int | None, Parameter(converter=_age, metavar="AGE")]
Number: TypeAlias = Annotated[int | None, Parameter(converter=_number, metavar="N")]
Count: TypeAlias = Annotated[int, Parameter(converter=_number, metavar="N", validator=InRange(gte=0))]
Flag: TypeAlias = Annotated[bool, Parameter(negative=(), show_default=False)]
AsJson: TypeAlias = Annotated[Flag, Parameter(name="--json")]
Texts: TypeAlias = Annotated[
    tuple[str, ...], Parameter(metavar="TEXT", negative=(), show_default=False, consume_multiple=False)
]
_Text: TypeAlias = Annotated[str | None, Parameter(metavar="TEXT")]


# --- filters --------------------------------------------------------------------------------------


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Filters:
    """The fields of :class:`EventQuery` as options. An event must match all that are given."""

    since: Annotated[Time, Parameter(name=("--since", "--since-ms"))] = None
    """Only events at or after this time: milliseconds since 1970, or ISO 8601 (by default in UTC)."""

    until: Annotated[Time, Parameter(name=("--until", "--until-ms"))] = None
    """Only events before this time."""

    member_id: _Text = None
    """Only events of this agent."""

    identity: _Text = None
    """Only events whose payload has this `identity`."""

    mob_id: _Text = None
    """Only events whose payload has this `mob_id`."""

    run_id: _Text = None
    """Only events whose payload has this `run_id`."""

    step_id: _Text = None
    """Only events whose payload has this `step_id`."""

    event_type: Texts = ()
    """Only events of this type; repeat the option for several types."""

    after_seq: Annotated[Number, Parameter(name=("--after-seq", "--after"))] = None
    """Only events with a higher seq: the cursor to continue from."""

    limit: Number = None
    """At most this many events, those with the lowest seqs."""

    module: _Text = None
    """Only events of this module; those of agents have none."""

    field: Annotated[Texts, Parameter(metavar="KEY=VALUE")] = ()
    """Only events whose payload has this JSON value under this key; repeat the option for several keys."""

    def query(self) -> EventQuery:
        """The query that the options describe.

        Raises:
          CommandError: a value is out of range.
        """
        try:
            return EventQuery(
                since_ms=self.since,
                until_ms=self.until,
                member_id=self.member_id,
                identity=self.identity,
                mob_id=self.mob_id,
                run_id=self.run_id,
                step_id=self.step_id,
                event_types=self.event_type,
                limit=self.limit,
                after_seq=self.after_seq,
                module=self.module,
                fields=_fields(self.field),
            )
        except ValueError as exc:
            raise CommandError(str(exc), USAGE_STATUS) from exc


def _fields(options: Sequence[str]) -> dict[str, object]:
    """The values of ``--field`` by key; ValueError if one is malformed."""
    fields: dict[str, object] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"--field: expected KEY=VALUE, got {option!a:.100}")
        if key in fields:
            raise ValueError(f"--field: {key!a:.100} is given twice")
        try:
            fields[key] = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as exc:
            hint = json.dumps(text[:50], ensure_ascii=False)
            raise ValueError(
                f"--field: the value of {key!a:.100} is not JSON ({exc}); write a text in quotes, as in"
                f" {shlex.quote(f'{key[:50]}={hint}')}"
            ) from exc
    return fields


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return dict(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
