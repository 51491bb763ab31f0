"""URLs of stores: what they say, what is refused, and that no secret is shown."""

from __future__ import annotations

import string
import time

import pytest

from trio_eventlog.stores import without_secrets
from trio_eventlog.stores._urls import parse_url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:se@cret@db/app", r"^'postgresql://\*\*\*@db/app': .* %40 for an @"),
        ("nats://me:secret@n1,me:se@cret@n2/S", "%40 for an @"),
        ("postgresql://me:se?cret@db/app", r"%3F for a \?"),
        ("nats://me:se?cr=et@n1/S", "%3F"),
        ("nats://me:se,cret@n1/S", "a port is a number"),
        ("postgresql://db/app?password=se&cret", "%26 for an &"),
        ("nats://n1/S?token=se&cret", "%26 for an &"),
        ("sqlite:///m.db", "write sqlite:m.db for a file in the current directory, or sqlite:/m.db"),
        ("sqlite:///m.db?log=a", "would be /m.db"),
    ],
)
def test_what_is_refused(url, message):
    with pytest.raises(ValueError, match=message):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:m.db", "m.db"),
        ("sqlite:/m.db", "/m.db"),
        ("sqlite:////m.db", "//m.db"),
        ("sqlite:///srv/m.db", "/srv/m.db"),
        ("sqlite:srv/m.db", "srv/m.db"),
    ],
)
def test_paths(url, path):
    assert parse_url(url).place == path


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///app",
        "postgresql://",
        "postgresql://[::1]:5432,db:/app?application_name=a@b",
        "postgresql://%2Fvar%2Frun/app",
        "postgresql://me:p%40%3F%2F@h1:1,h2:2/app?log=a@b",
        "nats://me:p%40@n1:4222,me:p%40@[::1]:4222/S?log=a",
    ],
)
def test_what_is_taken(url):
    assert parse_url(url).place


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:se@cret@db/app", "postgresql://***@db/app"),
        ("postgresql://db/app?password=se@cret&log=a", "postgresql://***&log=a"),
        ("postgresql://db/app?password=se&cret", "postgresql://db/app?password=***"),
        ("postgresql://db/app?sslpassword=se cret&log=a", "postgresql://db/app?sslpassword=***&log=a"),
        ("postgresql://db/app?passwd=secret", "postgresql://db/app?passwd=***"),
        ("host=db password = secret", "host=db password = ***"),
        ("postgresql:me:se//cret@db/app", "***@db/app"),
        ("me:se/cret@db/app", "***@db/app"),
        ("see nats://token@n1", "see nats://***@n1"),
        ("see me:secret@db", "see ***@db"),
        ("who@example.com", "who@example.com"),
    ],
)
def test_what_is_shown(url, shown):
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://me:{}@127.0.0.1:1/app",
        "postgresql:me:{}@127.0.0.1:1/app",
        "postgresql://127.0.0.1:1/app?log=a&password={}",
        "nats://me:{}@127.0.0.1:1/S",
        "nats://me:{}@127.0.0.1:1,me:{}@127.0.0.1:2/S",
        "nats://{}@127.0.0.1:1/S",
        "me:{}@db/app",
    ],
)
@pytest.mark.parametrize("sign", [*string.punctuation, " ", "\n", "é", "%zz", "?a=", "//"])
def test_no_part_of_a_password_is_shown(form, sign):
    """Whichever sign in it should have been escaped."""
    url = form.replace("{}", f"FIRST{sign}SECOND")
    shown = without_secrets(url)
    try:
        shown += parse_url(url).shown
    except ValueError as exc:
        shown += str(exc)
    assert "FIRST" not in shown
    assert "SECOND" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "nats://" + ",".join(f"n{i}.example:4222" for i in range(20_000)) + "/EVENTS?log=w",
        *(part * 100_000 for part in ("a:", "a@", "//@", "a:@ ", "'", "&a")),
        *(part * 20_000 for part in ("password=", "password='\\'", "?password=&", "token=&a=&", "?password")),
        "password" + " " * 200_000,
        "?" + "password" * 20_000,
    ],
    ids=lambda text: text[:12],
)
def test_long_texts_are_looked_through_in_linear_time(text):
    """A time that grows with the square of the length would take minutes here."""
    began_at = time.monotonic()
    without_secrets(text)
    assert time.monotonic() - began_at < 10
