"""`ingest`: what it reads and stores, and what the store refuses."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests._helpers.cli import (
    PROGRAM,
    SECONDS,
    Done,
    FailingStore,
    envelope,
    feeding,
    finish,
    held_open,
    lines,
    many,
    stored,
    stored_numbers,
)
from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    ModuleEvent,
    RevertReport,
    StoreError,
    StoreUnusable,
    to_json,
)
from trio_eventlog.cli import (
    _envelopes,
    _ingest,
    _tally,
    _terminal,
)
from trio_eventlog.stores import MemoryStore


def test_ingest_stores_what_was_given(cli, db, url, tmp_path):
    envelopes = [
        envelope(1),
        envelope(
            2, text="Grüße, 世界, \U0001f980, \0, \u2028, \x1b[31m, [bold]", numbers=[1, 1.0, True, 2**64 - 1]
        ),
        EventEnvelope.of(ModuleEvent("the module", "opened", None), event_id="", timestamp_ms=0),
        EventEnvelope.of(AgentEvent("", ""), event_id="\u0301", timestamp_ms=2**63 - 1),
    ]
    source = tmp_path / "some.jsonl"
    source.write_bytes(lines(*envelopes))
    done = cli("ingest", source, "--store", url)
    assert (done.status, done.err) == (0, "")
    assert done.summary == "4 read, 4 stored, 0 already there, 0 rejected"
    found = stored(db)
    assert [event.seq for event in found] == [1, 2, 3, 4]
    assert [(e.id, e.timestamp_ms, e.event) for e in found] == [
        (e.event_id, e.timestamp_ms, e.event) for e in envelopes
    ]


def test_ingest_again_stores_nothing_twice(cli, db, url, tmp_path):
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl.gz"
    first.write_bytes(many(1_500))
    second.write_bytes(gzip.compress(many(1_500, start=1_001)))
    assert (
        cli("ingest", first, "--store", url).summary
        == "1,500 read, 1,500 stored, 0 already there, 0 rejected"
    )
    again = cli("ingest", first, second, first, "--store", url)
    assert again.status == 0
    assert again.summary == "4,500 read, 1,000 stored, 3,500 already there, 0 rejected"
    assert stored_numbers(db) == Counter(range(1, 2_501))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"\n \n\t\r\n", 0),
        (many(3).removesuffix(b"\n"), 3),
        (many(3).replace(b"\n", b"\r\n"), 3),
        (b"\n\n" + many(3).replace(b"\n", b"\n\n \n"), 3),
        (b"\xef\xbb\xbf" + many(3), 3),
        (gzip.compress(many(3)), 3),
        (gzip.compress(many(2)) + gzip.compress(many(1, start=3)) + b"\0" * 100, 3),
        (gzip.compress(b""), 0),
    ],
    ids=[
        "empty",
        "blank",
        "no-newline",
        "crlf",
        "between-blanks",
        "bom",
        "gzip",
        "gzip-members",
        "gzip-empty",
    ],
)
def test_ingest_reads_every_kind_of_file(cli, db, url, tmp_path, *, data, count):
    # Told by their content: what is compressed need not be called so.
    source = tmp_path / "some.jsonl"
    source.write_bytes(data)
    done = cli("ingest", source, "--store", url)
    assert (done.status, done.err) == (0, "")
    assert stored_numbers(db) == Counter(range(1, count + 1))


@pytest.mark.parametrize("names", [[], ["-"]], ids=["nothing", "hyphen"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_ingest_reads_standard_input(cli, db, url, names, pack):
    done = cli("ingest", *names, "--store", url, data=pack(many(1_000)))
    assert (done.status, done.err) == (0, "")
    assert done.summary == "1,000 read, 1,000 stored, 0 already there, 0 rejected"
    assert stored_numbers(db) == Counter(range(1, 1_001))


def test_ingest_into_a_named_log(cli, db, url, tmp_path):
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(3))
    assert cli("ingest", source, "--store", f"{url}?log=other&synchronous=normal").status == 0
    assert len(stored(db, "other")) == 3
    assert cli("query", "--store", url).status == 1


def test_ingest_bounds_the_bytes_that_wait(cli, db, url, tmp_path, monkeypatch):
    monkeypatch.setattr(_ingest, "_MAX_PENDING_BYTES", 10_000)
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(2_000))
    assert cli("ingest", source, "--store", url).status == 0
    assert stored_numbers(db) == Counter(range(1, 2_001))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON: "),
        (b"[]", "expected an object, got list"),
        (b'{"event_id":"x","source":"agent","timestamp_ms":1}', "event: required field is missing"),
        (to_json(envelope(7)).replace(b'"agent"', b'"module"', 1), "source: expected 'agent' for this event"),
        (to_json(envelope(7)).replace(b"1700000000007", b"-1"), "timestamp_ms: "),
        (to_json(envelope(7)).replace(b"1700000000007", b"9223372036854775808"), "timestamp_ms: "),
        (to_json(envelope(7, text="x")).replace(b'"x"', b'"\xff"'), "not UTF-8: "),
        (to_json(envelope(7, text="x")).replace(b'"x"', b"NaN"), "event.payload.text: "),
        (to_json(envelope(7, text="x")).replace(b'"x"', b'"\\ud800"'), "event.payload.text: lone surrogate"),
        (b"\x1b]0;title\x07", "not JSON: "),
    ],
)
def test_ingest_names_a_line_that_is_no_envelope(cli, db, url, tmp_path, *, line, reason):
    bad, good = tmp_path / "bad.jsonl", tmp_path / "good.jsonl"
    bad.write_bytes(many(2) + b"\n" + line + b"\n" + many(1, start=3))
    good.write_bytes(many(1, start=4))
    done = cli("ingest", bad, good, "--store", url)
    assert done.status == 1
    assert done.summary == "5 read, 4 stored, 0 already there, 1 rejected"
    assert done.err.startswith(f"trio-eventlog: {bad}:4: {reason}")
    assert done.err.count("\n") == 1
    assert done.err.removesuffix("\n").isprintable()
    assert stored_numbers(db) == Counter([1, 2, 3, 4])


def test_ingest_shows_the_first_rejected_lines_and_counts_all(cli, url, tmp_path):
    source = tmp_path / "bad.jsonl"
    source.write_bytes(b"nonsense\n" * 100)
    done = cli("ingest", source, "--store", url, "--show-rejected", "3")
    assert done.status == 1
    assert done.summary == "100 read, 0 stored, 0 already there, 100 rejected"
    assert [line.partition(": not")[0] for line in done.err.splitlines()] == [
        *(f"trio-eventlog: {source}:{number}" for number in (1, 2, 3)),
        "trio-eventlog: further lines like these are only counted",
    ]


def wrong_checksum(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data))
    packed[-8] ^= 0xFF
    return bytes(packed)


@pytest.mark.parametrize(
    ("pack", "reason"),
    [
        (lambda data: gzip.compress(data)[: len(gzip.compress(data)) // 2], "the file is truncated"),
        (lambda data: gzip.compress(data)[:-1], "the file is truncated"),
        (lambda _data: b"\x1f\x8b", "the file is truncated"),
        (wrong_checksum, "damaged gzip data: CRC check failed"),
        (lambda data: gzip.compress(data) + b"rubbish", "damaged gzip data: Not a gzipped file"),
    ],
    ids=["half", "last-byte", "head", "checksum", "trailing"],
)
def test_ingest_keeps_what_comes_before_damage(cli, db, url, tmp_path, *, pack, reason):
    bad, good = tmp_path / "bad.jsonl.gz", tmp_path / "good.jsonl"
    bad.write_bytes(pack(many(3_000)))
    good.write_bytes(many(1, start=30_000))
    done = cli("ingest", bad, good, "--store", url)
    assert done.status == 1
    assert done.summary.endswith("0 rejected, 1 file not read to the end")
    found = stored_numbers(db)
    line = len(found)
    assert found == Counter([*range(1, line), 30_000])
    assert re.fullmatch(rf"trio-eventlog: {bad}:{line}: .*\n", done.err)
    assert reason in done.err


def test_ingest_survives_damage_in_the_middle(cli, db, url, tmp_path):
    packed = bytearray(gzip.compress(many(5_000)))
    packed[len(packed) // 2] ^= 0xFF
    source = tmp_path / "bad.jsonl.gz"
    source.write_bytes(packed)
    done = cli("ingest", source, "--store", url)
    assert done.status == 1
    # Whether the text turns into nonsense first depends on where it was hit.
    assert "1 file not read to the end" in done.summary
    assert f"trio-eventlog: {source}:" in done.err
    assert "damaged gzip data: " in done.err
    assert {event.id for event in stored(db)} >= {f"event-{number}" for number in range(1, 1_000)}


def test_ingest_names_files_that_cannot_be_read(cli, db, url, tmp_path):
    empty, good, missing = tmp_path / "empty.gz", tmp_path / "good.jsonl", tmp_path / "mis\x1bsing"
    empty.touch()
    good.write_bytes(many(3))
    done = cli("ingest", missing, tmp_path, empty, good, "--store", url)
    assert done.status == 1
    assert done.summary == "3 read, 3 stored, 0 already there, 0 rejected, 3 files not read to the end"
    assert done.err.splitlines() == [
        f"trio-eventlog: {tmp_path}/mis\\x1bsing: No such file or directory",
        f"trio-eventlog: {tmp_path}: Is a directory",
        f"trio-eventlog: {empty}:1: the gzip data ends early: the file is truncated",
    ]
    assert len(stored(db)) == 3


def test_ingest_skips_a_line_that_is_too_long(cli, db, url, tmp_path, monkeypatch):
    monkeypatch.setattr(_envelopes, "_BLOCK_SIZE", 1_000)
    monkeypatch.setattr(_envelopes, "MAX_LINE", 5_000)
    source = tmp_path / "long.jsonl"
    source.write_bytes(many(1) + b"x" * 5_001 + b"\n" + lines(envelope(2, text="x" * 4_000)) + b"y" * 20_000)
    done = cli("ingest", source, "--store", url)
    assert done.summary == "4 read, 2 stored, 0 already there, 2 rejected"
    assert f"{source}:2: longer than" in done.err
    assert f"{source}:4: longer than" in done.err
    assert stored_numbers(db) == Counter([1, 2])


PRINT_PEAK = """
    import atexit, pathlib, re, sys
    def print_peak():
        peak = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]
        sys.stderr.write(f"peak {peak}\\n")
    atexit.register(print_peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ingest_bounds_its_memory(url, tmp_path):
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(many(10_000))
        for _ in range(150):
            file.write(b"x" * 2**20)
        file.write(b"\n" + many(10_000, start=10_001))
    with feeding("ingest", bomb, "--store", url, prelude=PRINT_PEAK) as child:
        done = finish(child)
    assert done.summary == "20,001 read, 20,000 stored, 0 already there, 1 rejected"
    assert f"{bomb}:10001: longer than 16 MiB" in done.err
    assert int(done.err.rpartition("peak ")[2]) < 150_000


def test_ingest_names_events_that_the_store_rejects(cli, tmp_path, use_store):
    store = use_store(FailingStore(never=frozenset({"event-5", "event-6000", "event-12000"})))
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_bytes(many(7_000))
    second.write_bytes(b"\n" + many(5_000, start=7_001))
    done = cli("ingest", first, second, "--store", "memory:")
    assert done.status == 1
    assert done.summary == "12,000 read, 11,997 stored, 0 already there, 3 rejected"
    assert done.err.splitlines() == [
        f"trio-eventlog: {first}:5: the store rejects event 'event-5': no",
        f"trio-eventlog: {first}:6000: the store rejects event 'event-6000': no",
        f"trio-eventlog: {second}:5001: the store rejects event 'event-12000': no",
    ]
    assert trio.run(store.last_seq) == 11_999


def test_ingest_goes_on_when_all_is_rejected(cli, tmp_path, use_store):
    use_store(FailingStore(never=frozenset(f"event-{number}" for number in range(1, 6_001))))
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(6_001))
    done = cli("ingest", source, "--store", "memory:", "--show-rejected", "0")
    assert done.summary == "6,001 read, 1 stored, 0 already there, 6,000 rejected"


def test_ingest_waits_for_a_store_that_fails(cli, tmp_path, use_store):
    use_store(
        FailingStore(StoreError("disk full"), StoreError("disk full"), ValueError("a bug of the store"))
    )
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(3_000))
    done = cli("ingest", source, "--store", "memory:")
    assert done.status == 0
    assert done.summary == "3,000 read, 3,000 stored, 0 already there, 0 rejected"
    assert done.err.count("trio-eventlog: the store failed; retrying: disk full\n") == 1


def test_ingest_says_again_that_a_store_fails(tmp_path, capfd):
    """At once, and then every so often: a disk may be full for long."""
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(10))
    store = FailingStore(*(StoreError("disk full") for _ in range(40)))
    status = trio.run(
        lambda: _ingest.ingest_files(store, [str(source)], max_shown=1),
        clock=MockClock(autojump_threshold=0.05),
    )
    told = capfd.readouterr().err.splitlines()
    assert status == 0
    assert told[0] == "trio-eventlog: the store failed; retrying: disk full"
    assert 5 < len(told) < 25
    assert re.search(r"the store failed \([\d,]+ times in a row\); retrying: disk full", told[-1])


async def test_ingest_says_that_the_store_went_back(capfd):
    tally = _tally.Tally(1, _terminal.error_console())
    tally.on_failure(RevertReport(last_seq=5, expected_seq=20, again=12, lost=3, earlier=None))
    assert tally.lost == 3
    assert capfd.readouterr().err == (
        "trio-eventlog: the store went back: it had acknowledged up to seq 20, and now ends at 5;"
        " 12 events stored again, 3 lost\n"
    )


def test_ingest_ends_when_the_store_becomes_unusable(cli, tmp_path, use_store):
    use_store(FailingStore(StoreUnusable("the file is damaged")))
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_bytes(many(10_000))
    second.write_bytes(many(1))
    done = cli("ingest", first, second, "--store", "memory:", "--show-rejected", "1")
    assert done.status == 1
    read, lost = re.fullmatch(
        r"([\d,]+) read, 0 stored, 0 already there, 0 rejected, ([\d,]+) lost", done.summary
    ).groups()
    assert read == lost
    assert int(read.replace(",", "")) < 10_000
    assert done.err.splitlines() == [
        f"trio-eventlog: {first}:1: event 'event-1' may not be stored (unusable)",
        "trio-eventlog: further lines like these are only counted",
        "trio-eventlog: the file is damaged",
        "trio-eventlog: lost events were not stored; repeat the command to store them",
    ]


def test_ingest_says_why_the_log_does_not_open(cli, tmp_path, use_store):
    class Unreadable(MemoryStore):
        async def last_seq(self):
            await trio.lowlevel.checkpoint()
            raise StoreError("busy")

    use_store(Unreadable())
    done = cli("ingest", tmp_path, "--store", "memory:")
    assert done == Done(1, "", "trio-eventlog: busy\n")


def test_ingest_into_a_busy_log(cli, db, url):
    with held_open(db):
        done = cli("ingest", "--store", url, data=many(1))
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("trio-eventlog: ")
    assert done.err.count("\n") == 1
    assert str(db) in done.err


def test_a_store_that_cannot_be_opened(cli, tmp_path):
    text = tmp_path / "text"
    text.write_text("no database, but text of some length\n" * 100)
    for bad in (text, tmp_path, tmp_path / "missing" / "events.db"):
        done = cli("ingest", text, "--store", f"sqlite:{bad}")
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"trio-eventlog: {bad}")
        assert done.err.count("\n") == 1


def test_ingest_without_a_reader_of_its_summary(db, url):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, "ingest", "--store", url],
        input=many(10) + b"nonsense",
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=SECONDS,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert len(stored(db)) == 10
