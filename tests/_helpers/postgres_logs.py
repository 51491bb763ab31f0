"""What tests of PostgresStore on one server share: where it is, events, an operator, a program."""

import os
import subprocess
import sys
import textwrap

import psycopg
import trio
import trio.testing

from tests._helpers.fakes import numbered
from trio_eventlog import AgentEvent, EventQuery, PersistedEvent

URL_VARIABLE = "TRIO_EVENTLOG_TEST_POSTGRES_URL"
"""Where child processes of the harness find the server, too."""


def url():
    """Where the server of the running tests is."""
    return os.environ[URL_VARIABLE]


def event(seq, payload=None, **fields):
    content = numbered(seq) if payload is None else AgentEvent("w", "t", payload)
    return PersistedEvent(
        **{"id": f"id{seq}", "seq": seq, "timestamp_ms": seq, "member_id": "w", "event": content} | fields
    )


async def sql(statement, *parameters, place="", conninfo=None):
    """What an operator does; ``:s`` stands for the schema."""

    def run():
        with psycopg.connect(conninfo or url(), autocommit=True) as connection:
            cursor = connection.execute(statement.replace(":s", place), parameters or None)
            return cursor.fetchall() if cursor.description else None

    return await trio.to_thread.run_sync(run)


async def seqs(store, **query):
    return [found.seq for found in await store.query(EventQuery(**query))]


def run(program, *arguments):
    """A program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
