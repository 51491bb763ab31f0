"""`stats` and `verify`."""

from __future__ import annotations

import json
import re

import apsw
import pytest
import trio

from tests._helpers.cli import (
    Done,
    many,
    raw,
)
from trio_eventlog import (
    ModuleEvent,
    PersistedEvent,
)
from trio_eventlog.cli import _histogram
from trio_eventlog.stores import MemoryStore
from trio_eventlog.stores.sqlite import _schema


@pytest.fixture
def with_gaps(cli, url, tmp_path):
    """A log whose seqs have gaps, where events came that it held already."""
    source = tmp_path / "gaps.jsonl"
    source.write_bytes(many(5) + many(2) + many(5, start=6) + many(1) + many(1, start=11))
    assert cli("ingest", source, "--store", url).status == 0
    source.write_bytes(many(1, start=100))
    assert cli("ingest", source, "--store", f"{url}?log=other").status == 0
    return url


def test_stats(cli, with_gaps):
    done = cli("stats", "--store", with_gaps, "--top", "2")
    assert (done.status, done.err) == (0, "")
    told = re.sub(" +", " ", done.out)
    for expected in (
        f"store {with_gaps}",
        "logs default \n other",
        "events 11",
        "seq 1 to 14",
        "time (UTC) 2023-11-14T22:13:20.001Z to 2023-11-14T22:13:20.011Z",
        "gaps in seq 2 gaps, 3 seqs missing \n 6 to 7 \n 13 ",
        "event types 4 type-1 \n 4 type-2 \n and 1 more",
        "members 2 agent-1 \n 2 agent-2 \n and 5 more",
        "\nsize ",
        "bytes)",
    ):
        assert expected in told


def test_stats_by_time(cli, with_gaps):
    done = cli("stats", "--store", with_gaps, "--histogram")
    assert (done.status, done.err) == (0, "")
    lines = [line.strip() for line in done.out.partition("by ms")[2].splitlines()]
    assert lines[0] == f"2023-11-14T22:13:20.001Z  1  {'#' * 30}"
    assert len(lines) == 11
    done = cli("stats", "--store", with_gaps, "--histogram", "--json")
    told = json.loads(done.out)
    assert told["histogram"]["bucket_ms"] == 1
    assert sum(bucket["events"] for bucket in told["histogram"]["buckets"]) == told["events"] == 11
    assert told["histogram"]["buckets"][0] == {
        "start_ms": 1_700_000_000_001,
        "event_type": "type-1",
        "events": 1,
    }
    assert "histogram" not in json.loads(cli("stats", "--store", with_gaps, "--json").out)


def test_stats_of_an_empty_log_by_time(cli, url, tmp_path):
    (tmp_path / "none.jsonl").write_bytes(b"")
    assert cli("ingest", tmp_path / "none.jsonl", "--store", url).status == 0
    done = cli("stats", "--store", url, "--histogram")
    assert done.status == 0
    assert "none" in done.out.partition("by ms")[2]


@pytest.mark.parametrize(
    ("first_ms", "last_ms", "width"),
    [
        (5, 5, 1),
        (0, 39, 1),
        (0, 40, 2),
        (0, 10**12, 364 * 86_400_000),
        (1_700_000_000_000, 1_700_000_600_000, 30_000),
        (1_700_000_000_000, 1_700_086_400_000, 3_600_000),
        (0, 2**63 - 1, -(-(2**63 - 1) // 39)),
    ],
)
def test_there_are_few_buckets_of_a_width_that_people_count_in(first_ms, last_ms, width):
    found = _histogram.bucket_width(first_ms, last_ms)
    assert last_ms // found - first_ms // found < 41
    assert found == width


def test_stats_of_a_log_that_is_written(cli, with_gaps):
    """They say how large the write-ahead log is."""
    db = apsw.Connection(with_gaps.removeprefix("sqlite:"))
    log = _schema.find_log(db, "default")
    log.note(db, last_seq=log.last_seq + 1)
    done = cli("stats", "--store", with_gaps)
    db.close()
    assert done.status == 0
    assert "of which write-ahead log" in " ".join(done.out.split())


def test_stats_as_json(cli, with_gaps):
    done = cli("stats", "--store", with_gaps, "--json", "--top", "1")
    assert (done.status, done.err) == (0, "")
    told = json.loads(done.out)
    assert told.pop("size_bytes") > 0
    assert told.pop("wal_bytes") == 0
    assert told.pop("schema_version") > 0
    assert told == {
        "store": with_gaps,
        "logs": ["default", "other"],
        "events": 11,
        "first_seq": 1,
        "last_seq": 14,
        "highest_seq": 14,
        "first_timestamp_ms": 1_700_000_000_001,
        "last_timestamp_ms": 1_700_000_000_011,
        "distinct_event_types": 3,
        "event_types": [["type-1", 4]],
        "distinct_members": 7,
        "members": [["agent-1", 2]],
        "gaps": 2,
        "missing": 3,
        "first_gaps": [[6, 7], [13, 13]],
        "epochs": [],
    }


def test_stats_of_a_log_that_is_not_there(cli, with_gaps):
    done = cli("stats", "--store", f"{with_gaps}?log=neither")
    assert (done.status, done.out) == (1, "")
    assert done.err.endswith(
        " 'neither' in " + with_gaps.removeprefix("sqlite:") + "; it has 'default', 'other'\n"
    )


def test_stats_of_many_gaps(cli, use_store):
    store = use_store(MemoryStore())
    trio.run(
        store.append_batch,
        [PersistedEvent(str(seq), seq, 0, None, ModuleEvent("m", "t")) for seq in range(1, 41, 2)],
    )
    done = cli("stats", "--store", "memory:")
    assert "19 gaps, 19 seqs missing" in done.out
    assert "and 9 more" in done.out
    assert re.search(r"members +none", done.out)
    assert "bytes" not in done.out


def test_stats_of_a_store_that_has_none(cli, use_store):
    class Silent:
        async def append_batch(self, events): ...
        async def query(self, query): ...
        async def last_seq(self): ...

    use_store(Silent())
    done = cli("stats", "--store", "memory:")
    assert done == Done(1, "", "trio-eventlog: memory:: stores of this kind have no statistics\n")


def test_verify_a_sound_log(cli, filled):
    done = cli("verify", "--store", filled)

    assert (done.status, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()][1:] == [
        ["events", "2,500"],
        ["seq", "1", "to", "2500"],
        ["gaps", "in", "seq", "none"],
        ["problems", "none"],
    ]


def test_verify_lists_what_is_wrong(cli, db, filled):
    raw(db, "UPDATE events_1 SET payload = '{' WHERE seq IN (5, 6, 7)")

    done = cli("verify", "--store", filled, "--show", 2)
    assert done.status == 1
    assert "seq 5: not JSON" in done.out
    assert "seq 6: not JSON" in done.out
    assert "seq 7" not in done.out
    assert "and 1 more" in done.out


def test_verify_takes_gaps_for_what_they_are(cli, db, filled):
    raw(db, "DELETE FROM events_1 WHERE seq IN (5, 7, 8)")
    raw(db, "DELETE FROM counts_1")

    done = cli("verify", "--store", filled)
    assert done.status == 0
    assert "2 gaps, 3 seqs (lost, duplicate or pruned)" in done.out
    assert "7 to 8" in done.out
    done = cli("verify", "--store", filled, "--no-gaps")
    assert done.status == 1
    assert "not allowed" in done.out


def test_verify_as_json(cli, db, filled):
    raw(db, "UPDATE events_1 SET kind = 3 WHERE seq = 9")

    done = cli("verify", "--store", filled, "--json")
    found = json.loads(done.out)
    assert done.status == 1
    assert (found["sound"], found["events"], found["problems"]) == (False, 2500, 1)
    assert found["findings"] == [{"seq": 9, "problem": "kind is 3, neither 0 nor 1"}]


def test_verify_what_is_no_log(cli, tmp_path):
    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)

    done = cli("verify", "--store", f"sqlite:{tmp_path / 'x.db'}")
    assert done.status == 1
    assert done.err.startswith("trio-eventlog: ")
    assert "not a database" in done.err
