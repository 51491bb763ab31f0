"""The parser and the writer of the NATS protocol: whatever arrives, in whatever pieces."""

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_eventlog.stores.jetstream._protocol import (
    MAX_LINE,
    PING,
    PONG,
    Message,
    Ok,
    Parser,
    Ping,
    Pong,
    ProtocolError,
    Publish,
    ServerError,
    ServerInfo,
    Subscribe,
    Unsubscribe,
    connect,
    encode,
)


def parsed(*pieces):
    """The events in some data, and the ProtocolError that ended it."""
    parser = Parser()
    found = []
    try:
        for piece in pieces:
            parser.receive_data(piece)
            while (event := parser.next_event()) is not None:
                found.append(event)
    except ProtocolError as exc:
        return found, str(exc)
    return found, None


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (b"PING\r\n", Ping()),
        (b"pong\r\n", Pong()),
        (b"+OK\r\n", Ok()),
        (b"-ERR 'Stale Connection'\r\n", ServerError("Stale Connection")),
        (b"-ERR\r\n", ServerError("")),
        (b"INFO {}\r\n", ServerInfo()),
        (b'info\t{"version":"2.14.4","max_payload":5,"x":1}\r\n', ServerInfo("2.14.4", 5)),
        (b"MSG a.b 7 2\r\nhi\r\n", Message("a.b", 7, data=b"hi")),
        (b"MSG a 7 r.1 0\r\n\r\n", Message("a", 7, "r.1")),
        (b"MSG  a \t 7   2  \r\n\r\n\r\n", Message("a", 7, data=b"\r\n")),
        (b"HMSG a 7 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", Message("a", 7, "r", data=b"hi")),
        (b"HMSG a 7 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", Message("a", 7, status=503)),
        (
            b"HMSG a 7 47 47\r\nNATS/1.0 404 Not Found\r\nA: 1\r\nB:2\r\n C : x:y\r\n\r\n\r\n",
            Message("a", 7, headers={"A": "1", "B": "2", " C ": "x:y"}, status=404),
        ),
    ],
)
def test_an_event(data, event):
    assert parsed(data) == ([event], None)
    assert parsed(*(data[n : n + 1] for n in range(len(data)))) == ([event], None)


@pytest.mark.parametrize(
    ("block", "headers", "status"),
    [
        (b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n", {"A": "2"}, 0),
        (b"NATS/1.0 204\r\nno colon\r\nA: 1\r\n\r\n", {"A": "1"}, 0),
        (b"HTTP/1.1 200\r\nA: 1\r\n\r\n", {}, 0),
        (b"NATS/1.0 \xff\r\nA: \xff\r\n\r\n", {"A": "\ufffd"}, 0),
        (b"x", {}, 0),
    ],
)
def test_headers_that_a_publisher_has_made_up(block, headers, status):
    """The message is given out, without what cannot be understood, and the connection goes on."""
    data = b"HMSG a 1 %d %d\r\n%sdata\r\n" % (len(block), len(block) + 4, block)
    assert parsed(data, PING) == ([Message("a", 1, "", headers, b"data", status), Ping()], None)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b" PING\r\n",
        b"INFO\r\n",
        b"INFO []\r\n",
        b'INFO {"max_payload":"much"}\r\n',
        b'INFO {"version":"2\xff"}\r\n',
        b"MSG\r\n",
        b"MSG a 1\r\n",
        b"MSG a b c d 1\r\n",
        b"MSG a x 1\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 +1\r\n",
        b"MSG a 1 1_0\r\n",
        b"MSG a 1 " + b"9" * 5_000 + b"\r\n",
        b"MSG a 1 99999999999\r\n",
        b"MSG a 1 2\r\nhiPING\r\n",
        b"HMSG a 1 5\r\n",
        b"HMSG a 1 6 5\r\n",
        b"x" * (MAX_LINE + 1) + b"\r\n",
    ],
)
def test_what_is_not_the_protocol(data):
    """Nothing comes after it: not even the same call again."""
    parser = Parser()
    parser.receive_data(data)
    for _ in range(2):
        with pytest.raises(ProtocolError):
            parser.next_event()
        parser.receive_data(PING)
    events, error = parsed(*(data[n : n + 1_000] for n in range(0, len(data), 1_000)), PING)
    assert events == []
    assert error


def test_a_line_of_the_greatest_length():
    urls = json.dumps({"connect_urls": ["x" * (MAX_LINE - 30)]}).replace(" ", "")
    line = b"INFO " + urls.encode()
    line += b" " * (MAX_LINE - len(line))
    assert parsed(line + b"\r\n" + PONG)[0][1:] == [Pong()]
    assert parsed(line, b"\r", b"\n", PONG)[0][1:] == [Pong()]
    assert "more than" in parsed(line + b" ", b"\r\n")[1]
    assert "more than" in parsed(line + b" \r\n")[1]


def test_no_more_is_kept_than_a_line_may_have():
    """Of a server that never ends its line."""
    with pytest.raises(ProtocolError, match="more than"):
        parser = Parser()
        for _ in range(MAX_LINE):
            parser.receive_data(b"x" * 1_000)
            parser.next_event()


# --- split and joined -----------------------------------------------------------------------------

words = st.text(
    st.characters(codec="ascii", exclude_characters=" \t", categories=["L", "N", "P"]), min_size=1
)
header_names = st.text(st.characters(codec="utf-8", exclude_characters=":\r\n"))
header_values = st.text(st.characters(codec="utf-8", exclude_characters="\r\n")).map(str.strip)
publications = st.builds(
    Publish, words, st.binary(), st.none() | st.dictionaries(header_names, header_values), st.just("") | words
)


def as_server(command, sid):
    """What a server sends to a subscriber."""
    line, data, end = encode(command)
    verb, rest = line.split(b" ", 1)
    subject, rest = rest.split(b" ", 1)
    return verb.replace(b"PUB", b"MSG") + b" " + subject + b" %d " % sid + rest + data + end


events = st.one_of(
    st.sampled_from([(PING, Ping()), (PONG, Pong()), (b"+OK\r\n", Ok())]),
    st.builds(
        ServerInfo, version=st.text(), max_payload=st.integers(0, 2**40), connect_urls=st.lists(st.text())
    ).map(lambda info: (b"INFO " + msgspec.json.encode(info) + b"\r\n", info)),
    st.builds(
        lambda command, sid: (
            as_server(command, sid),
            Message(command.subject, sid, command.reply, command.headers or {}, command.data),
        ),
        publications,
        st.integers(0, 2**31),
    ),
)


def cut(data, cuts):
    places = sorted({min(place, len(data)) for place in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.lists(events), st.lists(st.integers(0, 2_000)))
def test_events_are_the_same_however_the_data_is_cut(expected, cuts):
    """And what is written is read as it was."""
    data = b"".join(blob for blob, _ in expected)
    assert parsed(*cut(data, cuts)) == ([event for _, event in expected], None)


FRAGMENTS = (
    *(b"MSG", b"HMSG", b"INFO", b"PING", b"-ERR", b" ", b"\t", b"\r\n", b"\r", b"\n", b"0", b"1", b"12"),
    *(b"a.b", b"{}", b'{"version":1}', b"NATS/1.0", b"NATS/1.0 503", b"A: b", b"'", b"\xff", b"\0"),
)
garbage = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(FRAGMENTS)).map(b"".join))


@example(b"MSG a 1 1\r\nx\r\r\n", [])
@given(garbage, st.lists(st.integers(0, 300)))
def test_garbage_gives_the_same_events_and_the_same_end_however_it_is_cut(data, cuts):
    """A ProtocolError is the only one there is."""
    whole, error = parsed(data)
    pieces, other = parsed(*cut(data, cuts))
    assert (pieces, other is None) == (whole, error is None)


@given(st.lists(events, min_size=1), st.data())
def test_a_byte_that_was_changed(expected, data):
    """What came before it is given out."""
    blob = b"".join(one for one, _ in expected)
    place = data.draw(st.integers(0, len(blob) - 1))
    changed = blob[:place] + bytes([data.draw(st.integers(0, 255))]) + blob[place + 1 :]
    found, _ = parsed(changed)
    end = before = 0
    for one, _ in expected:
        end += len(one)
        if end > place:
            break
        before += 1
    assert found[:before] == [event for _, event in expected[:before]]


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.14.4", (2, 14, 4)), ("v2.15.0-RC.1", (2, 15, 0)), ("dev", (0, 0, 0)), ("", (0, 0, 0))],
)
def test_versions(version, numbers):
    assert ServerInfo(version).numbers == numbers


@given(st.text())
def test_any_version(version):
    assert len(ServerInfo(version).numbers) == 3


# --- writing --------------------------------------------------------------------------------------


def test_what_is_written():
    assert b"".join(encode(Publish("a", b"hi"))) == b"PUB a 2\r\nhi\r\n"
    assert b"".join(encode(Publish("a", b"", None, "r"))) == b"PUB a r 0\r\n\r\n"
    assert b"".join(encode(Publish("a", b"hi", {"A": "é"}, "r"))) == (
        b"HPUB a r 19 21\r\nNATS/1.0\r\nA: \xc3\xa9\r\n\r\nhi\r\n"
    )
    assert encode(Subscribe(7, "a.*")) == [b"SUB a.* 7\r\n"]
    assert encode(Unsubscribe(7)) == [b"UNSUB 7\r\n"]
    assert connect({"verbose": False}) == b'CONNECT {"verbose":false}\r\n'


@pytest.mark.parametrize(
    "command",
    [
        Publish("", b""),
        Publish("a b", b""),
        Publish("a\r\nPUB x 0", b""),
        Publish("a", b"", None, "r\tr"),
        Publish("a", b"", {"A": "1\r\nB: 2"}),
        Publish("a", b"", {"A\n": "1"}),
        Publish("a", b"", {"A:": "1"}),
        Publish("a", b"", {"A": "\r"}),
        Publish("\ud800", b""),
        Subscribe(1, "a b"),
    ],
)
def test_nothing_is_smuggled_into_a_command(command):
    with pytest.raises(ValueError):
        encode(command)
