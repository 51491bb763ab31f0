"""`copy`, also interrupted, and from and to stores that fail."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import signal

import pytest
import trio
from trio.testing import MockClock

from tests._helpers.cli import (
    SECONDS,
    envelope,
    interrupt_at,
    lines,
    many,
    raw,
    stored,
)
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    LogBusy,
    PersistedEvent,
    StoreError,
    from_json,
    to_json,
)
from trio_eventlog.cli import (
    _copy,
)
from trio_eventlog.stores import MemoryStore, SqliteStore


def test_copy_keeps_ids_and_seqs_and_goes_on(cli, db, filled, tmp_path):
    copy = tmp_path / "copy.db"
    arguments = ("copy", "--from", filled, "--to", f"sqlite:{copy}")
    raw(db, "DELETE FROM events_1 WHERE seq IN (5, 1500)")

    assert cli(*arguments).out == "2,498 events copied; up to seq 2500\n"
    assert stored(copy) == stored(db)
    assert cli(*arguments).out == "0 events copied; up to seq 2500\n"
    more = tmp_path / "more.jsonl"
    more.write_bytes(many(10, start=3000))
    cli("ingest", more, "--store", filled)
    assert cli(*arguments).out == "10 events copied; up to seq 2510\n"
    assert stored(copy) == stored(db)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_copy_is_interrupted_and_goes_on(cli, db, filled, tmp_path, monkeypatch, small_pages, number):
    copy = tmp_path / "copy.db"
    arguments = ("copy", "--from", filled, "--to", f"sqlite:{copy}")
    interrupt_at(monkeypatch, _copy, "_append", 5, number)

    done = cli(*arguments)
    assert done.status == 128 + number
    assert "repeat the command" in done.err
    copied = len(stored(copy))
    assert 400 <= copied < 2500
    # The batch that was being appended is counted if it is there.
    assert done.out == f"{copied:,} events copied; up to seq {copied}\n"
    assert cli(*arguments).out == f"{2500 - copied:,} events copied; up to seq 2500\n"
    assert stored(copy) == stored(db)


class Late(MemoryStore):
    """Stores what it was cancelled in, as a store may."""

    answers = True

    async def append_batch(self, events):
        await super().append_batch(events)
        if events[0].seq > 200:
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()
        return ()

    async def last_seq(self):
        if not self.answers:
            raise StoreError("does not answer")
        return await super().last_seq()


@pytest.mark.parametrize("answers", [True, False])
def test_copy_counts_what_was_cut_off(capfd, small_pages, answers):
    source, target = MemoryStore(), Late()

    async def main():
        await source.append_batch(
            [PersistedEvent(f"event-{n}", n, n, "agent-1", envelope(n).event) for n in range(1, 1_001)]
        )
        with trio.move_on_after(SECONDS):
            status = await _copy.copy_events(source, target, max_shown=1)
        return status, len(await target.query(EventQuery()))

    append = Late.append_batch

    async def append_and_fall_silent(self, events):
        if events[0].seq > 200:
            self.answers = answers
        return await append(self, events)

    target.append_batch = append_and_fall_silent.__get__(target)
    assert trio.run(main) == (130, 332)
    out = capfd.readouterr().out
    assert out == (
        "332 events copied; up to seq 332\n" if answers else "at least 232 events copied; up to seq 232\n"
    )


def test_copy_into_something_else_is_refused(cli, db, filled, tmp_path):
    other = tmp_path / "other.db"
    (tmp_path / "one.jsonl").write_bytes(lines(envelope(9999)))
    cli("ingest", tmp_path / "one.jsonl", "--store", f"sqlite:{other}")

    done = cli("copy", "--from", filled, "--to", f"sqlite:{other}")
    assert done.status == 1
    assert "not a copy of that of --from: seq 1 is event 'event-9999' there and 'event-1' here" in done.err
    done = cli("copy", "--from", f"sqlite:{other}", "--to", filled)
    assert done.status == 1
    assert "goes up to seq 2500, beyond that of --from" in done.err
    assert len(stored(other)) == 1
    done = cli("copy", "--from", filled, "--to", "nothing")
    assert (done.status, done.err[:24]) == (2, "trio-eventlog: --to: 'no")


def test_copy_names_what_the_store_rejects(capfd):
    class Narrow(MemoryStore):
        async def append_batch(self, events):
            odd = [event for event in events if event.seq % 1000 == 1]
            if odd:
                raise EventRejected(odd, "too odd")
            return await super().append_batch(events)

    async def main():
        source, target = MemoryStore(), Narrow()
        event = from_json(to_json(PersistedEvent("i", 1, 1, "a", envelope(1).event)), PersistedEvent)
        await source.append_batch(
            [PersistedEvent(f"i-{seq}", seq, 1, "a", event.event) for seq in range(1, 2501)]
        )
        status = await _copy.copy_events(source, target, max_shown=2)
        return status, len(await target.query(EventQuery()))

    assert trio.run(main) == (1, 2497)
    out, err = capfd.readouterr()
    assert out == "2,497 events copied, 3 rejected; up to seq 2500\n"
    assert err.splitlines() == [
        "trio-eventlog: seq 1: the store rejects event 'i-1': too odd",
        "trio-eventlog: seq 1001: the store rejects event 'i-1001': too odd",
    ]


class Target(MemoryStore):
    """Notes the sizes of what it is given, and fails as told, an error an append."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)
        self.sizes = []

    async def append_batch(self, events):
        self.sizes.append(len(events))
        if self.errors:
            await trio.lowlevel.checkpoint()
            raise self.errors.pop(0)
        return await super().append_batch(events)


class Source(MemoryStore):
    """Notes how many events it is asked for, and fails as told, an error a query."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)
        self.limits = []

    async def query(self, query):
        self.limits.append(query.limit)
        if self.errors:
            await trio.lowlevel.checkpoint()
            raise self.errors.pop(0)
        return await super().query(query)


def copied(source, target, sizes, **options):
    """Copy events whose payloads have these sizes, in virtual time; the exit status."""

    async def main():
        await source.append_batch(
            [
                PersistedEvent(f"event-{seq}", seq, seq, "a", AgentEvent("a", "t", "x" * size))
                for seq, size in enumerate(sizes, start=1)
            ]
        )
        status = await _copy.copy_events(source, target, max_shown=1, **options)
        events = await source.query(EventQuery())
        assert await target.query(EventQuery()) == events[: await target.last_seq()]
        return status

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def test_copy_offers_no_more_than_the_store_takes():
    target = Target()
    target.max_batch = 7
    assert copied(Source(), target, [1] * 40) == 0
    assert target.sizes == [7, 7, 7, 7, 7, 5]


def test_copy_bounds_bytes_as_well(monkeypatch):
    """Of an append; those of a page are seen to by whatever reads it."""
    monkeypatch.setattr(_copy, "_MAX_BATCH_BYTES", 10_000)
    source, target = Source(), Target()
    assert copied(source, target, [2_000] * 1_010 + [30_000] + [1] * 500) == 0
    most = max(target.sizes[:250])
    assert most == 4
    assert target.sizes[:250] == [most] * 250
    assert source.limits[:3] == [32, 256, 1_000]
    # What is larger than that goes alone, and what is small together again.
    assert 1 in target.sizes
    assert max(target.sizes) > 50
    assert sum(target.sizes) == 1_511


@pytest.mark.parametrize(
    ("source", "target", "which"),
    [
        (Source(), Target(StoreError("lost"), StoreError("no leader")), "--to"),
        (Source(), Target(*[StoreError("lost")] * 20), "--to"),
        (Source(StoreError("lost")), Target(), "--from"),
    ],
    ids=["target", "target-for-long", "source"],
)
def test_copy_goes_on_when_a_store_answers_again(capfd, source, target, which):
    assert copied(source, target, [1] * 1_500) == 0
    out, err = capfd.readouterr()
    assert out == "1,500 events copied; up to seq 1500\n"
    assert err == f"trio-eventlog: the {which} store failed; retrying: lost\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            StoreError("gone"),
            [
                "the --to store failed; retrying: gone",
                "gone; repeat the command to continue",
            ],
        ),
        (LogBusy("another one has it"), ["another one has it"]),
    ],
)
def test_copy_gives_up_in_the_end(capfd, error, told):
    """After a minute of errors that may pass, and at once for others. It says how far it came."""

    class Failing(Target):
        async def append_batch(self, events):
            if events[0].seq > 1:
                await trio.lowlevel.checkpoint()
                raise error
            return await super().append_batch(events)

    assert copied(Source(), Failing(), [1] * 1_500) == 1
    out, err = capfd.readouterr()
    assert out == "32 events copied; up to seq 32\n"
    assert err.splitlines() == [f"trio-eventlog: {line}" for line in told]


def test_copy_from_a_log_that_is_being_written(cli, db, filled, tmp_path):
    """The lock of the writer is no matter; that of the target is."""

    async def hold(call):
        async with SqliteStore.open(db):
            return await trio.to_thread.run_sync(call)

    copy = f"sqlite:{tmp_path / 'copy.db'}"
    assert cli("copy", "--from", filled, "--to", copy).status == 0

    async def main():
        async with SqliteStore.open(db):
            async with (
                SqliteStore.open(db, read_only=True) as source,
                SqliteStore.open(tmp_path / "again.db") as target,
            ):
                return await _copy.copy_events(source, target, max_shown=1)

    assert trio.run(main) == 0
    assert len(stored(tmp_path / "again.db")) == 2500


def test_copy_into_a_log_that_cannot_be_compared_is_refused(cli, db, filled, tmp_path):
    """One of them was pruned: going on could mix two logs."""
    other = tmp_path / "other.db"
    (tmp_path / "one.jsonl").write_bytes(lines(*(envelope(n) for n in range(9000, 9003))))
    cli("ingest", tmp_path / "one.jsonl", "--store", f"sqlite:{other}")
    cli("prune", "--store", filled, "--keep", 100)

    done = cli("copy", "--from", filled, "--to", f"sqlite:{other}")
    assert done.status == 1
    assert "one of them no longer has it; copy to an empty log" in done.err
    assert len(stored(other)) == 3
