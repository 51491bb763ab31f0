"""Keys of payloads as SQL: finding events by them, and the indexes that programs declare.

SQLite's ``->`` gives the JSON of a value as it stands in the payload. All payloads are encoded alike, so that
a value that is neither a list nor an object has one text: equal texts are equal values, as a query defines
them. But SQLite takes a key to end where it has a NUL. So it only leaves out most of what does not match, and
never a payload with a NUL in it; what is left is compared in Python.

An index is on such an expression; its name has the key in hexadecimal. SQLite keeps it up to date, whoever
changes events.
"""

from __future__ import annotations

from typing import Final

import apsw

from trio_eventlog.stores._common._fields import is_plain, quoted

NAME: Final = "_field_"
"""Comes between the table and the key in the name of an index."""

PATTERN: Final = NAME + "(?:[0-9a-f][0-9a-f])+"


ANY: Final = "?"
"""Stands for a value in an index; no JSON."""

HAS_NUL: Final = "instr(payload, '\\u0000') > 0"
"""Whether a payload has a NUL somewhere, or what is written like one."""


def index_name(table: str, key: str) -> str:
    """The name of the index of a key."""
    return table + NAME + key.encode().hex()


def index_sql(table: str, key: str) -> str:
    """The statement that makes the index of a plain key."""
    column = expression_of(key)
    return f"CREATE INDEX {index_name(table, key)} ON {table} ({column}) WHERE {column} IS NOT NULL"


def expression_of(key: str) -> str:
    """The JSON of the value of a plain key, as the index has it; SQL's NULL if the key is not there.

    :data:`ANY` for a payload that may have any.
    """
    path = path_of(key).replace("'", "''")
    return f"CASE WHEN {HAS_NUL} THEN '{ANY}' ELSE payload -> '{path}' END"


def path_of(key: str) -> str:
    """How SQLite names a plain key."""
    return f"$.{quoted(key)}"


def key_of(table: str, name: str) -> str | None:
    """The key of an index by its name; None if it is not the index of a plain key."""
    prefix = table + NAME
    if not name.startswith(prefix):
        return None
    try:
        key = bytes.fromhex(name.removeprefix(prefix)).decode()
    except ValueError:
        return None
    return key if is_plain(key) else None


def indexed_keys(db: apsw.Connection, table: str) -> frozenset[str]:
    """The keys that are indexed, whoever has declared them."""
    sql = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?"
    keys = (key_of(table, name) for (name,) in db.execute(sql, (table,)))
    return frozenset(key for key in keys if key is not None)


def make_indexes(db: apsw.Connection, table: str, keys: tuple[str, ...]) -> None:
    """Make the indexes of these keys that are not there; within a transaction."""
    there = indexed_keys(db, table)
    for key in keys:
        if key not in there:
            db.execute(index_sql(table, key))
