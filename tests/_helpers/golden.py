"""Files of today's layout, to be read by all later versions: ``python -m tests._helpers.golden`` makes them.

To be run again only where a layout changes on purpose. The files of the layout before stay, in a directory of
their own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import trio

from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    ModuleEvent,
    PersistedEvent,
    StoreError,
    open_event_log,
    to_json,
)
from trio_eventlog.stores import MemoryStore, SqliteStore
from trio_eventlog.testing import write_fixtures

GOLDEN = Path(__file__).parents[1] / "golden"
SQLITE = GOLDEN / "sqlite"
SPILL = GOLDEN / "spill"


def open_sqlite(location: Path) -> AbstractAsyncContextManager[SqliteStore]:
    # Not .db, which Git ignores.
    return SqliteStore.open(location / "events.sqlite")


def spilled() -> list[EventEnvelope]:
    """What the spill file holds."""
    payloads: tuple[Any, ...] = (
        None,
        1.5,
        2**63,
        "\u00e9\n\x00\U0001f600",
        [],
        {"run_id": "r", "n": [1, {}]},
    )
    return [
        EventEnvelope.of(
            AgentEvent("w", "t", payload) if number % 2 else ModuleEvent("m", "\u2028", payload),
            event_id=f"id-{number}",
            timestamp_ms=1_000 + number,
        )
        for number, payload in enumerate(payloads * 5)
    ]


class Down(MemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        await trio.lowlevel.checkpoint()
        raise StoreError("down")


async def write_spill_file(path: Path) -> None:
    async with open_event_log(Down(), spill=path, grace_period=0.1, on_failure=lambda _report: None) as log:
        for envelope in spilled():
            log.ingest(envelope)


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    write_fixtures(open_sqlite, SQLITE)
    about = json.loads((SQLITE / "fixture.json").read_text(encoding="utf-8"))
    # What ran it does not matter to whoever reads the files.
    about["versions"] = {name: about["versions"][name] for name in ("trio-eventlog",)}
    (SQLITE / "fixture.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    SPILL.mkdir()
    trio.run(write_spill_file, SPILL / "events.spill")
    for lock in GOLDEN.rglob("*.lock"):
        lock.unlink()
    (SPILL / "events.jsonl").write_bytes(b"".join(to_json(envelope) + b"\n" for envelope in spilled()))


if __name__ == "__main__":
    main()
