"""What JetStreamStore does without a server and without its driver: the layout, and its arguments."""

import base64
import hashlib
import re
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog import (
    AgentEvent,
    EventQuery,
    PersistedEvent,
    StoreUnusable,
    to_json,
)
from trio_eventlog.stores import JetStreamStore, open_store
from trio_eventlog.stores._common._batches import sealed_batch
from trio_eventlog.stores.jetstream._access import Server, access
from trio_eventlog.stores.jetstream._api import PERMANENT_ERRORS, PERMANENT_ON_OPENING
from trio_eventlog.stores.jetstream._head import decode_head
from trio_eventlog.stores.jetstream._messages import batch_pieces, draft, event_of, flaw
from trio_eventlog.stores.jetstream._protocol import Publish, encode
from trio_eventlog.stores.jetstream._subjects import Subjects, _hashed, seq_of
from trio_eventlog.testing import events, persisted_events, queries

# --- the layout -----------------------------------------------------------------------------------

SUBJECTS = Subjects("EVENTLOG", "default")


def persisted(event, seq=7):
    member = event.agent_id if isinstance(event, AgentEvent) else None
    original = PersistedEvent("id-1", seq, 1_000, member, event)
    (copy,) = trio.run(partial(sealed_batch, [original]))
    return original, copy


def test_the_layout_is_what_is_documented():
    """Programs of others read it: a change needs another schema version."""
    _, event = persisted(AgentEvent("worker-7", "run_started", {"run_id": "r-1", "step_id": "s 1"}))
    item = draft(SUBJECTS, event)
    assert item.subject == (
        "eventlog.EVENTLOG.default.e.U8UH0FuCa8wO8B5UeZrKcg.7.worker-7.run_started.~.~.r-1.=n7cMUMd7Y97N"
    )
    assert item.body == to_json(event)
    assert (SUBJECTS.head, SUBJECTS.lock) == (
        "eventlog.EVENTLOG.default.head",
        "eventlog.EVENTLOG.default.lock",
    )


@given(st.lists(events(), max_size=3))
def test_the_messages_of_a_batch_are_those_that_are_checked_in_full(batch):
    """What is checked once for all of them cannot differ between them."""
    drafts = [draft(SUBJECTS, persisted(event, seq)[1]) for seq, event in enumerate(batch, start=1)]
    for number, (item, piece) in enumerate(zip(drafts, batch_pieces(drafts, "name.7"), strict=True), start=1):
        headers = {
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Batch-Id": "name.7",
            "Nats-Expected-Last-Subject-Sequence-Subject": item.id_filter,
            "Nats-Batch-Sequence": str(number),
        }
        assert encode(piece) == encode(Publish(item.subject, item.body, headers))
        assert sum(map(len, headers)) + sum(map(len, headers.values())) < item.size - len(item.body)


@given(persisted_events())
def test_a_body_is_the_wire_form(event):
    assert draft(SUBJECTS, trio.run(sealed_batch, [event])[0]).body == to_json(event)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([9, 16]))
def test_a_hash_is_base64_for_urls(text, size):
    expected = base64.urlsafe_b64encode(hashlib.blake2b(text.encode(), digest_size=size).digest())
    assert _hashed(text, size) == expected.decode().rstrip("=")


@given(events(), queries())
def test_a_filter_lets_every_match_through(event, query):
    original, copy = persisted(event)
    subject = draft(SUBJECTS, copy).subject
    tokens = subject.split(".")
    assert all(token and not set(token) & set(" *>\t\r\n\0") for token in tokens)
    if query.matches(original):
        assert any(fits(pattern, tokens) for pattern in SUBJECTS.filters(query))


def fits(pattern, tokens):
    """Whether a subject fits a filter, as NATS has it."""
    wanted = pattern.split(".")
    if wanted[-1] == ">":
        return len(tokens) >= len(wanted) and fits(".".join(wanted[:-1]), tokens[: len(wanted) - 1])
    return len(wanted) == len(tokens) and all(a in ("*", b) for a, b in zip(wanted, tokens, strict=True))


@given(events())
def test_an_event_is_read_as_it_was_written(event):
    original, copy = persisted(event)
    item = draft(SUBJECTS, copy)
    assert item.body == to_json(original)
    found = event_of(item.body)
    assert to_json(found) == to_json(original)
    assert flaw(SUBJECTS, item.subject, item.body) is None
    assert seq_of(item.subject) == 7
    assert SUBJECTS.id_filter_of(item.subject) == item.id_filter


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b'{"id":1}', b"\xff"),
        b'{"id":"\xff","seq":1,"timestamp_ms":1,"event":{"kind":"module","module":"m","event_type":"t"}}',
    ],
)
def test_what_is_no_event_is_damage(body):
    with pytest.raises(StoreUnusable, match="damaged"):
        event_of(body)
    assert flaw(SUBJECTS, "eventlog.EVENTLOG.default.e.x.1.~.t.~.~.~.~", body)


def test_a_head_of_a_newer_version_is_refused():
    with pytest.raises(StoreUnusable, match="newer version"):
        decode_head(
            b'{"format":2,"log":"l","log_id":"i","last_seq":1,"session":"s","number":1,'
            b'"mixed_through":0,"mixed_seq":0}',
            5,
        )
    with pytest.raises(StoreUnusable, match="damaged"):
        decode_head(b"{}", 5)
    with pytest.raises(StoreUnusable, match="damaged"):
        decode_head(b'{"format":1,"log":"\xff"}', 5)


def test_a_head_does_not_grow_with_each_opening():
    """What lies between heads that follow upon each other is one void; behind events there is another."""
    head = decode_head(
        b'{"format":1,"log":"l","log_id":"i","last_seq":1,"session":"s","number":1,'
        b'"mixed_through":0,"mixed_seq":0}',
        10,
    )
    for position in (12, 15, 20):
        head = head.barrier(session="t", number=1).settled(position)
    assert head.voids == ((11, 19),)
    assert head.is_void(11)
    assert head.is_void(19)
    assert not head.is_void(20)
    appended = head.settled(25)
    assert appended.barrier(session="u", number=1).settled(30).voids == ((11, 19), (26, 29))


def test_logs_of_any_name_have_subjects_of_their_own():
    names = ["a", "A", "a.b", "a*", ">", "", " ", "é", "x" * 500, "=a", "~", "a_b-9"]
    bases = {Subjects("S", name).base for name in names}
    assert len(bases) == len(names)
    assert all(base.count(".") == 2 for base in bases)


# --- arguments ------------------------------------------------------------------------------------


def test_servers_are_read():
    to = access("nats://host-1:1111, host-2,[::1]:3333")
    assert to.servers == (Server("host-1", 1111), Server("host-2", 4222), Server("::1", 3333))
    assert str(to) == "host-1:1111, host-2:4222, [::1]:3333"
    assert to.tls is None
    assert access(["tls://host"]).tls is not None
    assert access("nats://u:p%40ss@host").password == "p@ss"  # noqa: S105 - of this test
    assert access("nats://secret@host").token == "secret"  # noqa: S105 - of this test


@pytest.mark.parametrize(
    ("servers", "options", "words"),
    [
        ("", {}, "number 1 names no host"),
        ([], {}, "expected at least one"),
        ("http://host", {}, "expected the scheme nats or tls, got 'http'"),
        ("nats://host:x", {}, "malformed"),
        ("nats://host/STREAM", {}, "the stream is an argument"),
        ("nats://a:hush@h1,nats://b:hush@h2", {}, "users differ"),
        ("nats://a:hush@h1", {"user": "b"}, "in one place only"),
        ("host", {"password": "hush"}, "needs a user"),
        ("host", {"token": "hush", "user": "b"}, "one of them at most"),
    ],
)
def test_servers_that_are_none(servers, options, words):
    """The message says what to write, and no secret."""
    with pytest.raises(ValueError) as caught:
        access(servers, **options)
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)


def test_secrets_stay_out_of_reprs():
    to = access("nats://user:hush@host")
    assert "hush" not in repr(to) + str(to)
    assert "user" not in str(to)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stream": "a.b"}, ValueError, "a stream is named by"),
        ({"stream": 1}, TypeError, "stream must be a string"),
        ({"log": ""}, ValueError, "1 to 512 bytes"),
        ({"log": "\ud800"}, ValueError, "lone surrogate"),
        ({"log": 1}, TypeError, "log must be a string"),
        ({"replicas": 6}, ValueError, "replicas: expected 1 to 5, got 6"),
        ({"replicas": True}, TypeError, "replicas: expected an integer, got bool"),
        ({"max_age": 0}, ValueError, "max_age: expected 1 to 9000000000 seconds, got 0"),
        ({"max_age": True}, TypeError, "max_age: expected seconds, got bool"),
        ({"lock_timeout": 1}, ValueError, "lock_timeout: expected 2 to 3600 seconds"),
        ({"lock_timeout": float("nan")}, ValueError, "lock_timeout"),
        ({"lock_timeout": "x"}, TypeError, "lock_timeout"),
        ({"sync_interval": -1}, ValueError, "sync_interval: expected 0 to 86400 seconds"),
        ({"sync_interval": float("inf")}, ValueError, "sync_interval"),
        ({"sync_interval": True}, TypeError, "sync_interval"),
        ({"max_bytes": 0}, ValueError, r"max_bytes: expected 1 to 2\*\*63 - 1, got 0"),
        ({"max_bytes": 1.5}, TypeError, "max_bytes: expected an integer, got float"),
    ],
)
async def test_arguments_that_are_wrong(options, error, words):
    with pytest.raises(error, match=words):
        async with JetStreamStore.open("127.0.0.1:1", **options):
            pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nats:host", "names no server"),
        ("nats://host", "names no stream"),
        ("nats:///S", "names no server"),
        ("nats://u:hush@host:0/S", "number 1: no server has port 0"),
        ("nats://u:hush@host:99999/S", "number 1: the host or the port is malformed"),
        ("nats://u:hush@host/S?colour=red", "unknown option 'colour' in 'nats://***@host/S"),
        ("nats://u:hush@host/S?replicas=many", "option 'replicas' in 'nats://***@host/S?replicas=many'"),
        ("nats://u:hush@host/S?max_age=x", "expected seconds"),
        ("nats://u:hush@host/S?max_bytes=1k", "expected an integer"),
        ("nats://u:hush@host/S?sync_interval=always", "expected seconds"),
        ("nats://u:hush@host/S?log", "has no value"),
        ("nats://u:hu/sh@host/S", "write %2F for a slash in a password"),
        ("nats://u:hush@host/S?log=a&log=b", "appears twice"),
        ("nats://u:hush@host/S?log=%zz", "starts no escape"),
        ("nets://u:hush@host/S", "unknown scheme 'nets' in 'nets://***@host/S'"),
    ],
)
async def test_urls_that_are_wrong(url, words):
    with pytest.raises(ValueError) as caught:
        async with open_store(url):
            pass
    assert words in str(caught.value)
    assert "hu" not in str(caught.value).replace("has no value", "")


def test_queries_go_to_the_server_as_far_as_subjects_go():
    assert SUBJECTS.filters(EventQuery(since_ms=1, after_seq=4)) == ["eventlog.EVENTLOG.default.e.>"]
    assert SUBJECTS.filters(EventQuery(member_id="w", event_types=("a", "b"), run_id="r")) == [
        "eventlog.EVENTLOG.default.e.*.*.w.a.*.*.r.*",
        "eventlog.EVENTLOG.default.e.*.*.w.b.*.*.r.*",
    ]
    many = tuple(map(str, range(9)))
    assert SUBJECTS.filters(EventQuery(member_id="w", event_types=many)) == [
        "eventlog.EVENTLOG.default.e.*.*.w.*.*.*.*.*"
    ]


def test_the_reference_lists_the_codes_that_last():
    """Those of each row, by what it says of them."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "stores.md").read_text()
    section = page.partition("## NATS JetStream")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if re.match(r"\| \d", line)]
    listed = {
        (opening, open_): {int(code) for code in codes.split(", ")} for codes, _, opening, open_ in rows
    }
    assert listed == {
        ("`StoreUnusable`", "`StoreUnusable`"): PERMANENT_ERRORS,
        ("`StoreUnusable`", "`StoreError`"): PERMANENT_ON_OPENING,
    }
    assert PERMANENT_ERRORS.isdisjoint(PERMANENT_ON_OPENING)
