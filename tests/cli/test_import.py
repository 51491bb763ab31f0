"""`ingest` reads what `query`, `export` and spill files contain."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import json

import pytest

from tests._helpers.cli import (
    envelope,
    lines,
    stored,
)
from trio_eventlog import (
    PersistedEvent,
    to_json,
)
from trio_eventlog._log._spill_file import SpillFile


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("sorted", lambda kept: dict(sorted(kept.items()))),
        ("reversed", lambda kept: dict(reversed(kept.items()))),
        ("a field in front", lambda kept: {"host": "n1", **kept}),
        ("as --all-logs prints it", lambda kept: {"log": "default", **kept}),
        ("a field of an envelope", lambda kept: {"source": "agent", **kept}),
    ],
)
def test_ingest_knows_exported_events_by_their_fields(cli, db, filled, tmp_path, what, change):
    again = tmp_path / "again.db"
    printed = cli("query", "--store", filled, "--limit", 20).out.splitlines()
    source = tmp_path / f"{what}.jsonl"
    source.write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in printed))
    done = cli("ingest", source, "--store", f"sqlite:{again}")
    assert (done.status, done.err) == (0, "")
    assert stored(again) == stored(db)[:20]


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("more", [{"id": 7}, {"seq": "x"}, {"id": "other", "seq": 3, "member_id": "m"}])
def test_ingest_knows_envelopes_by_their_fields(cli, db, url, tmp_path, place, more):
    own = json.loads(to_json(envelope(1)))
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps({**more, **own} if place == 0 else {**own, **more}))
    done = cli("ingest", source, "--store", url)
    assert (done.status, done.err) == (0, "")
    assert [event.id for event in stored(db)] == ["event-1"]


def test_ingest_reads_what_export_wrote(cli, db, filled, tmp_path):
    out, again = tmp_path / "out.jsonl", tmp_path / "again.db"
    cli("export", "--store", filled, "--output", out)

    assert cli("ingest", out, "--store", f"sqlite:{again}").status == 0
    assert stored(again) == stored(db)


def test_ingest_tells_envelopes_from_events_by_their_fields(cli, db, url, tmp_path):
    """Not by what their payloads say."""
    source, out = tmp_path / "source.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(lines(envelope(1, event_id="x", seq=3), envelope(2, id="y")))
    assert cli("ingest", source, "--store", url).status == 0
    cli("export", "--store", url, "--output", out)

    assert cli("ingest", out, "--store", f"sqlite:{tmp_path / 'again.db'}").status == 0
    assert stored(tmp_path / "again.db") == stored(db)


def test_ingest_reads_a_spill_file(cli, db, url, tmp_path):
    """The way out if the log that it belongs to is gone."""
    spill = tmp_path / "log.spill"
    file = SpillFile(spill, "of a log that is gone", 10**9)
    events = [PersistedEvent(f"event-{n}", n, n, "agent-1", envelope(n).event) for n in range(1, 6)]
    file.append(events)
    file.close((), is_exact=False)
    content = spill.read_bytes()
    spill.write_bytes(content.replace(b'"event-3"', b'"event-x"'))

    done = cli("ingest", spill, "--store", url)
    assert done.status == 1
    assert "log.spill:4: damaged: its checksum does not match" in done.err
    assert [event.id for event in stored(db)] == ["event-1", "event-2", "event-4", "event-5"]
