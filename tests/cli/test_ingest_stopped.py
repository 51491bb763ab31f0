"""`ingest` is interrupted, killed, and repeated."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import gzip
import os
import signal
import time
from collections import Counter

import pytest
import trio

from tests._helpers.cli import (
    DOWN,
    SECONDS,
    envelope,
    feeding,
    finish,
    many,
    stored,
    stored_numbers,
    wait_for_events,
    wait_for_line,
)
from trio_eventlog import (
    PersistedEvent,
)
from trio_eventlog.cli import (
    _envelopes,
    _ingest,
    _repeats,
    _terminal,
)
from trio_eventlog.cli._envelopes import EnvelopeFile
from trio_eventlog.stores import MemoryStore


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_ingest_stores_what_was_read_when_told_to_stop(cli, db, url, number, status):
    with feeding("ingest", "--store", url) as child:
        child.stdin.write(many(10_000))
        child.stdin.flush()
        # In the middle of it: some is stored, some waits, some is not read.
        wait_for_events(db, 1)
        child.send_signal(number)
        wait_for_line(child.stderr, "stopping once everything read so far is stored")
        # Standard input is still open: it is not its end that ends the process.
        assert child.wait(SECONDS) == status
        done = finish(child)
    found = stored_numbers(db)
    assert found == Counter(range(1, len(found) + 1))
    assert done.summary == f"{len(found):,} read, {len(found):,} stored, 0 already there, 0 rejected"

    again = cli("ingest", "--store", url, data=many(12_000))
    assert again.status == 0
    assert again.summary == (
        f"12,000 read, {12_000 - len(found):,} stored, {len(found):,} already there, 0 rejected"
    )
    assert stored_numbers(db) == Counter(range(1, 12_001))
    # What is repeated takes no seqs, which would be missing as if something had been lost.
    assert [event.seq for event in stored(db)] == list(range(1, 12_001))


def test_ingest_stops_while_it_waits_for_input(db, url):
    with feeding("ingest", "--store", url) as child:
        child.stdin.write(many(10) + b'{"event_id":')
        child.stdin.flush()
        wait_for_events(db, 10)
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 130
        assert finish(child).summary == "10 read, 10 stored, 0 already there, 0 rejected"


def test_ingest_after_a_kill_stores_each_event_once(cli, db, url, tmp_path):
    source = tmp_path / "some.jsonl.gz"
    source.write_bytes(gzip.compress(many(12_000)))
    for part in (3_000, 8_000):
        with feeding("ingest", "--store", url) as child:
            child.stdin.write(many(part))
            child.stdin.flush()
            wait_for_events(db, part // 2)
            child.kill()
            assert child.wait(SECONDS) == -signal.SIGKILL
    before = stored_numbers(db)
    assert before == Counter(range(1, len(before) + 1))
    done = cli("ingest", source, "--store", url)
    assert done.status == 0
    assert done.summary == (
        f"12,000 read, {12_000 - len(before):,} stored, {len(before):,} already there, 0 rejected"
    )
    assert stored_numbers(db) == Counter(range(1, 12_001))
    assert cli("verify", "--no-gaps", "--store", url).status == 0


@pytest.mark.parametrize("looks", [0, 4])
def test_ingest_of_what_is_there_in_part(cli, db, url, tmp_path, monkeypatch, looks):
    """In the middle of a log, in another file, behind lines that are rejected, in many small blocks."""
    monkeypatch.setattr(_repeats, "_MAX_SEARCHES", looks)
    monkeypatch.setattr(_envelopes, "_BLOCK_SIZE", 10_000)
    before, first, second = (tmp_path / f"{name}.jsonl" for name in ("before", "first", "second"))
    before.write_bytes(many(100, start=20_001))
    first.write_bytes(b"nonsense\n" * 100 + many(1_000) + b"nonsense\n" * 300 + many(500, start=1_001))
    second.write_bytes(many(1_000, start=5_001))
    assert cli("ingest", before, "--store", url).status == 0
    assert (
        cli("ingest", first, "--store", url).summary
        == "1,900 read, 1,500 stored, 0 already there, 400 rejected"
    )
    assert cli("ingest", second, "--store", url).status == 0

    first.write_bytes(first.read_bytes() + many(100, start=1_501))
    second.write_bytes(second.read_bytes() + many(100, start=6_001))
    done = cli("ingest", before, first, second, "--store", url)
    assert done.summary == "3,200 read, 200 stored, 2,600 already there, 400 rejected"
    seqs = [event.seq for event in stored(db)]
    # Without looking, the log finds them all the same, each at the price of a seq.
    assert (seqs == list(range(1, 2_801))) == bool(looks)
    assert len(seqs) == 2_800


async def test_repeats_are_few_questions(monkeypatch):
    """For lines that are new, a look or two in all; for those that are not, one a block."""

    class Counting(MemoryStore):
        questions = 0

        async def query(self, query):
            self.questions += 1
            return await super().query(query)

    store = Counting()
    await store.append_batch(
        [
            PersistedEvent(f"event-{n}", n, 1_700_000_000_000 + n, "a", envelope(n).event)
            for n in range(1, 501)
        ]
    )
    repeats = _repeats.Repeats(store, 500, _terminal.error_console())
    repeats.begin_file()
    for start in range(1_000, 3_000, 10):
        assert await repeats.find([envelope(n) for n in range(start, start + 10)]) == set()
    assert store.questions == _repeats._MAX_SEARCHES
    store.questions = 0
    repeats.begin_file()
    for start in range(101, 501, 10):
        assert len(await repeats.find([envelope(n) for n in range(start, start + 10)])) == 10
    assert store.questions == 40


def test_ingest_ends_at_once_at_the_second_ctrl_c():
    with feeding("ingest", "--store", "memory:", "--show-rejected=1", prelude=DOWN) as child:
        child.stdin.write(many(100))
        child.stdin.flush()
        wait_for_line(child.stderr, "the store failed; retrying: down")
        child.send_signal(signal.SIGINT)
        wait_for_line(child.stderr, "interrupt again to stop immediately")
        before = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 130
        # Well before the end of the time that it may take to store what was read.
        assert time.monotonic() - before < _ingest._GRACE_PERIOD / 2
        done = finish(child)
    assert done.summary == "100 read, 0 stored, 0 already there, 0 rejected, 100 lost"
    assert done.err.splitlines()[-4:-1] == [
        "trio-eventlog: standard input:1: event 'event-1' may not be stored (shutdown)",
        "trio-eventlog: further lines like these are only counted",
        "trio-eventlog: stopped immediately",
    ]


def test_ingest_loses_what_the_store_does_not_take_in_time(cli, tmp_path, use_store, monkeypatch):
    # The only way to get there is a signal, whose grace is over.
    monkeypatch.setattr(_ingest, "_GRACE_PERIOD", 0.0)

    class Interrupted(MemoryStore):
        async def append_batch(self, events):
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep_forever()

    use_store(Interrupted())
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(10))
    done = cli("ingest", source, "--store", "memory:", "--show-rejected", "0")
    assert done.status == 130
    assert done.summary == "10 read, 0 stored, 0 already there, 0 rejected, 10 lost"


def test_a_file_that_is_still_read_is_not_closed(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)

    async def read_and_give_up() -> None:
        with EnvelopeFile(str(pipe)) as file:
            with trio.move_on_after(0.1):
                await trio.to_thread.run_sync(file.read_block, abandon_on_cancel=True)
            assert file._is_reading
        # The thread goes on, reads what comes and ends.
        os.write(writer, many(1))
        with trio.fail_after(SECONDS):
            while file._is_reading:  # noqa: ASYNC110 - a thread that nobody waits for
                await trio.sleep(0.01)
        with file:
            assert [line.number for line in file.read_block().lines] == [1]

    trio.run(read_and_give_up)
    os.close(writer)
