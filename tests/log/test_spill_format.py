"""What is in a spill file, as bytes alone; and the positions of its queue, as numbers alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.spill import HEADER, event
from trio_eventlog._log import _spill_format
from trio_eventlog._log._spill_file import Marks, Positions
from trio_eventlog._log._spill_format import Contents, Read, contents_of, line_of, lines_in, mark_of
from trio_eventlog._model._errors import StoreUnusable

NAMED = HEADER.replace(b"null", b'"log"')


def reader(content: bytes) -> Read:
    return lambda most, position: content[position : position + most]


def found(content: bytes, log_id: str | None = None) -> Contents:
    return contents_of(reader(content), len(content), log_id)


def lines(*seqs: int) -> bytes:
    return b"".join(line_of(event(seq)) for seq in seqs)


def test_a_file_with_events_and_marks() -> None:
    """What comes after the last line break does not count."""
    content = NAMED + mark_of(6) + lines(7, 9) + mark_of(8) + lines(12)
    contents = found(content + b"1c29", "log")

    assert contents == Contents(
        header=NAMED,
        log_id="log",
        top=NAMED + mark_of(6),
        top_seq=6,
        start=len(NAMED + mark_of(6)),
        end=len(content),
        lines=3,
        known_seq=8,
        last_seq=12,
    )


@pytest.mark.parametrize("content", [b"", HEADER[:7], bytes(4096), HEADER[:7] + bytes(9), HEADER, NAMED])
def test_a_file_that_is_as_good_as_new(content: bytes) -> None:
    assert found(content, "other").is_empty


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"precious\n", "this is no spill file"),
        (HEADER.replace(b"1", b"[2]"), r"layout \[2\], this one knows 1"),
        (NAMED + lines(1), "events of another log .log, not other."),
    ],
)
def test_a_file_that_cannot_be_taken_up(content: bytes, message: str) -> None:
    with pytest.raises(StoreUnusable, match=message):
        found(content, "other")


def test_the_events_of_a_file_without_a_header() -> None:
    contents = found(b"spoilt\n" + lines(3, 4))
    assert (contents.header, contents.start, contents.lines, contents.last_seq) == (b"", 7, 2, 4)
    assert not contents.is_empty


def test_a_file_of_nothing_but_beginnings() -> None:
    """Each place where an event may begin is not searched to the end of the file."""
    content = b"spoilt\n" + b"0badcafe {" * 100_000
    read: list[int] = []

    def count(most: int, position: int) -> bytes:
        read.append(len(content[position : position + most]))
        return content[position : position + most]

    with pytest.raises(StoreUnusable, match="no spill file"):
        contents_of(count, len(content), None)
    assert sum(read) < 5 * len(content)
    assert found(content + b"\n" + lines(3)).last_seq == 3


@given(
    texts=st.lists(st.text("ab\0", max_size=6), max_size=8),
    rest=st.text("ab\0", max_size=6),
    block=st.integers(1, 9),
)
def test_lines_whatever_the_blocks(texts: list[str], rest: str, block: int) -> None:
    """Zeros are left out, and told; a last line may lack its break."""
    whole = [text.encode() for text in texts]
    content = b"".join(line + b"\n" for line in whole) + rest.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_spill_format, "BLOCK_SIZE", block)
        read = list(lines_in(reader(content), 0, len(content)))
    expected = [(line.replace(b"\0", b""), b"\0" not in line) for line in whole]
    if rest:
        expected.append((rest.replace("\0", "").encode(), False))
    assert [line[:2] for line in read] == expected
    assert [end for *_, end in read] == [
        *(index + 1 for index, byte in enumerate(content) if byte == ord("\n")),
        *([len(content)] if rest else []),
    ]


def test_a_file_that_is_shorter_than_it_was() -> None:
    with pytest.raises(OSError, match="it ends at byte 7, and should have 9"):
        list(lines_in(reader(b"1234567"), 0, 9))


@pytest.mark.parametrize(
    ("known", "last_line", "store_has", "after"),
    [
        (0, 8, 4, 5),  # the line that was last keeps its seq
        (0, 8, 5, 5),
        (0, 8, 9, 9),  # the store has them already
        (6, 8, 4, 6),
        (6, 8, 5, 5),  # what the store lost is in the file, and gets the seqs that it had
        (0, 2**63 - 1, 7, 7),
    ],
)
def test_how_numbering_goes_on(known: int, last_line: int, store_has: int, after: int) -> None:
    """After a file with three lines."""
    assert Contents(lines=3, known_seq=known, last_seq=last_line).number_after(store_has) == after


@given(
    lost=st.integers(0, 90),
    places=st.lists(st.integers(10, 100), min_size=3, max_size=3).map(sorted),
)
def test_no_position_is_used_twice(lost: int, places: list[int]) -> None:
    """When a file is cut off, what is left moves to where its end was; nothing comes before it."""
    positions = Positions(10, 100)
    positions.dead_to, positions.settled_to, positions.read_to = places
    positions.lose(lost)
    moved = [positions.dead_to, positions.settled_to, positions.read_to]
    assert positions.end == positions.old_end == 100
    assert moved == [min(place + lost, 100) for place in places]


def test_what_is_dropped_counts_as_settled_and_read() -> None:
    positions = Positions(10, 100)
    positions.settle(40)
    positions.drop(60)
    positions.settle(50)
    assert (positions.dead_to, positions.settled_to, positions.read_to) == (60, 60, 60)


def test_a_mark_is_due_once_more_is_known() -> None:
    marks = Marks(HEADER, HEADER, 0, 6, marked_seq=6)
    assert marks.news() == b""
    marks.note(5)
    assert (marks.stored_seq, marks.known_seq, marks.news()) == (5, 6, b"")
    marks.note(7)
    assert marks.news() == mark_of(7)
