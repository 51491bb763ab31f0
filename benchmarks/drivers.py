"""The drivers alone, in a loop: what a log on a server could reach.

They send what the log sends, made in advance in batches of the same size, and wait for the same answers. So
they are the limit for one batch at a time. psycopg still makes its arrays, and nats-py its headers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio
from places import PLACES

from trio_eventlog import PersistedEvent
from trio_eventlog.stores import open_store

TRANSACTION = 4_096
"""Most events that the log appends at once."""


async def _make_log(url: str) -> None:
    async with open_store(url):
        pass


def psycopg_loop(made: Sequence[PersistedEvent], directory: Path) -> float:
    """Events a second: psycopg, with the statement of the log and arrays that were made before."""
    import psycopg
    from psycopg.types.numeric import Int8BinaryDumper

    from trio_eventlog.stores.postgres import _connection as ours
    from trio_eventlog.stores.postgres import _rows as rows
    from trio_eventlog.stores.postgres import _schema as schema
    from trio_eventlog.stores.postgres._names import Names
    from trio_eventlog.stores.postgres._store import DEFAULT_SCHEMA

    starts = range(0, len(made), TRANSACTION)
    batches = [rows.columns_of(made[start : start + TRANSACTION]).arrays() for start in starts]
    names = Names(DEFAULT_SCHEMA)
    with PLACES["postgres"](directory) as url:
        trio.run(_make_log, url)
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor) as db:
            db.adapters.register_dumper(int, Int8BinaryDumper)
            db.adapters.register_dumper(rows.Int8Array, ours._Int8ArrayDumper)
            db.adapters.register_dumper(rows.ByteaArray, ours._ByteaArrayDumper)
            ((number, epoch),) = db.execute(names.sql("select log, epoch from :s.logs")).fetchall()
            statement, added = names.sql(schema.APPEND), 0
            begin = time.perf_counter()
            for arrays in batches:
                found = db.execute(statement, (number, epoch, 0, *arrays), prepare=True, binary=True)
                ((_, new, _),) = found.fetchall()
                added += new
            return added / (time.perf_counter() - begin)


def nats_loop(made: Sequence[PersistedEvent], directory: Path) -> float:
    """Events a second: nats-py, with the messages of the log, made before, and the head that ends a batch."""
    import nats

    from trio_eventlog.stores.jetstream import _head as heads
    from trio_eventlog.stores.jetstream import _messages as messages
    from trio_eventlog.stores.jetstream._subjects import Subjects

    # A log that nothing else has opened.
    subjects = Subjects("BENCH", "bare")
    head = heads.first_head("bare", "bare", "bare")
    batches = []
    for start in range(0, len(made), messages.MAX_BATCH):
        some, name = made[start : start + messages.MAX_BATCH], f"bare.{start}"
        head = head.after_batch(some[0].seq, some[-1].seq)
        pieces = messages.batch_pieces([messages.draft(subjects, event) for event in some], name)
        ready = [(piece.subject, piece.data, _headers(piece.headers)) for piece in pieces]
        batches.append((ready, head, name))

    async def publish_all(url: str) -> float:
        client = await nats.connect(url)
        after = 0
        begin = time.perf_counter()
        for ready, end, name in batches:
            for subject, data, headers in ready:
                await client.publish(subject, data, headers=headers)
            last = messages.batch_end(subjects, end, after=after, batch=name, number=len(ready) + 1, reply="")
            answer = await client.request(last.subject, last.data, timeout=10, headers=_headers(last.headers))
            after = json.loads(answer.data)["seq"]
        seconds = time.perf_counter() - begin
        await client.close()
        return len(made) / seconds

    with PLACES["jetstream"](directory) as url:
        trio.run(_make_log, url)
        return asyncio.run(publish_all(url.rpartition("/")[0]))


def _headers(headers: Mapping[str, str] | str | None) -> dict[str, str]:
    """As the driver takes them."""
    if isinstance(headers, str):
        return dict(line.split(": ", 1) for line in headers.splitlines())
    return dict(headers or {})
