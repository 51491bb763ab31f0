"""Server-Sent Events, written and read."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_eventlog.mobkit import SseError, SseMessage, SseParser, sse_comment, sse_message

ONE_LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=20)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def parts_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def read(data: bytes, cuts: list[int] = []) -> list[SseMessage]:  # noqa: B006 - not changed
    parser = SseParser()
    return [message for part in parts_of(data, cuts) for message in parser.feed(part)]


@given(TEXT, ONE_LINE, ONE_LINE, st.lists(st.integers(0, 1000), max_size=8))
def test_what_is_written_is_read_however_it_is_cut(data, event, event_id, cuts):
    # A receiver cannot tell which end of a line it was.
    expected = data.replace("\r\n", "\n").replace("\r", "\n")
    # A blank after the colon belongs to the form.
    text = sse_message(data.encode(), event=event, event_id=event_id)
    assert read(text, cuts) == [SseMessage(event or "message", expected, event_id)]


@given(
    st.binary(max_size=200).map(lambda data: data.replace(b"\xff", b":")),
    st.lists(st.integers(0, 300), max_size=9),
)
@example(b"data: a\r\ndata: b\r\n\r\n", [8])
@example(b"data: a\r\n\r\ndata: b\r\r\n", [8])
@example(b"\xef\xbb\xbfdata:x\n\n", [1, 2])
@example(b"id\ndata\n\n", [])
def test_how_a_stream_is_cut_makes_no_difference(data, cuts):
    def outcome(cut_at):
        try:
            return read(data, cut_at)
        except SseError:
            return "error"

    assert outcome(cuts) == outcome([]) == outcome(list(range(len(data))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The examples of the HTML standard.
        ("data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
        (
            ": test\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
            [("message", "first", "1"), ("message", "second", ""), ("message", " third", "")],
        ),
        ("data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
        ("data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
        # And what is easily forgotten.
        ("event: a\n\ndata: b\n\n", [("message", "b", "")]),
        ("id: 5\n\ndata: x\n\n", [("message", "x", "5")]),
        ("id: 5\nid: a\0b\ndata: x\n\n", [("message", "x", "5")]),
        ("nonsense: 1\ndata: x\n\n", [("message", "x", "")]),
        ("data: unfinished\n", []),
    ],
)
def test_the_standard(text, expected):
    for line_end in ("\n", "\r\n", "\r"):
        found = read(text.replace("\n", line_end).encode())
        assert [(m.event, m.data, m.last_event_id) for m in found] == expected


def test_an_id_between_messages_counts_and_so_does_the_wait():
    parser = SseParser()
    assert parser.feed(b"retry: 3000\n\n" + sse_comment("keep-alive", event_id="7")) == []
    assert (parser.last_event_id, parser.retry_ms) == ("7", 3000)
    parser.feed(b"retry: soon\nretry: 99999999999999\n\n")
    assert parser.retry_ms == 3000


def test_a_message_is_bounded():
    parser = SseParser(max_bytes=1000)
    for _ in range(10):
        parser.feed(b"data: " + b"x" * 900 + b"\n\n")
    with pytest.raises(SseError, match="1000 bytes"):
        parser.feed(b"data: " + b"x" * 2000)
    parser = SseParser(max_bytes=1000)
    with pytest.raises(SseError):
        parser.feed(b"data: xxx\n" * 200)


def test_what_is_not_utf8():
    with pytest.raises(SseError, match="not UTF-8"):
        SseParser().feed(b"data: \xff\n")


@pytest.mark.parametrize("bad", [{"event": "a\nb"}, {"event_id": "a\rb"}, {"event_id": "a\0"}])
def test_what_cannot_be_written(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        sse_message(b"x", **bad)
