"""Hostile bytes for everything that reads what others wrote: the codec, the spill file, the files of the CLI.

What may happen is an answer or an error of this library, in little time and memory, and nothing else.
`HYPOTHESIS_PROFILE=nightly` looks longer. What this has found stands below as examples.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests._helpers.fakes import numbered
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventQuery,
    LogBusy,
    ModuleEvent,
    PersistedEvent,
    SpillError,
    from_json,
    to_json,
)
from trio_eventlog._log._spill_file import SpillFile
from trio_eventlog.cli._envelopes import EnvelopeFile

TYPES = [AgentEvent, ModuleEvent, AgentEvent | ModuleEvent, EventEnvelope, PersistedEvent, EventQuery]

SEEDS = [
    to_json(AgentEvent("a", "t", {"run_id": "r", "x": [1, 2.5, None, True, "é\u2028", {}]})),
    to_json(ModuleEvent("m", "t")),
    to_json(EventEnvelope("e-1", "agent", 17, AgentEvent("a", "t"))),
    to_json(PersistedEvent("e-1", 3, 17, "a", AgentEvent("a", "t", [[]]))),
    to_json(EventQuery(since_ms=1, event_types=("t",), limit=3)),
]

TOKENS = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf"),
    *(b"\\ud800", b"\\u0000", b"1e999", b"-0", b"NaN", b"-Infinity", b"0" * 400, b"9" * 5000, b"1.0"),
    *(b"[" * 300, b"[" * 100_000, b'{"a":' * 5000, b"null", b"true", b'"kind":"agent",', b'"seq":1,'),
]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Something that was valid once."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 30)))
        kind = draw(st.sampled_from(["token", "bytes", "copy", "cut"]))
        if kind == "token":
            middle = draw(st.sampled_from(TOKENS))
        elif kind == "bytes":
            middle = draw(st.binary(max_size=8))
        elif kind == "copy":
            middle = data[start:end] * 2
        else:
            middle = b""
        data = data[:start] + middle + data[end:]
    return data


hostile_json = st.one_of(st.binary(max_size=200), mutated(SEEDS))


# --- the codec ------------------------------------------------------------------------------------


def read(data: bytes | str, wanted: Any) -> tuple[Any, str]:
    """A value, or what is wrong with the text."""
    try:
        return from_json(data, wanted), ""
    except CodecError as exc:
        return None, str(exc)


@given(data=hostile_json, wanted=st.sampled_from(TYPES))
@example(data=b"[" * 1_000_000, wanted=PersistedEvent)
@example(data=b'{"a":' * 1_000_000, wanted=EventEnvelope)
@example(data=b'{"seq":' + b"9" * 1_000_000 + b"}", wanted=PersistedEvent)
def test_the_codec_answers_or_says_codec_error(data: bytes, wanted: Any) -> None:
    """And what it has read it writes in a form that reads as the same."""
    value, complaint = read(data, wanted)
    if complaint:
        assert len(complaint) < 5000
        return
    again = to_json(value)
    assert from_json(again, wanted) == value
    assert to_json(from_json(again, wanted)) == again


@given(data=hostile_json)
def test_text_and_bytes_are_read_alike(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    assert read(data, PersistedEvent) == read(text, PersistedEvent)


# --- the spill file -------------------------------------------------------------------------------


def written(count: int) -> tuple[bytes, list[PersistedEvent]]:
    """A spill file, and what is in it."""
    events = [PersistedEvent(f"id-{seq}", seq, seq, "worker", numbered(seq)) for seq in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log.spill")
        file = SpillFile(path, None, 10**9)
        file.append(events)
        content = path.read_bytes()
        file.close((), is_exact=False)
    return content, events


CONTENT, EVENTS = written(8)
HEADER, _, BODY = CONTENT.partition(b"\n")


def read_all(file: SpillFile) -> list[PersistedEvent]:
    found: list[PersistedEvent] = []
    while (load := file.read(3, 10**9)).events or load.end < file.size_bytes:
        found += load.events
    return found


@given(
    content=st.one_of(
        mutated([BODY]).map(lambda body: HEADER + b"\n" + body),
        mutated([CONTENT]),
        st.binary(max_size=300).map(lambda body: HEADER + b"\n" + body),
        st.binary(max_size=100),
    )
)
def test_a_spill_file_gives_what_was_written_or_says_spill_error(content: bytes) -> None:
    """No event comes out that did not go in, they come in order, and the file takes new ones."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log.spill")
        path.write_bytes(content)
        try:
            file = SpillFile(path, None, 10**9)
        except SpillError:
            # It is somebody else's, and stays as it is.
            assert path.read_bytes() == content
            return
        file.number_from(1)
        found = read_all(file)
        known = {event.id: event for event in EVENTS}
        assert all(to_json(event.event) == to_json(known[event.id].event) for event in found)
        seqs = [event.seq for event in found]
        assert sorted(set(seqs)) == seqs
        assert len(found) <= file.recovered
        new = PersistedEvent("new", 1000, 0, None, ModuleEvent("m", "t"))
        file.append([new])
        assert [event.id for event in read_all(file)] == ["new"]
        file.close(None)


@given(data=st.data())
def test_lines_that_are_whole_are_never_lost(data: st.DataObject) -> None:
    """Whatever is put between them, as long as it ends like a line."""
    lines = BODY.splitlines(keepends=True)
    junk = st.binary(max_size=60).map(lambda text: text.replace(b"\n", b"") + b"\n")
    parts = [part for line in lines for part in (*data.draw(st.lists(junk, max_size=2)), line)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log.spill")
        path.write_bytes(HEADER + b"\n" + b"".join(parts))
        file = SpillFile(path, None, 10**9)
        file.number_from(1)
        assert [event.id for event in read_all(file)] == [event.id for event in EVENTS]
        file.close(None)
        with pytest.raises(LogBusy):
            first = SpillFile(path, None, 10**9)
            try:
                SpillFile(path, None, 10**9)
            finally:
                first.close(None)


# --- the files of the command line ----------------------------------------------------------------

LINES = b"".join(
    to_json(EventEnvelope(f"e-{number}", "agent", number, numbered(number))) + b"\n" for number in range(20)
)


@given(
    content=st.one_of(
        mutated([LINES]),
        mutated([gzip.compress(LINES, mtime=0)]),
        mutated([LINES]).map(lambda text: gzip.compress(text, mtime=0)),
        st.binary(max_size=300),
    ),
    name=st.sampled_from(["events.jsonl", "events.jsonl.gz"]),
)
def test_a_file_of_envelopes_is_read_to_its_end_or_to_a_problem(content: bytes, name: str) -> None:
    """Each line is an envelope or a reason, numbered as an editor would."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, name)
        path.write_bytes(content)
        numbers: list[int] = []
        with EnvelopeFile(str(path)) as file:
            while True:
                block = file.read_block()
                for line in block.lines:
                    numbers.append(line.number)
                    if isinstance(line.content, str):
                        assert line.content
                    else:
                        assert from_json(to_json(line.content), EventEnvelope) == line.content
                assert 0 <= block.position <= len(content)
                if block.is_last:
                    break
        assert sorted(set(numbers)) == numbers
        if block.problem is None and not content.startswith(b"\x1f\x8b"):
            assert block.position == len(content)
            assert len(numbers) <= content.count(b"\n") + 1


def test_the_tokens_are_hostile() -> None:
    """Those that matter most break what they are put into."""
    for token in (b"NaN", b"1e999", b"9" * 5000, b"[" * 100_000):
        with pytest.raises(CodecError):
            from_json(
                b'{"kind":"agent","agent_id":"a","event_type":"t","payload":' + token + b"}", AgentEvent
            )
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(SEEDS[0][:-1])
