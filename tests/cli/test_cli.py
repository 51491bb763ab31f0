"""The command line: in-process where that is quicker, real processes for pipes, signals and terminals."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import apsw
import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_eventlog.cli._app
from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventRejected,
    ModuleEvent,
    PersistedEvent,
    RevertReport,
    StoreError,
    StoreUnusable,
    from_json,
    to_json,
)
from trio_eventlog.cli import _envelopes, _ingest, _options, _query, _repeats, _terminal, main
from trio_eventlog.cli._envelopes import EnvelopeFile
from trio_eventlog.stores import MemoryStore, SqliteStore

PROGRAM = [sys.executable, "-m", "trio_eventlog"]

SECONDS = 60
"""So long does a test wait for something that takes a moment."""


# --- helpers --------------------------------------------------------------------------------------


def envelope(number: int, **payload: object) -> EventEnvelope:
    event = AgentEvent(
        f"agent-{number % 7}", f"type-{number % 3}", {"run_id": f"run-{number % 10}", **payload}
    )
    return EventEnvelope.of(event, event_id=f"event-{number}", timestamp_ms=1_700_000_000_000 + number)


def lines(*envelopes: EventEnvelope) -> bytes:
    return b"".join(to_json(envelope) + b"\n" for envelope in envelopes)


def many(count: int, start: int = 1) -> bytes:
    return lines(*map(envelope, range(start, start + count)))


def stored(path: Path, log: str = "default") -> list[PersistedEvent]:
    async def read() -> list[PersistedEvent]:
        async with SqliteStore.open(path, log=log, read_only=True) as store:
            return await store.query(_query.EventQuery())

    return trio.run(read)


def stored_numbers(path: Path) -> Counter[int]:
    return Counter(int(event.id.removeprefix("event-")) for event in stored(path))


@attrs.frozen
class Done:
    status: int | str | None
    out: str
    err: str

    @property
    def summary(self) -> str:
        return self.out.partition(" (")[0]


@pytest.fixture
def cli(capfd):
    """Runs the command line in this process."""

    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Done(caught.value.code, out, err)

    return run


@pytest.fixture
def db(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def url(db):
    return f"sqlite:{db}"


@pytest.fixture
def filled(db, url, tmp_path, cli):
    """A log with 2,500 events, its URL."""
    source = tmp_path / "filled.jsonl"
    source.write_bytes(many(2_500))
    assert cli("ingest", source, "--store", url).status == 0
    return url


def process(*arguments: object, data: bytes | None = None, **options: object) -> Done:
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        timeout=SECONDS,
        check=False,
        **options,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(*arguments: object, cwd: Path | None = None, columns: int = 120) -> Done:
    """Runs the command line as somebody at a terminal; everything it prints is in ``out``."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        cwd=cwd,
    ) as child:
        os.close(follower)
        told = b""
        # Linux reports the end of a terminal as an error.
        with contextlib.suppress(OSError):
            while part := os.read(leader, 65536):
                told += part
        os.close(leader)
        return Done(child.wait(SECONDS), told.decode().replace("\r\n", "\n"), "")


@contextlib.contextmanager
def feeding(*arguments: object, prelude: str = "pass"):
    """The command line as a process whose standard input is in our hands.

    Args:
      arguments: its arguments.
      prelude: Python code that it runs first.
    """
    code = f"{textwrap.dedent(prelude)}\nfrom trio_eventlog.cli import main\nmain()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_for_line(stream, expected: str) -> None:
    """Read lines until one holds ``expected``."""
    for line in stream:
        if expected in line.decode():
            return
    pytest.fail(f"{expected!r} never came")


def wait_for_events(path: Path, count: int) -> None:
    """Wait until a log that a process is writing holds at least ``count`` events."""

    async def wait() -> None:
        with trio.fail_after(SECONDS):
            while True:
                # The process may not have made the file yet, or be making it.
                with contextlib.suppress(StoreError):
                    async with SqliteStore.open(path, read_only=True) as store:
                        while await store.last_seq() < count:  # noqa: ASYNC110 - another process
                            await trio.sleep(0.01)
                        return
                await trio.sleep(0.01)

    trio.run(wait)


def finish(child: subprocess.Popen[bytes]) -> Done:
    out, err = child.communicate(timeout=SECONDS)
    return Done(child.returncode, out.decode(), err.decode())


# --- the program itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["trio_eventlog", "trio_eventlog.cli"])
def test_runs_as_a_module(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("trio-eventlog ")


def test_version_when_it_is_not_installed(cli, monkeypatch):
    def not_installed(name):
        raise trio_eventlog.cli._app.PackageNotFoundError(name)

    monkeypatch.setattr(trio_eventlog.cli._app, "version", not_installed)
    assert cli("--version").out == "trio-eventlog (not installed, run from its source)\n"


def test_arguments_come_from_the_command_line(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["trio-eventlog", "--version"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert capfd.readouterr().out.startswith("trio-eventlog ")


def test_help(cli):
    done = cli("--help")
    assert done.status == 0
    for expected in ("demo", "ingest", "query", "stats", "Exit status"):
        assert expected in done.out
    assert cli().out == done.out


@pytest.mark.parametrize("command", ["demo", "ingest", "query", "stats"])
def test_help_of_a_command_has_examples(cli, command):
    done = cli(command, "--help")
    assert done.status == 0
    assert "Examples:" in done.out
    assert f"trio-eventlog {command}" in done.out.partition("Examples:")[2]


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_says_which_extra_is_missing(monkeypatch, cli, missing):
    for name in list(sys.modules):
        if name.startswith(("trio_eventlog.cli.", f"{missing}.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    done = cli("--version")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"trio-eventlog: the command line needs {missing}; install it with: ")
    assert done.err.endswith(" pip install 'cyclopts>=5' 'rich>=13.6'\n")


def test_another_missing_module_is_a_bug(monkeypatch):
    monkeypatch.delitem(sys.modules, "trio_eventlog.cli._app")
    monkeypatch.setitem(sys.modules, "trio_eventlog.cli._options", None)
    with pytest.raises(ModuleNotFoundError):
        main(["--version"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ingets"], 'Unknown command "ingets". Did you mean "ingest"'),
        (["query"], "--store requires an argument"),
        (["ingest", "a.jsonl", "--stroe", "null:"], "unknown option --stroe"),
        (["ingest", "--store", "null:", "--", "-a.jsonl"], "for a file of this name write ./-a.jsonl"),
        (["query", "--store", "events.db"], "--store: 'events.db' is no store URL"),
        (["query", "--store", "memory:"], "--store: memory: starts empty"),
        (["ingest", "--store", "sqlite:x?log"], "--store: option 'log'"),
        (["query", "--store", "sqlite:x", "--since", "yesterday"], "--since: 'yesterday' is no time"),
        (["query", "--store", "sqlite:x", "--until", "1969-12-31"], "--until: 1969-12-31 is before 1970"),
        (["query", "--store", "sqlite:x", "--limit", "1.5"], "--limit: '1.5' is no number"),
        (["query", "--store", "sqlite:x", "--limit=-1"], "--limit: '-1' is no number"),
        (["query", "--store", "sqlite:x", f"--after-seq={2**64}"], "after_seq: expected 0 to 2**64 - 1"),
        (["stats", "--store", "sqlite:x", "--top=-1"], "--top"),
        (["demo", "--seconds", "0"], "--seconds"),
        (["query", "--stroe", "nats://me:secret@n1/S"], "--stroe"),
        (["query", "nats://me:secret@n1/S", "--store", "sqlite:x"], "nats://***@n1/S"),
        (["query", "--store", "nats://me:secret@n1"], "--store: 'nats://***@n1' names no stream"),
        (
            ["copy", "--from", "nats://me:secret@n1", "--to", "null:"],
            "--from: 'nats://***@n1' names no stream",
        ),
    ],
)
def test_a_wrong_command_line(cli, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert "secret" not in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_bug_is_not_hidden(monkeypatch):
    def buggy(_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(trio_eventlog.cli._app, "app", buggy)
    with pytest.raises(ZeroDivisionError):
        main(["stats"])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130),
        (ExceptionGroup("", [ExceptionGroup("", [StoreError("disk full")])]), 1),
    ],
)
def test_status_of_an_error(monkeypatch, cli, error, status):
    def failing(_arguments, **_options):
        raise error

    monkeypatch.setattr(trio_eventlog.cli._app, "app", failing)
    assert cli("stats").status == status


# --- ingest: what is stored -----------------------------------------------------------------------


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
def test_ingest_reads_standard_input(db, url, names, pack):
    done = process("ingest", *names, "--store", url, data=pack(many(1_000)))
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
    monkeypatch.setattr(_ingest, "_BYTES_PENDING", 10_000)
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(2_000))
    assert cli("ingest", source, "--store", url).status == 0
    assert stored_numbers(db) == Counter(range(1, 2_001))


# --- ingest: what cannot be read ------------------------------------------------------------------


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
        "trio-eventlog: further such lines are only counted",
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
        f"trio-eventlog: {empty}:1: the gzip data ends in the middle: the file is truncated",
    ]
    assert len(stored(db)) == 3


def test_ingest_skips_a_line_that_is_too_long(cli, db, url, tmp_path, monkeypatch):
    monkeypatch.setattr(_envelopes, "_BLOCK", 1_000)
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


# --- ingest: what the store refuses ---------------------------------------------------------------


class Store(MemoryStore):
    """Raises ``errors`` first, one an append; and refuses events whose id is in ``never``."""

    def __init__(self, *errors: Exception, never: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.errors = list(errors)
        self.never = never

    async def append_batch(self, events):
        if self.errors:
            await trio.lowlevel.checkpoint()
            raise self.errors.pop(0)
        if rejected := [event for event in events if event.id in self.never]:
            await trio.lowlevel.checkpoint()
            raise EventRejected(rejected, "no")
        return await super().append_batch(events)


@pytest.fixture
def use_store(monkeypatch):
    def use(store: MemoryStore) -> MemoryStore:
        @contextlib.asynccontextmanager
        async def open_it(_url, *, read_only=False):
            yield store

        monkeypatch.setattr(_options, "open_store", open_it)
        return store

    return use


def test_ingest_names_events_that_the_store_rejects(cli, tmp_path, use_store):
    store = use_store(Store(never=frozenset({"event-5", "event-6000", "event-12000"})))
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
    use_store(Store(never=frozenset(f"event-{number}" for number in range(1, 6_001))))
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(6_001))
    done = cli("ingest", source, "--store", "memory:", "--show-rejected", "0")
    assert done.summary == "6,001 read, 1 stored, 0 already there, 6,000 rejected"


def test_ingest_waits_for_a_store_that_fails(cli, tmp_path, use_store):
    use_store(Store(StoreError("disk full"), StoreError("disk full"), ValueError("a bug of the store")))
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(3_000))
    done = cli("ingest", source, "--store", "memory:")
    assert done.status == 0
    assert done.summary == "3,000 read, 3,000 stored, 0 already there, 0 rejected"
    assert done.err.count("trio-eventlog: the store failed, and is tried again: disk full\n") == 1


def test_ingest_says_again_that_a_store_fails(tmp_path, capfd):
    """At once, and then every so often: a disk may be full for long."""
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(10))
    store = Store(*(StoreError("disk full") for _ in range(40)))
    status = trio.run(
        lambda: _ingest.ingest_files(store, [str(source)], most_shown=1),
        clock=MockClock(autojump_threshold=0.05),
    )
    told = capfd.readouterr().err.splitlines()
    assert status == 0
    assert told[0] == "trio-eventlog: the store failed, and is tried again: disk full"
    assert 5 < len(told) < 25
    assert re.search(r"the store failed \([\d,]+ times in a row\), and is tried again: disk full", told[-1])


async def test_ingest_says_that_the_store_went_back(capfd):
    tally = _ingest._Tally(1, _terminal.error_console())
    tally.on_failure(RevertReport(last_seq=5, expected_seq=20, again=12, lost=3, earlier=None))
    assert tally.lost == 3
    assert capfd.readouterr().err == (
        "trio-eventlog: the store went back: it had acknowledged up to seq 20, and now ends at 5;"
        " 12 events stored again, 3 lost\n"
    )


def test_ingest_ends_when_the_store_becomes_unusable(cli, tmp_path, use_store):
    use_store(Store(StoreUnusable("the file is damaged")))
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
        "trio-eventlog: further such lines are only counted",
        "trio-eventlog: the file is damaged",
        "trio-eventlog: what is lost was not stored: run the same command once more",
    ]


def test_ingest_says_why_the_log_does_not_open(cli, tmp_path, use_store):
    class Unreadable(MemoryStore):
        async def last_seq(self):
            await trio.lowlevel.checkpoint()
            raise StoreError("busy")

    use_store(Unreadable())
    done = cli("ingest", tmp_path, "--store", "memory:")
    assert done == Done(1, "", "trio-eventlog: busy\n")


async def test_ingest_into_a_busy_log(db, url):
    async with SqliteStore.open(db):
        done = await trio.to_thread.run_sync(lambda: process("ingest", "--store", url, data=many(1)))
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


# --- ingest: interruptions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_ingest_stores_what_was_read_when_told_to_stop(db, url, number, status):
    with feeding("ingest", "--store", url) as child:
        child.stdin.write(many(10_000))
        child.stdin.flush()
        # In the middle of it: some is stored, some waits, some is not read.
        wait_for_events(db, 1)
        child.send_signal(number)
        wait_for_line(child.stderr, "stopping once what was read is stored")
        # Standard input is still open: it is not its end that ends the process.
        assert child.wait(SECONDS) == status
        done = finish(child)
    found = stored_numbers(db)
    assert found == Counter(range(1, len(found) + 1))
    assert done.summary == f"{len(found):,} read, {len(found):,} stored, 0 already there, 0 rejected"

    again = process("ingest", "--store", url, data=many(12_000))
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


def test_ingest_after_a_kill_stores_each_event_once(db, url, tmp_path):
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
    done = process("ingest", source, "--store", url)
    assert done.status == 0
    assert done.summary == (
        f"12,000 read, {12_000 - len(before):,} stored, {len(before):,} already there, 0 rejected"
    )
    assert stored_numbers(db) == Counter(range(1, 12_001))
    assert process("verify", "--no-gaps", "--store", url).status == 0


@pytest.mark.parametrize("looks", [0, 4])
def test_ingest_of_what_is_there_in_part(cli, db, url, tmp_path, monkeypatch, looks):
    """In the middle of a log, in another file, behind lines that are rejected, in many small blocks."""
    monkeypatch.setattr(_repeats, "_LOOKS", looks)
    monkeypatch.setattr(_envelopes, "_BLOCK", 10_000)
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
    assert store.questions == _repeats._LOOKS
    store.questions = 0
    repeats.begin_file()
    for start in range(101, 501, 10):
        assert len(await repeats.find([envelope(n) for n in range(start, start + 10)])) == 10
    assert store.questions == 40


FAILING_STORE = """
    import contextlib
    from trio_eventlog import StoreError
    from trio_eventlog.cli import _options
    from trio_eventlog.stores import MemoryStore

    class Failing(MemoryStore):
        async def append_batch(self, events):
            raise StoreError("down")

    @contextlib.asynccontextmanager
    async def open_it(url, *, read_only=False):
        yield Failing()

    _options.open_store = open_it
"""


def test_ingest_ends_at_once_at_the_second_ctrl_c():
    with feeding("ingest", "--store", "memory:", "--show-rejected=1", prelude=FAILING_STORE) as child:
        child.stdin.write(many(100))
        child.stdin.flush()
        wait_for_line(child.stderr, "the store failed, and is tried again: down")
        child.send_signal(signal.SIGINT)
        wait_for_line(child.stderr, "once more to end at once")
        before = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 130
        # Well before the end of the time that it may take to store what was read.
        assert time.monotonic() - before < _ingest._GRACE / 2
        done = finish(child)
    assert done.summary == "100 read, 0 stored, 0 already there, 0 rejected, 100 lost"
    assert done.err.splitlines()[-4:-1] == [
        "trio-eventlog: standard input:1: event 'event-1' may not be stored (shutdown)",
        "trio-eventlog: further such lines are only counted",
        "trio-eventlog: ended at once",
    ]


def test_ingest_loses_what_the_store_does_not_take_in_time(cli, tmp_path, use_store, monkeypatch):
    # The only way to get there is a signal, whose grace is over.
    monkeypatch.setattr(_ingest, "_GRACE", 0.0)

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
            assert [line.number for line in file.read_block().lines] == [2]

    os.write(writer, b"\n")
    trio.run(read_and_give_up)
    os.close(writer)


# --- query ----------------------------------------------------------------------------------------


def test_query_prints_json_lines(cli, filled, db, monkeypatch):
    # What goes into a pipe is for programs, whatever colours somebody likes.
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = cli("query", "--store", filled)
    assert (done.status, done.err) == (0, "")
    # More than two pages.
    assert [from_json(line, PersistedEvent) for line in done.out.splitlines()] == stored(db)
    assert cli("query", "--store", filled, "--json") == done


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--limit", "1500"], lambda n: n <= 1_500),
        (["--limit", "1000"], lambda n: n <= 1_000),
        (["--limit", "0"], lambda n: False),
        (["--after-seq", "2400"], lambda n: n > 2_400),
        (["--after-seq", str(2**64 - 1)], lambda n: False),
        (["--after-seq", "100", "--limit", "1001"], lambda n: 100 < n <= 1_101),
        (["--member-id", "agent-3"], lambda n: n % 7 == 3),
        (["--member-id="], lambda n: False),
        (["--run-id", "run-3", "--limit", "7"], lambda n: n % 10 == 3 and n <= 63),
        (["--event-type", "type-1"], lambda n: n % 3 == 1),
        (["--event-type", "type-1", "--event-type", "type-2"], lambda n: n % 3),
        (["--event-type=type-1", "--run-id=run-3", "--member-id=agent-3"], lambda n: n % 210 == 73),
        (["--identity", "x"], lambda n: False),
        (["--mob-id", "x"], lambda n: False),
        (["--step-id", "x"], lambda n: False),
        (["--since", "1700000002400"], lambda n: n >= 2_400),
        (["--since-ms", "1700000002400"], lambda n: n >= 2_400),
        (["--until", "1700000000100"], lambda n: n < 100),
        (["--until-ms", "1700000000100"], lambda n: n < 100),
        (["--since", "2023-11-14T22:13:22.400Z"], lambda n: n >= 2_400),
        (["--since", "2023-11-14T22:13:22.399001"], lambda n: n >= 2_400),
        (["--since", "2023-11-15T00:13:22.400+02:00"], lambda n: n >= 2_400),
        (["--until", "2023-11-14 22:13:20.1"], lambda n: n < 100),
        (["--since", "2023-11-14", "--until", "2023-11-15"], lambda n: True),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_query_has_every_filter(cli, filled, options, wanted):
    done = cli("query", "--store", filled, *options)
    assert (done.status, done.err) == (0, "")
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [
        number for number in range(1, 2_501) if wanted(number)
    ]


def test_query_scopes(cli, db, url, tmp_path):
    source = tmp_path / "some.jsonl"
    source.write_bytes(
        lines(
            envelope(1, identity="-x", mob_id="m", step_id="s"),
            envelope(2, identity="[bold]", mob_id="m", step_id=1),
        )
    )
    cli("ingest", source, "--store", url)
    for options, expected in (
        (["--identity=-x"], [1]),
        (["--identity", "[bold]"], [2]),
        (["--mob-id", "m"], [1, 2]),
        (["--step-id", "s"], [1]),
        (["--step-id", "1"], []),
    ):
        done = cli("query", "--store", url, *options)
        assert [json.loads(line)["seq"] for line in done.out.splitlines()] == expected


def test_query_reads_in_pages(cli, filled, monkeypatch):
    limits = []
    plain = SqliteStore.query_page

    async def watched(self, query, *, max_bytes):
        limits.append(query.limit)
        return await plain(self, query, max_bytes=max_bytes)

    monkeypatch.setattr(SqliteStore, "query_page", watched)
    cli("query", "--store", filled, "--limit", "2100")
    assert limits == [1_000, 1_000, 100]


@pytest.mark.parametrize("options", [["--all-logs"], []])
def test_query_holds_few_large_events(cli, db, url, monkeypatch, options):
    """Whether of one log or of all."""
    held = []
    plain = _query.Printer.print

    async def watched(self, page):
        held.append(len(page))
        await plain(self, page)

    async def fill():
        async with SqliteStore.open(db) as store:
            for seq in range(1, 13):
                inner = AgentEvent("a", "t", {"text": "x" * 2**20})
                await store.append_batch([PersistedEvent(f"e{seq}", seq, seq, "a", inner)])

    trio.run(fill)
    monkeypatch.setattr(_query.Printer, "print", watched)
    done = cli("query", "--store", url, *options)

    assert len(done.out.splitlines()) == sum(held) == 12
    assert max(held) == 4


def test_query_does_not_create_what_is_missing(cli, tmp_path):
    for command in ("query", "stats"):
        done = cli(command, "--store", f"sqlite:{tmp_path}/missing.db")
        assert done == Done(1, "", f"trio-eventlog: {tmp_path}/missing.db: no such file or directory\n")
    assert not list(tmp_path.iterdir())


def test_query_ends_quietly_with_its_reader(filled):
    with subprocess.Popen(
        [*PROGRAM, "query", "--store", filled], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert json.loads(child.stdout.readline())["seq"] == 1
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(SECONDS) == 0


@pytest.mark.parametrize("arguments", [["--help"], ["query", "--help"]])
def test_help_ends_quietly_without_a_reader(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, *arguments], stdout=writing, stderr=subprocess.PIPE, timeout=SECONDS, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize(
    "command", ["query --store", "stats --store", "verify --store", "--help", "--version"]
)
def test_commands_say_that_they_cannot_write(filled, command, is_buffered):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*PROGRAM, *command.split(), *([filled] if "--store" in command else [])],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": "" if is_buffered else "1"},
        )
    assert done.returncode == 1
    assert done.stderr == b"trio-eventlog: cannot write to standard output: No space left on device\n"


def test_query_ends_with_ctrl_c_when_nobody_reads(filled):
    with subprocess.Popen(
        [*PROGRAM, "query", "--store", filled], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        # It has begun, and then fills the pipe and waits.
        select.select([child.stdout], [], [], SECONDS)
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 130
        assert child.stderr.read() == b""


# --- terminals ------------------------------------------------------------------------------------


ATTACK = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202eevil\x7f\n\t[bold red]not bold[/] \\ end"


@pytest.fixture
def hostile(url, tmp_path, cli):
    """A log whose events attack the terminal."""
    source = tmp_path / "hostile.jsonl"
    source.write_bytes(
        lines(
            EventEnvelope.of(AgentEvent(ATTACK, ATTACK, {ATTACK: ATTACK, "text": "世界"}), timestamp_ms=0),
            EventEnvelope.of(ModuleEvent(ATTACK, "[link]x", None), timestamp_ms=2**63 - 1),
        )
    )
    assert cli("ingest", source, "--store", url).status == 0
    return url


STYLE = re.compile("\x1b\\[[0-9;]*m")


def test_query_prints_a_table_on_a_terminal(filled):
    done = on_terminal("query", "--store", filled, "--limit", "1001")
    assert done.status == 0
    header, *rows, count = STYLE.sub("", done.out).splitlines()
    assert header.split() == ["seq", "time", "(UTC)", "member", "type", "payload"]
    assert rows[2].strip().split(maxsplit=4) == [
        "3", "2023-11-14T22:13:20.003Z", "agent-3", "type-0", '{"run_id": "run-3"}'
    ]  # fmt: skip
    assert count == "1,001 events"
    # Pages line up, and a line is an event.
    assert len(rows) == 1_001
    assert len({row.index("Z  agent-") for row in rows}) == 1


def test_a_table_shows_what_would_attack_the_terminal(hostile):
    done = on_terminal("query", "--store", hostile, columns=2_000)
    assert done.status == 0
    told = STYLE.sub("", done.out)
    assert all(line.isprintable() for line in told.splitlines())
    _header, agent, module, _count = told.splitlines()
    assert r"\x1b]0;pwned\x07\x1b[2J\x9b31m\u202eevil\x7f\n\t[bold red]not bold[/] \ end" in agent
    assert r'"\u001b]0;pwned\u0007' in agent
    assert "世界" in agent
    assert "(\\x1b]0;pwned" in module
    assert "[link]x" in module
    assert "1970-01-01T00:00:00.000Z" in agent
    assert f"{2**63 - 1} ms" in module


def test_json_on_a_terminal_is_the_same_json_without_attacks(hostile, db):
    done = on_terminal("query", "--store", hostile, "--json")
    assert done.status == 0
    assert all(line.isprintable() for line in done.out.split("\n"))
    assert [from_json(line, PersistedEvent) for line in done.out.splitlines()] == stored(db)


def test_stats_on_a_terminal(hostile):
    for options in ([], ["--json"]):
        done = on_terminal("stats", "--store", hostile, *options)
        assert done.status == 0
        assert all(line.isprintable() for line in STYLE.sub("", done.out).split("\n"))


def test_ingest_shows_its_progress_on_a_terminal(url, tmp_path):
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(5_000) + b"nonsense\n")
    done = on_terminal("ingest", source, "--store", url)
    assert done.status == 1
    assert "100%" in done.out
    assert "5,001 done, 0 waiting" in done.out
    assert f"trio-eventlog: {source}:5001: not JSON" in done.out
    assert "5,001 read, 5,000 stored, 0 already there, 1 rejected" in done.out


def test_ingest_from_a_terminal_says_how_to_end(url):
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "ingest", "--store", url],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        wait_for_line(child.stderr, "reading from the terminal; end with Ctrl-D")
        os.write(leader, many(1) + b"\x04")
        assert child.wait(SECONDS) == 0
        assert b"1 read, 1 stored" in child.stdout.read()
    os.close(leader)
    os.close(follower)


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_317_422_324_546, "2011-09-30T22:38:44.546Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "253402300800000 ms"),
        (2**64 - 1, f"{2**64 - 1} ms"),
    ],
)
def test_time_text(timestamp_ms, text):
    assert _terminal.time_text(timestamp_ms) == text


# --- stats ----------------------------------------------------------------------------------------


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


def test_stats_of_a_log_that_is_written(cli, with_gaps):
    """They say how large the write-ahead log is."""
    db = apsw.Connection(with_gaps.removeprefix("sqlite:"))
    db.execute("UPDATE logs SET last_seq = last_seq + 1")
    done = cli("stats", "--store", with_gaps)
    db.close()
    assert done.status == 0
    assert "of it write-ahead log" in " ".join(done.out.split())


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
    assert done == Done(1, "", "trio-eventlog: memory:: a store of this kind cannot describe itself\n")


SECRET_URL = "postgresql://me:secret@db/app?log=a"  # noqa: S105 - opens nothing


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["stats"], "store             postgresql://***@db/app?log=a"),
        (["stats", "--json"], '{"store": "postgresql://***@db/app?log=a"'),
        (["verify"], "trio-eventlog: postgresql://***@db/app?log=a: a store of this kind cannot be verified"),
        (["prune", "--keep", 1], "postgresql://***@db/app?log=a: a store of this kind cannot be pruned"),
        (["demo", "--seconds", 0.2], "they log to postgresql://***@db/app?log=a, which fails for a while"),
    ],
)
def test_secrets_are_not_shown(cli, use_store, arguments, shown):
    use_store(MemoryStore())
    done = cli(*arguments, "--store", SECRET_URL)
    assert shown in done.out + done.err
    assert "secret@" not in done.out + done.err


def test_demo_says_what_its_commands_lack(cli, use_store):
    use_store(MemoryStore())
    done = cli("demo", "--seconds", 0.2, "--store", SECRET_URL)
    assert "\nLook further with, what is secret in the URL in place of ***:\n" in done.out
    assert done.out.count("--store 'postgresql://***@db/app?log=a'") == 3


def test_urls_name_files(cli, tmp_path):
    database = tmp_path / "a b%?.db"
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(1))
    for url in (f"sqlite:{tmp_path}/a%20b%25%3F.db", f"SQLITE://{tmp_path}/a%20b%25%3F.db"):
        assert cli("ingest", source, "--store", url).status == 0
        assert re.search(r"events +1 *\n", cli("stats", "--store", url).out)
    assert database.exists()


# --- demo -----------------------------------------------------------------------------------------


def test_demo_stores_everything_and_says_how_to_look_further(tmp_path):
    done = process("demo", "--seconds", "1", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "sqlite:trio-eventlog-demo.db" in done.out.splitlines()[0]
    events = stored(tmp_path / "trio-eventlog-demo.db")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert re.search(
        rf"^{len(events):,} ingested, {len(events):,} stored, 0 waiting, \d+ appends? failed",
        done.out,
        re.MULTILINE,
    )
    assert "store is down: " in done.out
    types = {event.event.event_type for event in events}
    assert {"opened", "spawned", "run_started", "run_completed", "retired", "closed"} <= types

    # As whoever has no trio-eventlog on the path of the shell can call it.
    shown = r"^  (?:\S+ -m trio_eventlog|\S*trio-eventlog) (.*)$"
    commands = re.findall(shown, done.out, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        looked = process(*shlex.split(command), cwd=tmp_path)
        assert (looked.status, looked.err) == (0, "")
        assert looked.out or "run_failed" in command


def test_demo_makes_a_new_file_each_time(tmp_path):
    (tmp_path / "trio-eventlog-demo.db").touch()
    done = on_terminal("demo", "--seconds", "0.5", cwd=tmp_path)
    assert done.status == 0
    assert "trio-eventlog-demo-2.db" in done.out
    assert "the store is down" in done.out
    assert "the store works" in done.out
    assert stored(tmp_path / "trio-eventlog-demo-2.db")


def test_demo_goes_on_in_a_log(cli, filled, db):
    done = cli("demo", "--seconds", "0.3", "--store", filled)
    assert done.status == 0
    assert shlex.quote(filled) in done.out
    assert len(stored(db)) > 2_500


def test_demo_in_memory(cli):
    done = cli("demo", "--seconds", "0.2", "--store", "memory:")
    assert done.status == 0
    assert "keeps nothing" in done.out


def test_demo_tells_what_it_could_not_store(cli, use_store):
    use_store(Store(StoreUnusable("the file is damaged")))
    done = cli("demo", "--seconds", "0.2", "--store", "memory:")
    assert done.status == 1
    assert "lost" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("on_path", "called_as", "program"),
    [
        ("/usr/bin/trio-eventlog", "/usr/bin/trio-eventlog", "trio-eventlog"),
        (None, ".venv/bin/trio-eventlog", ".venv/bin/trio-eventlog"),
        (None, "/x/trio_eventlog/__main__.py", f"{shlex.quote(sys.executable)} -m trio_eventlog"),
    ],
)
def test_demo_shows_commands_that_this_shell_finds(monkeypatch, on_path, called_as, program):
    from trio_eventlog.cli import _demo

    monkeypatch.setattr(_demo.shutil, "which", lambda _: on_path)
    monkeypatch.setattr(sys, "argv", [called_as])

    assert _demo._program() == program


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_eight_digits_that_may_be_a_date_are_refused(cli, filled, option):
    done = cli("query", "--store", filled, option, "20260714")
    assert done.status == 2
    assert "write 2026-07-14 or 020260714" in done.err


@pytest.mark.parametrize("option", ["--since", "--until"])
@pytest.mark.parametrize(
    ("number", "unit", "milliseconds"),
    [
        ("1784019600", "seconds", "1784019600000"),
        ("500000000", "seconds", "500000000000"),
        ("1784019600123456", "microseconds", "1784019600123"),
        ("1784019600123456789", "nanoseconds", "1784019600123"),
    ],
)
def test_times_in_other_units_are_refused(cli, filled, option, number, unit, milliseconds):
    done = cli("query", "--store", filled, option, number)
    assert done.status == 2
    assert f"{number} may be {unit}" in done.err
    assert f"write {milliseconds}, or 0{number}" in done.err
    # Said twice, it is taken.
    assert cli("query", "--store", filled, option, f"0{number}").status == 0
    assert cli("query", "--store", filled, f"{option}-ms", number).status == 0


@pytest.mark.parametrize("number", ["0", "1", "1700000000001", str(2**63 - 1), str(2**64 - 1)])
def test_times_that_are_plausible_or_bounds_are_taken(cli, filled, number):
    assert cli("query", "--store", filled, "--since", number).status == 0


def test_prune_refuses_seconds(cli, filled, db):
    assert cli("prune", "--store", filled, "--before", "1784019600").status == 2
    assert len(stored(db)) == 2_500
