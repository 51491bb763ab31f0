"""The layout of a SQLite database of logs, version 2.

::

    logs                      one row per log: its number, its name, the highest seq ever stored, an id that
                              no other log has, the highest seq ever pruned, a checksum of all that
    events_1, events_2, …     one table per log, so that appends go to the end of one b-tree, and the indexes
                              of payload keys that were declared for it; see ``_field_index``
    counts_1, counts_2, …     one table per log: how many events are in stretches of it; see ``_counts``.
                              Files of earlier versions have none until a log is opened for writing

``seq`` is the rowid of an events table. So every index ends in it, and an equality on an index finds events
in the order of seq without sorting. The checksums are those of ``_checksums``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Final

import apsw

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._payload import SCOPES
from trio_eventlog.stores.sqlite import _field_index as fields

APPLICATION_ID: Final = 0x54454C47
"""Marks a database of this library: "TELG" in the header of the file."""

SCHEMA_VERSION: Final = 2
"""Kept in ``PRAGMA user_version``."""

REGISTRY: Final = f"""
CREATE TABLE logs (
    log_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL,
    unique_id TEXT NOT NULL,
    pruned_seq INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


def events_table(log_id: int) -> str:
    """The statements that make the events table of a log."""
    table = table_of(log_id)
    optional = "\n".join(
        f"CREATE INDEX {table}_{column} ON {table} ({column}) WHERE {column} IS NOT NULL;"
        for column in ("member_id", *SCOPES)
    )
    return f"""
CREATE TABLE {table} (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    actor TEXT NOT NULL,
    event_type TEXT NOT NULL,
    member_id TEXT,
    identity TEXT,
    mob_id TEXT,
    run_id TEXT,
    step_id TEXT,
    checksum INTEGER NOT NULL,
    payload TEXT
) STRICT;
CREATE UNIQUE INDEX {table}_id ON {table} (id);
CREATE INDEX {table}_event_type ON {table} (event_type);
CREATE INDEX {table}_timestamp_ms ON {table} (timestamp_ms);
{optional}
"""


def counts_table(log_id: int) -> str:
    """The statement that makes the table of the counts of a log."""
    return f"""
CREATE TABLE {counts_of(log_id)} (
    first_seq INTEGER PRIMARY KEY,
    last_seq INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    events INTEGER NOT NULL,
    counts TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
"""


def counts_of(log_id: int) -> str:
    """The name of the table of the counts of a log."""
    return f"counts_{log_id:d}"


def table_of(log_id: int) -> str:
    """The name of the events table of a log."""
    return f"events_{log_id:d}"


# --- is it our layout? ----------------------------------------------------------------------------

# Excludes most of what is not ours; the rest is sorted out below.
_ENTRIES: Final = """
SELECT type, name, tbl_name, sql FROM sqlite_schema
WHERE lower(tbl_name) = 'logs' OR lower(name) = 'logs'
OR lower(tbl_name) GLOB 'events_[0-9]*' OR lower(name) GLOB 'events_[0-9]*'
OR lower(tbl_name) GLOB 'counts_[0-9]*' OR lower(name) GLOB 'counts_[0-9]*'
"""

_STATEMENT: Final = re.compile(r"CREATE (?:UNIQUE )?(TABLE|INDEX) (\w+)[^;]*")

_OF_A_LOG: Final = re.compile(rf"((events|counts)_(?:0|[1-9][0-9]*))(_[a-z_]+|{fields.PATTERN})?")

_ANY: Final = 0
"""Stands for the number of a log."""

_SPACE: Final = re.compile(r"\s*([(),])\s*|\s+")

_Entry = tuple[object, object, object]
"""Type, table and SQL."""


def check_layout(db: apsw.Connection) -> None:
    """Check that tables and indexes with our names are those that we make, and nothing else acts on them.

    A file that came from elsewhere may have our names for something else: a view, a generated column or the
    expression of an index can take all memory, or all time, when an event is read or written. Tables and
    views with other names are ignored. What is missing is found when it is needed.

    Raises:
      StoreUnusable: they are not.
    """
    for kind, name, table, sql in db.execute(_ENTRIES):
        made = _made(str(name))
        if made is None and _made(str(table)) is None:
            continue
        if made is None or ((kind, table, sql) not in made and (kind, table, _normal(sql)) not in made):
            where = "" if name == table else f" on {table!a:.100}"
            raise StoreUnusable(
                f"{db.filename}: the {kind} {name!a:.100}{where} is not what trio_eventlog makes: the file"
                " comes from elsewhere or was changed, and may not be safe to use"
            )


def _made(name: str) -> Collection[_Entry] | None:
    """What we make under a name, whose case SQLite ignores; None if nothing."""
    name = name.lower()
    found = _OF_A_LOG.fullmatch(name)
    if found is None:
        return _templates().get(name)
    key = fields.key_of(found[1], name)
    if key is not None:
        return [("index", found[1], fields.index_sql(found[1], key))]
    template = f"{found[2]}_{_ANY}"
    made = _templates().get(template + (found[3] or ""))
    return made and [(kind, found[1], str(sql).replace(template, found[1])) for kind, _, sql in made]


@cache
def _templates() -> dict[str, Collection[_Entry]]:
    # SQLite makes this one by itself, because names are unique.
    made: dict[str, Collection[_Entry]] = {"sqlite_autoindex_logs_1": [("index", "logs", None)]}
    scripts = ((table_of(_ANY), events_table(_ANY)), (counts_of(_ANY), counts_table(_ANY)))
    for table, script in (("logs", REGISTRY), *scripts):
        for statement in _STATEMENT.finditer(script):
            kind, sql = statement[1].lower(), statement[0].strip()
            made[statement[2]] = [(kind, table, sql), (kind, table, _normal(sql))]
    return made


def _normal(sql: object) -> object:
    """SQL without superfluous space."""
    # Between quotes, space would matter. Only the indexes of payload keys have some.
    return (
        sql if sql is None or "'" in str(sql) else _SPACE.sub(lambda space: space[1] or " ", str(sql)).strip()
    )
