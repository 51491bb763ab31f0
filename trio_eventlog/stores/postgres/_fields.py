"""Keys of payloads in PostgreSQL: finding events by them, and the indexes that programs declare.

A payload is the bytes of its JSON, and its value under a key is compared here, in Python. PostgreSQL leaves
out most of what does not match: by an index, if the key has one, or because the pair is not in the bytes. All
payloads are encoded alike, so that a value that is neither a list nor an object has one text.

An index is on the hash of that text, by a function that is made with it. PostgreSQL's ``json`` cannot look
into a payload that has NUL in a text somewhere: the hash of such a one is 0, and whoever looks by the index
gets all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._fields import to_fields
from trio_eventlog._model._query import EventQuery
from trio_eventlog.stores._common._fields import is_plain, quoted

if TYPE_CHECKING:
    from trio_eventlog.stores.postgres._connection import TrioConnection

_FUNCTION: Final = r"""
create or replace function :s.field_hash(payload bytea, key text) returns bigint
language sql immutable parallel safe set search_path = pg_catalog as $$
select case
    when payload is null or octet_length(payload) = 0 or get_byte(payload, 0) <> 123 then null
    when position('\x5c7530303030'::bytea in payload) > 0 then 0
    else hashtextextended((convert_from(payload, 'UTF8')::json -> key)::text, 0)
end $$
"""
"""Of the value of a key; null if the payload has no such key, or is no object: 123 is its brace."""

VALUE: Final = "\0"
"""Stands for a value in a condition. No key of an index has one."""

_ENCODING: Final = b"select getdatabaseencoding()"

_THERE: Final = b"""
select indexes.relname from pg_index as index join pg_class as indexes on indexes.oid = index.indexrelid
where index.indrelid = to_regclass(quote_ident($1::text) || '.events')
and index.indisvalid and index.indisready and indexes.relname = any($2::text[])
"""

_LOCK: Final = b"select pg_advisory_xact_lock($1::bigint)"


def index_name(key: str) -> str:
    """The name of the index of a key. It has the hash of the key, since names are short."""
    return f"events_field_{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def expression_of(key: str) -> str:
    """The hash of the value of a plain key, as the index has it."""
    literal = key.replace("'", "''").replace(":s.", ":' || 's.")  # see Names.sql()
    return f":s.field_hash(payload, '{literal}')"


def arms_of(query: EventQuery, indexed: Collection[str]) -> list[tuple[str, object]]:
    """Conditions of which one holds for each event that has the fields, with :data:`VALUE` for their values.

    No event meets two of them. ``indexed`` are the keys that have an index.
    """
    fields = to_fields(query.fields)
    for key, text in fields.texts:
        if key in indexed and is_plain(key) and fields.is_scalar(key):
            expression = expression_of(key)
            of_value = f"{expression} = hashtextextended({VALUE}::text, 0) and {expression} <> 0"
            return [(of_value, text), (f"{expression} = {VALUE}::bigint", 0)]
    return []


def pairs_of(query: EventQuery) -> list[bytes]:
    """What is in the bytes of every payload that has the fields: keys, with values that have one text."""
    fields = to_fields(query.fields)
    return [
        f"{quoted(key)}:{text if fields.is_scalar(key) else text[0]}".encode()
        for key, text in fields.texts
        if is_plain(key)
    ]


async def indexed_keys(connection: TrioConnection, query: EventQuery) -> frozenset[str]:
    """Those keys of a query that have an index."""
    names = {index_name(key): key for key in query.fields if is_plain(key)}
    if not names:
        return frozenset()
    found = await connection.fetch(_THERE, connection.names.schema, list(names))
    return frozenset(names[name] for (name,) in found)


async def make_indexes(connection: TrioConnection, keys: Iterable[str]) -> None:
    """Make the indexes of these keys that are not there; others may do the same at the same time."""
    wanted = {index_name(key): key for key in keys}
    if not wanted or await _missing(connection, wanted) == set():
        return
    ((encoding,),) = await connection.fetch(_ENCODING)
    if encoding != "UTF8":
        raise StoreUnusable(
            f"{connection.place}: index: the database has the encoding {encoding}; keys of payloads can be"
            " indexed where it is UTF8"
        )
    await connection.run(b"begin")
    await connection.fetch(_LOCK, connection.names.key("layout"))
    await connection.run(_FUNCTION)
    for name in sorted(await _missing(connection, wanted)):
        column = expression_of(wanted[name])
        await connection.run(
            f"create index {name} on :s.events (log, {column}, seq) where {column} is not null"
        )
    await connection.run(b"commit")


async def _missing(connection: TrioConnection, wanted: Collection[str]) -> set[str]:
    found = await connection.fetch(_THERE, connection.names.schema, list(wanted))
    return set(wanted) - {name for (name,) in found}
