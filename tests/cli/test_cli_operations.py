"""`verify`, `prune`, `copy` and `export`, and that each may be interrupted and run again."""

# ruff: noqa: F811, PLR0917 - fixtures are imported, and there are many of them

from __future__ import annotations

import json
import signal

import apsw
import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.cli.test_cli import (  # noqa: F401 - fixtures among them
    SECONDS,
    Done,
    cli,
    db,
    envelope,
    filled,
    lines,
    many,
    stored,
    url,
    use_store,
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
from trio_eventlog._log._spill_file import SpillFile
from trio_eventlog.cli import _maintenance as _upkeep
from trio_eventlog.cli import _query, _transfer
from trio_eventlog.stores import MemoryStore, SqliteStore
from trio_eventlog.stores.sqlite import _maintenance as _sqlite_upkeep


@pytest.fixture
def small_pages(monkeypatch):
    """So that there is a middle to interrupt."""
    monkeypatch.setattr(_transfer, "_PAGE", 100)
    monkeypatch.setattr(_sqlite_upkeep, "CHUNK_EVENTS", 100)


def interrupt_at(monkeypatch, owner, name, call, number=signal.SIGINT):
    """Let a signal come when a function is called for the ``call``-th time; once."""
    function, calls = getattr(owner, name), 0

    def interrupted(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(number)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)


def raw(path, statement):
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


# --- a log that is not there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "verify --no-gaps --store {}",
        "prune --keep 1 --store {}",
        "prune --keep 1 --dry-run --store {}",
        "query --store {}",
        "tail --store {}",
        "tasks --store {}",
        "stats --json --store {}",
        "export --store {}",
        "export --store {} --output new.jsonl",
        "export --store {} --output new.jsonl --resume",
        "export --store {} --output old.jsonl --resume",
        "copy --from {} --to sqlite:new.db",
    ],
)
def test_a_log_that_is_not_there(cli, db, filled, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    cli("copy", "--from", filled, "--to", f"{filled}?log=other")
    (tmp_path / "old.jsonl").write_bytes(to_json(stored(db)[0]) + b'\n{"id":"cut off')
    before = {path.name for path in tmp_path.iterdir()}, (tmp_path / "old.jsonl").read_bytes()
    for place, told in (
        (f"{filled}?log=typo", f"trio-eventlog: there is no log 'typo' in {db}; it has 'default', 'other'\n"),
        ("sqlite:typo.db", "trio-eventlog: typo.db: no such file or directory\n"),
    ):
        assert cli(*command.format(place).split()) == Done(1, "", told)
        assert ({path.name for path in tmp_path.iterdir()}, (tmp_path / "old.jsonl").read_bytes()) == before


def test_a_log_that_is_to_be_made(cli, db, filled, tmp_path):
    (tmp_path / "one.jsonl").write_bytes(many(1))
    assert cli("ingest", tmp_path / "one.jsonl", "--store", f"{filled}?log=new").status == 0
    assert cli("copy", "--from", filled, "--to", f"{filled}?log=copy").status == 0
    assert (len(stored(db, "new")), len(stored(db, "copy"))) == (1, 2_500)


# --- verify ---------------------------------------------------------------------------------------


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

    done = cli("verify", "--store", filled)
    assert done.status == 0
    assert "2 gaps, 3 seqs (lost, duplicate or pruned)" in done.out
    assert "7 to 8" in done.out
    done = cli("verify", "--store", filled, "--no-gaps")
    assert done.status == 1
    assert "not wanted" in done.out


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


# --- prune ----------------------------------------------------------------------------------------


def test_prune_by_number_and_by_time(cli, db, filled):
    assert cli("prune", "--store", filled, "--keep", 2000, "--dry-run").out == "500 events would go\n"
    assert len(stored(db)) == 2500
    assert cli("prune", "--store", filled, "--keep", 2000).out == "500 events pruned\n"
    assert stored(db)[0].seq == 501
    before = stored(db)[100].timestamp_ms
    assert cli("prune", "--store", filled, "--before", before).out == "100 events pruned\n"
    assert cli("prune", "--store", filled, "--older-than", "9000d").out == "0 events pruned\n"
    assert cli("prune", "--store", filled, "--older-than", "1s").out == "1,900 events pruned\n"
    assert stored(db) == []
    assert cli("prune", "--store", filled, "--keep", 0).out == "0 events pruned\n"


def test_prune_with_numbers_beyond_all_bounds(cli, db, filled):
    huge = "9" * 30
    assert cli("prune", "--store", filled, "--keep", huge).out == "0 events pruned\n"
    assert cli("prune", "--store", filled, "--older-than", "999999999w").out == "0 events pruned\n"
    assert cli("prune", "--store", filled, "--before", huge).out == "2,500 events pruned\n"
    assert stored(db) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "one of --before, --older-than and --keep"),
        (["--keep", 1, "--before", "2026-07-14"], "one of --before, --older-than and --keep"),
        (["--older-than", "30"], "is no age; write a number and s, m, h, d or w"),
        (["--keep", "-1"], "is no number of 0 or more"),
    ],
)
def test_prune_wants_one_criterion(cli, db, filled, arguments, complaint):
    done = cli("prune", "--store", filled, *arguments)

    assert done.status == 2
    assert complaint in " ".join(done.err.split())
    assert len(stored(db)) == 2500


def test_prune_is_interrupted_and_goes_on(cli, db, filled, monkeypatch, small_pages):
    interrupt_at(monkeypatch, _sqlite_upkeep, "prune_some", 4)

    done = cli("prune", "--store", filled, "--keep", 0)
    left = len(stored(db))
    assert done.status == 130
    assert 0 < left < 2500
    assert done.err == "trio-eventlog: stopping; what is gone is gone\n"
    assert done.out.endswith(" events pruned of 2,500\n")
    assert done.out.startswith("at least ")
    assert cli("prune", "--store", filled, "--keep", 0).out == f"{left:,} events pruned\n"


def test_operations_on_a_store_that_has_none(cli, filled, tmp_path, monkeypatch):
    class Bare:
        append_batch = query = last_seq = None

    for call in (
        lambda: _upkeep.prune(Bare(), "x:", before_ms=1, keep=None, dry_run=False),
        lambda: _upkeep.print_verification(Bare(), "x:", no_gaps=False, most_shown=1, as_json=False),
    ):
        with pytest.raises(_upkeep.CommandError, match="x:: a store of this kind cannot be"):
            trio.run(call)


# --- copy -----------------------------------------------------------------------------------------


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
    interrupt_at(monkeypatch, _transfer, "_append", 5, number)

    done = cli(*arguments)
    assert done.status == 128 + number
    assert "run the same command once more" in done.err
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
            status = await _transfer.copy(source, target, most_shown=1)
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
    assert "no part of that of --from: seq 1 is event 'event-9999' there and 'event-1' here" in done.err
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
        status = await _transfer.copy(source, target, most_shown=2)
        return status, len(await target.query(_transfer.EventQuery()))

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
        status = await _transfer.copy(source, target, most_shown=1, **options)
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
    monkeypatch.setattr(_transfer, "_BYTES", 10_000)
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
    assert err == f"trio-eventlog: the store of {which} failed, and is tried again: lost\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            StoreError("gone"),
            [
                "the store of --to failed, and is tried again: gone",
                "gone; run the same command once more to go on",
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
                return await _transfer.copy(source, target, most_shown=1)

    assert trio.run(main) == 0
    assert len(stored(tmp_path / "again.db")) == 2500


# --- export ---------------------------------------------------------------------------------------


def test_export_to_a_file_and_to_standard_output(cli, db, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    done = cli("export", "--store", filled, "--output", out)

    assert (done.status, done.out) == (0, f"2,500 events written to {out}\n")
    assert [from_json(line, PersistedEvent) for line in out.read_bytes().splitlines()] == stored(db)
    assert out.stat().st_mode & 0o777 == 0o600
    assert cli("export", "--store", filled).out.encode() == out.read_bytes()
    some = cli("export", "--store", filled, "--run-id", "run-3", "--after-seq", 100, "--limit", 7).out
    assert [json.loads(line)["event"]["payload"]["run_id"] for line in some.splitlines()] == ["run-3"] * 7
    assert json.loads(some.splitlines()[0])["seq"] == 103


def test_export_does_not_overwrite(cli, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("mine\n")

    done = cli("export", "--store", filled, "--output", out)
    assert done.status == 1
    assert "is there already; --resume goes on with it" in done.err
    done = cli("export", "--store", filled, "--output", out, "--resume")
    assert done.status == 1
    assert "does not end in an event" in done.err
    assert out.read_text() == "mine\n"
    for foreign in ('{"a":1}', "secret", '{"idea": 1}', "\0" * 100):
        out.write_text(foreign)
        done = cli("export", "--store", filled, "--output", out, "--resume")
        assert done.status == 1
        assert "nor in the beginning of one" in done.err
        assert out.read_text() == foreign
    done = cli("export", "--store", filled, "--output", "/dev/null", "--resume")
    assert done.status == 1
    assert done.err.startswith("trio-eventlog: --output: /dev/null: ")
    assert cli("export", "--store", filled, "--resume").status == 2
    assert "No such file" in cli("export", "--store", filled, "--output", tmp_path / "no" / "x").err


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, 10**6])
def test_export_goes_on_where_it_was_cut_off(cli, filled, tmp_path, cut):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    cli("export", "--store", filled, "--output", whole)
    content = whole.read_bytes()
    out.write_bytes(content[: max(len(content) - cut, 0)])

    assert cli("export", "--store", filled, "--output", out, "--resume").status == 0
    assert out.read_bytes() == content


@pytest.mark.parametrize("cut", [0, 5])
def test_export_goes_on_only_with_the_same_log(cli, filled, tmp_path, cut):
    other, out = tmp_path / "other.db", tmp_path / "out.jsonl"
    (tmp_path / "other.jsonl").write_bytes(many(3_000, start=9_000))
    cli("ingest", tmp_path / "other.jsonl", "--store", f"sqlite:{other}")
    cli("export", "--store", f"sqlite:{other}", "--output", out, "--limit", 100)
    content = out.read_bytes()[: -cut or None]
    out.write_bytes(content)
    last = 100 if not cut else 99

    done = cli("export", "--store", filled, "--output", out, "--resume")
    assert (done.status, done.out) == (1, "")
    assert (
        f"ends with event 'event-{8_999 + last}', seq {last}, but the log has event 'event-{last}'"
        in done.err
    )
    # Nothing at all, what was cut off included.
    assert out.read_bytes() == content
    assert cli("export", "--store", f"sqlite:{other}", "--output", out, "--resume").status == 0
    assert len(out.read_bytes().splitlines()) == 3_000


def test_export_goes_on_only_with_a_log_that_has_not_gone_back(cli, db, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    cli("export", "--store", filled, "--output", out)
    content = out.read_bytes()
    older = tmp_path / "older.db"
    cli("copy", "--from", filled, "--to", f"sqlite:{older}")
    raw(older, "DELETE FROM events_1 WHERE seq > 2000")
    raw(older, "UPDATE logs SET last_seq = 2000")

    done = cli("export", "--store", f"sqlite:{older}", "--output", out, "--resume")
    assert done.status == 1
    assert "but the log ends with seq 2000: it is another one, or went back to an older state" in done.err
    assert out.read_bytes() == content


def test_export_does_not_go_on_behind_what_was_pruned(cli, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    cli("export", "--store", filled, "--output", out, "--limit", 100)
    content = out.read_bytes()
    cli("prune", "--store", filled, "--keep", 100)

    done = cli("export", "--store", filled, "--output", out, "--resume")
    assert done.status == 1
    assert "ends with event 'event-100', seq 100, but " in done.err
    assert "pruned" in done.err
    assert out.read_bytes() == content


def test_no_file_is_made_if_the_store_cannot_be_read(cli, tmp_path, use_store):
    class Unreadable(MemoryStore):
        async def last_seq(self):
            await trio.lowlevel.checkpoint()
            raise StoreError("busy")

    use_store(Unreadable())
    for options in ((), ("--resume",)):
        done = cli("export", "--store", "memory:", "--output", tmp_path / "out.jsonl", *options)
        assert (done.status, done.err) == (1, "trio-eventlog: busy\n")
    assert not list(tmp_path.iterdir())


# --- what was pruned ------------------------------------------------------------------------------


class Pruning(MemoryStore):
    """Loses events 101 to 150 once somebody has read the first page."""

    async def query(self, query):
        if query.after_seq:
            self.pruned = 150
        found = await super().query(attrs.evolve(query, limit=None))
        return [event for event in found if not 100 < event.seq <= self.pruned][: query.limit]

    pruned = 0

    async def pruned_seq(self):
        await trio.lowlevel.checkpoint()
        return self.pruned


@pytest.fixture
def pruning():
    store = Pruning()

    async def fill():
        await store.append_batch(
            [PersistedEvent(f"event-{n}", n, n, "agent-1", envelope(n).event) for n in range(1, 251)]
        )

    trio.run(fill)
    return store


PRUNED = "trio-eventlog: events were pruned before they were read (seq 101 to 150)\n"


@pytest.mark.parametrize("first", [[], ["--after-seq", 100]])
@pytest.mark.parametrize("command", ["query", "export"])
def test_readers_say_what_was_pruned(cli, use_store, pruning, monkeypatch, command, first):
    monkeypatch.setattr(_transfer, "_PAGE", 100)
    monkeypatch.setattr(_query, "_PAGE", 100)
    use_store(pruning)
    done = cli(command, "--store", "memory:", *first)
    assert (done.status, done.err) == (1, PRUNED)
    assert len(done.out.splitlines()) == (100 if first else 200)


def test_copy_says_what_was_pruned(capfd, pruning, small_pages):
    async def main():
        target = MemoryStore()
        return await _transfer.copy(pruning, target, most_shown=1), await target.query(EventQuery())

    status, copied = trio.run(main)
    assert (status, len(copied)) == (1, 200)
    assert capfd.readouterr() == ("200 events copied; up to seq 250\n", PRUNED)


def test_what_was_pruned_before_does_not_concern_who_begins_at_the_first(cli, filled, tmp_path):
    cli("prune", "--store", filled, "--keep", 1_500)
    for command in (
        ["query"],
        ["export"],
        ["export", "--output", tmp_path / "out.jsonl"],
        ["tail", "--last", 1_500, "--limit", 1_500],
        ["tail", "--last", 3_000, "--run-id", "run-1", "--limit", 150],
        ["query", "--all-logs"],
    ):
        done = cli(*command, "--store", filled)
        assert (done.status, done.err) == (0, "")
    done = cli("copy", "--from", filled, "--to", f"sqlite:{tmp_path / 'copy.db'}")
    assert (done.status, done.err, done.out) == (0, "", "1,500 events copied; up to seq 2500\n")


def test_export_is_interrupted_and_goes_on(cli, db, filled, tmp_path, monkeypatch, small_pages):
    out = tmp_path / "out.jsonl"
    arguments = ("export", "--store", filled, "--output", out)
    interrupt_at(monkeypatch, _transfer._OutputFile, "write", 3)

    done = cli(*arguments)
    seq = len(out.read_bytes().splitlines())
    assert done.status == 130
    assert f"stopped after seq {seq}; go on with --resume" in done.err
    assert 0 < seq < 2500
    assert cli(*arguments, "--resume").out == f"{2500 - seq:,} events written to {out}\n"
    assert [json.loads(line)["seq"] for line in out.read_bytes().splitlines()] == list(range(1, 2501))


def test_export_to_standard_output_is_interrupted(cli, filled, monkeypatch, small_pages):
    """What a pipe has taken, nobody knows; its last whole line says where to go on."""
    interrupt_at(monkeypatch, _transfer, "json_lines", 3)

    done = cli("export", "--store", filled)
    assert done.status == 130
    assert "the last whole line that was written has the seq for --after-seq" in done.err
    last = json.loads(done.out.splitlines()[-1])["seq"]
    rest = cli("export", "--store", filled, "--after-seq", last).out
    assert json.loads(rest.splitlines()[0])["seq"] == last + 1


def test_copy_into_a_log_that_cannot_be_compared_is_refused(cli, db, filled, tmp_path):
    """One of them was pruned: going on could mix two logs."""
    other = tmp_path / "other.db"
    (tmp_path / "one.jsonl").write_bytes(lines(*(envelope(n) for n in range(9000, 9003))))
    cli("ingest", tmp_path / "one.jsonl", "--store", f"sqlite:{other}")
    cli("prune", "--store", filled, "--keep", 100)

    done = cli("copy", "--from", filled, "--to", f"sqlite:{other}")
    assert done.status == 1
    assert "is gone from one of them; copy into an empty log" in done.err
    assert len(stored(other)) == 3


# --- back in --------------------------------------------------------------------------------------


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
