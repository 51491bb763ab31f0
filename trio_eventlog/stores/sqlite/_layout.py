"""Is a database laid out as this library lays it out? Runs in the worker thread of a connection.

A file that came from elsewhere may have our names for something else: a view, a generated column or the
expression of an index can take all memory, or all time, when an event is read or written.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Final

import apsw

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog.stores.sqlite import _schema as schema

# Keeps most of what is not ours out; the rest is told apart below.
_ENTRIES: Final = """
SELECT type, name, tbl_name, sql FROM sqlite_schema
WHERE lower(tbl_name) = 'logs' OR lower(name) = 'logs'
OR lower(tbl_name) GLOB 'events_[0-9]*' OR lower(name) GLOB 'events_[0-9]*'
"""

_STATEMENT: Final = re.compile(r"CREATE (?:UNIQUE )?(TABLE|INDEX) (\w+)[^;]*")

_OF_A_LOG: Final = re.compile(r"(events_(?:0|[1-9][0-9]*))(_[a-z_]+)?")

_ANY: Final = schema.table_of(0)
"""Stands for the table of a log."""

_SPACE: Final = re.compile(r"\s*([(),])\s*|\s+")

_Entry = tuple[object, object, object]
"""Type, table and SQL."""


def check_layout(db: apsw.Connection) -> None:
    """See that tables and indexes with our names are those that we make, and that nothing else acts on them.

    Tables and views with other names are left alone. What is missing is found when it is needed.

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
    """What we make under a name, to whose case SQLite pays no heed; None if we make nothing."""
    name = name.lower()
    found = _OF_A_LOG.fullmatch(name)
    if found is None:
        return _templates().get(name)
    made = _templates().get(_ANY + (found[2] or ""))
    return made and [(kind, found[1], str(sql).replace(_ANY, found[1])) for kind, _, sql in made]


@cache
def _templates() -> dict[str, Collection[_Entry]]:
    # SQLite makes this one by itself, for the names.
    made: dict[str, Collection[_Entry]] = {"sqlite_autoindex_logs_1": [("index", "logs", None)]}
    for table, script in (("logs", schema.REGISTRY), (_ANY, schema.events_table(0))):
        for statement in _STATEMENT.finditer(script):
            kind, sql = statement[1].lower(), statement[0].strip()
            made[statement[2]] = [(kind, table, sql), (kind, table, _normal(sql))]
    # As it was before it noted what was pruned.
    older = str(_normal(schema.REGISTRY)).partition(";")[0].replace(f",{schema.PRUNED}", "")
    made["logs"] = [*made["logs"], ("table", "logs", older)]
    return made


def _normal(sql: object) -> object:
    """SQL with no more space than it needs. Ours has no quotes, in which space would count."""
    return sql if sql is None else _SPACE.sub(lambda space: space[1] or " ", str(sql)).strip()
