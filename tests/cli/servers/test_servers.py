"""The command line on PostgreSQL and JetStream, and between them and SQLite."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import itertools
import json
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests._helpers.cli import (
    SECONDS,
    Done,
    envelope,
    feeding,
    finish,
    interrupt_at,
    lines,
    many,
    process,
    read_lines,
    start,
    wait_for_line,
)
from tests._helpers.nats_server import Node, free_ports, running_server
from tests._helpers.postgres_server import ESCAPED_PASSWORD, PASSWORD, PostgresServer, postgres_server
from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog._util import how_to_install
from trio_eventlog.cli import _copy
from trio_eventlog.stores import SqliteStore, open_readers, open_store
from trio_eventlog.testing import assert_same_events

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def nats() -> Iterator[Node]:
    config = f"authorization {{ user: tester, password: {json.dumps(PASSWORD)} }}"
    with running_server(config=config) as server:
        yield server


@attrs.frozen
class Place:
    """A schema or a stream of a test's own."""

    kind: str
    server: PostgresServer | Node
    base: str
    option: str
    """What must be in its URLs."""

    def url(self, log: str | None = None, **options: object) -> str:
        """The URL of a log in it."""
        named = {"log": log} if log is not None else {}
        given = [f"{name}={value}" for name, value in {**named, **options}.items()]
        if self.option:
            given.append(self.option)
        return self.base + ("?" + "&".join(given) if given else "")

    def stored(self, log: str = "default") -> list[PersistedEvent]:
        """What is in a log."""

        async def read() -> list[PersistedEvent]:
            async with open_store(self.url(log), read_only=True) as store:
                return await store.query(EventQuery())

        return trio.run(read)


def postgres_place(server: PostgresServer) -> Place:
    return Place("postgresql", server, server.url(), f"schema=s{next(numbers)}")


def nats_place(server: Node) -> Place:
    base = server.url.replace("//", f"//tester:{ESCAPED_PASSWORD}@")
    return Place("nats", server, f"{base}/S{next(numbers)}", "")


@pytest.fixture(params=["postgresql", "nats"])
def place(request: pytest.FixtureRequest, postgres: PostgresServer, nats: Node) -> Place:
    return postgres_place(postgres) if request.param == "postgresql" else nats_place(nats)


Cli = Callable[..., Done]


@pytest.fixture
def told(cli: Cli) -> Cli:
    """Runs a command that does all it is asked for, and says no secret."""

    def run(*arguments: object, status: int = 0) -> Done:
        done = cli(*arguments)
        assert done.status == status, done.err
        for text in (done.out, done.err):
            assert PASSWORD not in text
            assert ESCAPED_PASSWORD not in text
        assert status or not done.err
        return done

    return run


@pytest.fixture
def filled(place: Place, told: Cli, tmp_path: Path) -> Place:
    """With 2,500 events in its log `a`."""
    source = tmp_path / "filled.jsonl"
    source.write_bytes(many(2_500))
    done = told("ingest", source, "--store", place.url("a", **IMPATIENT[place.kind]))
    assert done.summary == "2,500 read, 2,500 stored, 0 already there, 0 rejected"
    return place


IMPATIENT: dict[str, dict[str, object]] = {"postgresql": {}, "nats": {"lock_timeout": 2}}
"""Options with which the lock of a process that was killed is soon gone."""


def numbers_of(out: str) -> list[int]:
    return [json.loads(line)["seq"] for line in out.splitlines()]


# --- one log --------------------------------------------------------------------------------------


def test_ingest_again_stores_nothing_twice(told, filled, tmp_path):
    source = tmp_path / "more.jsonl"
    source.write_bytes(many(2_500, start=1_001))
    done = told("ingest", source, "--store", filled.url("a"))
    assert done.summary == "2,500 read, 1,000 stored, 1,500 already there, 0 rejected"
    assert sorted(int(event.id.removeprefix("event-")) for event in filled.stored("a")) == list(
        range(1, 3_501)
    )


def test_query(told, filled):
    assert numbers_of(told("query", "--store", filled.url("a")).out) == list(range(1, 2_501))
    options = ("--run-id", "run-3", "--event-type", "type-0", "--after-seq", 100, "--limit", 4)
    assert numbers_of(told("query", "--store", filled.url("a"), *options).out) == [123, 153, 183, 213]
    done = told("query", "--store", filled.url("other"), status=1)
    assert (done.out, done.err.count("\n")) == ("", 1)
    assert re.search(r"there is no log 'other' in .*; it has 'a'\n", done.err)


def test_stats(told, filled):
    told("ingest", "/dev/null", "--store", filled.url("b"))
    sheet = re.sub(" +", " ", told("stats", "--store", filled.url("a"), "--top", 1).out).replace(" \n", "\n")
    shown = filled.url("a").replace(f"tester:{ESCAPED_PASSWORD}", "***")
    for expected in (
        f"store {shown}\n",
        "\nlogs a\n b\n",
        "\nevents 2,500\n",
        "\nseq 1 to 2500\n",
        "\nmembers 358 agent-1\n",
    ):
        assert expected in sheet
    assert re.search(r"\nsize \d[\d.,]* [KM]iB \([\d,]+ bytes\)", sheet)
    as_json = json.loads(told("stats", "--store", filled.url("a"), "--json").out)
    assert (as_json["store"], as_json["logs"], as_json["events"]) == (shown, ["a", "b"], 2_500)
    assert as_json["size_bytes"] > 100_000
    done = told("stats", "--store", filled.url("c"), "--json", status=1)
    assert re.search(r"there is no log 'c' in .*; it has 'a', 'b'\n", done.err)


def test_verify_and_prune(told, filled):
    assert "problems     none" in told("verify", "--store", filled.url("a")).out
    prune = ("prune", "--store", filled.url("a"), "--keep", 500)
    assert told(*prune, "--dry-run").out == "2,000 events would be pruned\n"
    assert told(*prune).out == "2,000 events pruned\n"
    assert told(*prune).out == "0 events pruned\n"
    assert [event.seq for event in filled.stored("a")] == list(range(2_001, 2_501))
    found = json.loads(told("verify", "--store", filled.url("a"), "--json").out)
    assert (found["sound"], found["events"]) == (True, 500)
    assert ESCAPED_PASSWORD not in found["store"]


def test_export_and_back_in(told, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    told("export", "--store", filled.url("a"), "--output", out)
    assert told("ingest", out, "--store", filled.url("b")).status == 0
    assert_same_events(filled.stored("b"), filled.stored("a"))
    assert told("export", "--store", filled.url("b")).out.encode() == out.read_bytes()


def test_demo_says_how_to_look_further(told, place):
    done = told("demo", "--seconds", 0.3, "--store", place.url("demo"))
    assert "To look further (replace *** in the URL by its secrets):" in done.out
    commands = re.findall(r"^  .* (query|stats) (--store .*)$", done.out, re.MULTILINE)
    assert len(commands) == 3
    for command, options in commands:
        again = shlex.split(options.replace("***", f"tester:{ESCAPED_PASSWORD}"))
        assert again[1] == place.url("demo")
        told(command, *again)


def test_tail(told, filled, tmp_path):
    source = tmp_path / "more.jsonl"
    with start("tail", "--store", filled.url("a"), "--last", 3) as child:
        assert [line["seq"] for line in read_lines(child, 3)] == [2_498, 2_499, 2_500]
        source.write_bytes(many(100, start=3_001))
        told("ingest", source, "--store", filled.url("a"))
        assert [line["seq"] for line in read_lines(child, 100)] == list(range(2_501, 2_601))
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=SECONDS)
    assert (child.returncode, out, err) == (130, b"", b"")


# --- all logs -------------------------------------------------------------------------------------


@pytest.fixture
def workers(place: Place, told: Cli, tmp_path: Path) -> Place:
    """With two logs, whose events are of the same times."""
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(3))
    for log in ("a", "b"):
        told("ingest", source, "--store", place.url(log))
    return place


def places(printed: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(line["log"], line["seq"]) for line in printed]


def test_query_all_logs(told, workers):
    done = told("query", "--store", workers.url(), "--all-logs")
    everything = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert places([json.loads(line) for line in done.out.splitlines()]) == everything
    done = told("query", "--store", workers.url("a"), "--all-logs", status=2)
    assert re.fullmatch(
        r"trio-eventlog: --store with --all-logs: '.*//\*\*\*@.*' names one log; leave out log=\n", done.err
    )


def test_tail_all_logs(told, workers, tmp_path):
    source = tmp_path / "some.jsonl"
    with start("tail", "--store", workers.url(), "--all-logs", "--last", 2) as child:
        assert places(read_lines(child, 2)) == [("a", 3), ("b", 3)]
        source.write_bytes(many(2, start=4))
        told("ingest", source, "--store", workers.url("a"))
        assert places(read_lines(child, 2)) == [("a", 4), ("a", 5)]
        # One that was not there.
        told("ingest", source, "--store", workers.url("new"))
        assert places(read_lines(child, 2)) == [("new", 1), ("new", 2)]
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=SECONDS)
    assert (child.returncode, err) == (130, b"")


def test_readers_know_all_logs(workers):
    async def main() -> None:
        async with open_readers(workers.url(), logs=["a"]) as readers:
            (reader,) = readers.values()
            assert await reader.log_names() == ["a", "b"]
            async with open_store(workers.url("\u00e9%00")) as store:
                assert await store.log_names() == ["a", "b", "\u00e9\0"]
            assert await reader.log_names() == ["a", "b", "\u00e9\0"]

    trio.run(main)


# --- copy -----------------------------------------------------------------------------------------

_MOST = 50_000
"""Code points of a text: what is UTF-8 for them fits into one message."""


def peculiar() -> list[PersistedEvent]:
    """All that stores are known to change, in seqs with gaps."""
    payloads: list[object] = [
        None,
        {"nul": "a\0b", "\0": "", "": {"\0": [None]}},
        {"floats": [1e22, -0.0, 0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e16, 123456789012345680.0]},
        {"integers": [2**63, 2**64 - 1, -(2**63), 0, 1, 10**15], "booleans": [True, False], "same": [1, 1.0]},
        {"run_id": "r\0", "step_id": "", "identity": "x" * 3_000, "mob_id": "\U0010ffff"},
        "plain",
        [[[[]]], {}, ""],
        0.5,
    ]
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    payloads += ["".join(points[at : at + _MOST]) for at in range(0, len(points), _MOST)]
    seqs = [1, 2, 5, 1_000, *(2**40 + 3 * number for number in range(len(payloads) - 5)), 2**63 - 1]
    texts = ["", "\0", "e\u0301", "\u00e9", "A", "a", " ", "%_*.>", "\u4e16" * 170]
    events = []
    for number, (seq, payload) in enumerate(zip(seqs, payloads, strict=True)):
        text = texts[number % len(texts)]
        event = AgentEvent(text, text, payload) if number % 3 else ModuleEvent(text, text, payload)
        member = text if number % 3 else None
        time_ms = (0, 2**63 - 1, 1_700_000_000_000)[number % 3]
        events.append(PersistedEvent(f"{text}{number}", seq, time_ms, member, event))
    return events


def test_copy_makes_no_difference(told, postgres, nats, tmp_path):
    """From SQLite to PostgreSQL, to JetStream, and back."""
    events = peculiar()

    async def write() -> None:
        async with SqliteStore.open(tmp_path / "from.db") as store:
            await store.append_batch(events)

    trio.run(write)
    urls = [
        f"sqlite:{tmp_path}/from.db",
        postgres_place(postgres).url("copy"),
        nats_place(nats).url("copy"),
        f"sqlite:{tmp_path}/to.db?log=back",
    ]
    exports = []
    for number, (source, target) in enumerate(itertools.pairwise(urls)):
        done = told("copy", "--from", source, "--to", target)
        assert done.out == f"{len(events)} events copied; up to seq {2**63 - 1}\n"
        assert told("copy", "--from", source, "--to", target).out.startswith("0 events copied; ")
        told("verify", "--store", target)
        told("export", "--store", target, "--output", tmp_path / f"{number}.jsonl")
        exports.append((tmp_path / f"{number}.jsonl").read_bytes())

    async def read() -> list[PersistedEvent]:
        async with open_store(urls[-1], read_only=True) as store:
            return await store.query(EventQuery())

    assert_same_events(trio.run(read), events)
    assert exports == [exports[0]] * 3


def test_copy_is_interrupted_and_goes_on(cli, told, filled, tmp_path, monkeypatch, small_pages):
    arguments = ("copy", "--from", filled.url("a"), "--to", filled.url("copy"))
    interrupt_at(monkeypatch, _copy, "_append", 5)

    done = cli(*arguments)
    assert done.status == 130
    assert "repeat the command" in done.err
    assert 400 <= len(filled.stored("copy")) < 2_500
    told(*arguments)
    assert_same_events(filled.stored("copy"), filled.stored("a"))
    assert told(*arguments).out == "0 events copied; up to seq 2500\n"


WAIT_IN_THE_MIDDLE = """
    import sys
    import trio
    from trio_eventlog.cli import _copy

    append, calls = _copy._append, 0

    async def waiting(*arguments):
        global calls
        calls += 1
        if calls == 3:
            sys.stderr.write("in the middle\\n")
            sys.stderr.flush()
            await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        await append(*arguments)

    _copy._append, _copy._BATCH_SIZE = waiting, 100
"""


def test_two_copies_and_one_that_is_killed(cli, told, filled):
    """The second is told; and once the first is dead, it goes on."""
    target = filled.url("copy", **IMPATIENT[filled.kind])
    arguments = ("copy", "--from", filled.url("a"), "--to", target)
    with feeding(*arguments, prelude=WAIT_IN_THE_MIDDLE) as child:
        wait_for_line(child.stderr, "in the middle")
        done = told(*arguments, status=1)
        assert done.out == ""
        assert " is open for " in done.err
        assert done.err.count("\n") == 1
        child.kill()
        child.wait()
    assert len(filled.stored("copy")) == 200
    give_up_at = time.monotonic() + SECONDS
    while (done := cli(*arguments)).status:
        assert " is open for " in done.err
        assert time.monotonic() < give_up_at
    assert done.out == "2,300 events copied; up to seq 2500\n"
    assert_same_events(filled.stored("copy"), filled.stored("a"))


def test_copy_leaves_out_what_does_not_fit_into_a_message(told, nats, tmp_path):
    place = nats_place(nats)
    source = tmp_path / "some.jsonl"
    large = {number: envelope(number, text="x" * 1_100_000) for number in (3, 5)}
    source.write_bytes(lines(*(large.get(number) or envelope(number) for number in range(1, 8))))
    sqlite = f"sqlite:{tmp_path}/some.db"
    told("ingest", source, "--store", sqlite)

    done = told("copy", "--from", sqlite, "--to", place.url(), status=1)
    assert done.out == "5 events copied, 2 rejected; up to seq 7\n"
    assert [line.partition(": ")[2].partition("'")[0] for line in done.err.splitlines()] == [
        "seq 3: the store rejects event ",
        "seq 5: the store rejects event ",
    ]
    assert [event.seq for event in place.stored()] == [1, 2, 4, 6, 7]
    done = told("ingest", source, "--store", place.url("b"), status=1)
    assert done.summary == "7 read, 5 stored, 0 already there, 2 rejected"


# --- trouble --------------------------------------------------------------------------------------


def test_a_driver_that_is_not_installed():
    """NATS is spoken without one."""
    url = "postgresql://me:secret@127.0.0.1:1/app"
    with feeding("query", "--store", url, prelude="import sys; sys.modules['psycopg'] = None") as child:
        done = finish(child)
    assert (done.status, done.out) == (1, "")
    assert how_to_install("postgres") in done.err
    assert done.err.count("\n") == 1
    assert "secret" not in done.err


@pytest.mark.parametrize(
    "form", ["postgresql://me:secret@127.0.0.1:{}/app", "nats://me:secret@127.0.0.1:{}/S"]
)
def test_a_server_that_is_not_there(told, tmp_path, form):
    (tmp_path / "some.jsonl").write_bytes(many(1))
    told("ingest", tmp_path / "some.jsonl", "--store", f"sqlite:{tmp_path}/some.db")
    url = form.format(free_ports(1)[0])
    for arguments in (
        ("ingest", tmp_path / "some.jsonl", "--store", url),
        ("query", "--store", url),
        ("query", "--store", url, "--all-logs"),
        ("tail", "--store", url),
        ("stats", "--store", url),
        ("copy", "--from", f"sqlite:{tmp_path}/some.db", "--to", url),
        ("copy", "--from", url, "--to", f"sqlite:{tmp_path}/other.db"),
    ):
        done = told(*arguments, status=1)
        assert done.out == ""
        assert re.match(r"trio-eventlog: (PostgreSQL )?127\.0\.0\.1:", done.err)
        assert done.err.count("\n") == 1
        assert "secret" not in done.err


AGAIN = "failed; retrying: "


def test_a_server_goes_away_during_a_copy_and_comes_back(filled):
    arguments = ("copy", "--from", filled.url("a"), "--to", filled.url("copy"))
    with feeding(*arguments, prelude=WAIT_IN_THE_MIDDLE) as child:
        wait_for_line(child.stderr, "in the middle")
        filled.server.stop()
        child.stdin.write(b"\n")
        child.stdin.flush()
        wait_for_line(child.stderr, f"the --to store {AGAIN}")
        filled.server.start()
        done = finish(child)
    assert (done.status, done.out) == (0, "2,500 events copied; up to seq 2500\n")
    assert_same_events(filled.stored("copy"), filled.stored("a"))


def test_a_server_goes_away_during_an_ingest_and_comes_back(place):
    with feeding("ingest", "--store", place.url()) as child:
        child.stdin.write(many(3_000))
        child.stdin.flush()
        wait_for_first(place)
        place.server.stop()
        child.stdin.write(many(3_000, start=3_001))
        child.stdin.flush()
        wait_for_line(child.stderr, f"the store {AGAIN}")
        place.server.start()
        done = finish(child)
    assert done.status == 0
    assert done.summary == "6,000 read, 6,000 stored, 0 already there, 0 rejected"
    assert [event.id for event in place.stored()] == [f"event-{number}" for number in range(1, 6_001)]


def wait_for_first(place: Place) -> None:
    """Until something is stored."""
    give_up_at = time.monotonic() + SECONDS
    while not process("query", "--store", place.url(), "--limit", 1).out:
        assert time.monotonic() < give_up_at


@pytest.mark.parametrize("options", [(), ("--all-logs",)], ids=["one", "all-logs"])
def test_a_server_goes_away_while_somebody_follows_and_comes_back(told, filled, tmp_path, options):
    source = tmp_path / "more.jsonl"
    source.write_bytes(many(100, start=3_001))
    url = filled.url() if options else filled.url("a")
    with start("tail", "--store", url, "--last", 1, *options) as child:
        assert [line["seq"] for line in read_lines(child, 1)] == [2_500]
        filled.server.stop()
        wait_for_line(child.stderr, f"the store {AGAIN}")
        filled.server.start()
        told("ingest", source, "--store", filled.url("a"))
        assert [line["seq"] for line in read_lines(child, 100)] == list(range(2_501, 2_601))
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=SECONDS)
    assert (child.returncode, out, err) == (128 + signal.SIGTERM, b"", b"")
