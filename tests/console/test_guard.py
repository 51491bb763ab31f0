"""Who may ask."""

import hmac
import itertools

import pytest

from tests._helpers.console import ask, post
from trio_eventlog.console import create_app
from trio_eventlog.console._errors import ApiError
from trio_eventlog.console._guard import (
    MAX_SESSIONS,
    Sessions,
    check_host,
    check_site,
    checked_hosts,
    checked_token,
    headers_of,
)

TOKEN = "a-token-of-some-length"  # noqa: S105 - of a test
COOKIE = "trio_eventlog_8765"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8765",
        "localhost",
        "LOCALHOST:1",
        "x.localhost",
        "[::1]:8765",
        "10.1.2.3",
        "logs.example.org",
        "Logs.Example.Org.:443",
    ],
)
def test_hosts_that_are_served(host):
    check_host(host, {"logs.example.org"})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (None, 400),
        ("", 400),
        ("a b", 400),
        ("localhost:port", 400),
        ("localhost/", 400),
        ("user@localhost", 400),
        ("[::1", 400),
        ("evil.example", 403),
        ("logs.example.org.evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("1.2.3", 403),
        ("localhost\r\nx", 400),
        ("localhost\n", 400),
    ],
)
def test_hosts_that_are_refused(host, status):
    with pytest.raises(ApiError) as caught:
        check_host(host, {"logs.example.org"})
    assert caught.value.status == status


def test_two_hosts_are_refused():
    with pytest.raises(ApiError):
        headers_of([(b"host", b"localhost"), (b"Host", b"evil.example")])


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"origin": "http://localhost:1", "host": "localhost:1"}, True),
        ({"origin": "http://localhost:2", "host": "localhost:1"}, False),
        ({"origin": "null", "host": "localhost:1"}, False),
        ({"origin": "http://evil.example", "host": "localhost:1"}, False),
    ],
)
def test_sites(headers, is_allowed):
    if is_allowed:
        check_site(headers)
        return
    with pytest.raises(ApiError) as caught:
        check_site(headers)
    assert caught.value.code == "cross_site"


async def test_every_request_is_checked_for_its_host(app):
    for path in ("/", "/static/js/main.js", "/api/logs", "/api/session", "/rpc"):
        answer = await ask(app, path, headers={"host": "evil.example"})
        assert (answer.status, answer.error["code"]) == (403, "host_refused")


async def test_a_page_of_another_site_can_link_to_the_page_but_ask_nothing(app):
    site = {"sec-fetch-site": "cross-site"}
    assert (await ask(app, "/", headers=site)).status == 200
    for path in ("/api/logs", "/api/events/stream", "/api/session", "/mobkit/mob_events/stream"):
        assert (await ask(app, path, headers=site)).error["code"] == "cross_site"
    assert (await post(app, "/rpc", {}, headers=site)).status == 403


# --- the token ------------------------------------------------------------------------------------


@pytest.fixture
async def closed(store):
    return create_app(store, token=TOKEN)


PROTECTED = (
    *("/api/logs", "/api/events", "/api/events/1", "/api/events/stream", "/api/count", "/api/histogram"),
    *("/api/facets", "/api/statistics", "/api/tasks", "/api/openapi.json", "/mobkit/mob_events/stream"),
    "/rpc",
)


async def test_without_the_token_there_is_the_page_and_nothing_else(closed):
    for path in PROTECTED:
        answer = await ask(closed, path)
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
    assert (await ask(closed, "/")).status == 200
    assert (await ask(closed, "/static/js/main.js")).status == 200
    assert (await ask(closed, "/favicon.ico")).status == 404
    assert (await ask(closed, "/api/session")).json() == {"token_required": True, "authorized": False}


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer é"]
)
async def test_a_wrong_token(closed, value):
    assert (await ask(closed, "/api/logs", headers={"authorization": value})).status == 401


async def test_programs_send_the_token_each_time(closed):
    answer = await ask(closed, "/api/logs", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status == 200


async def test_a_browser_exchanges_the_token_for_a_cookie(closed):
    answer = await post(closed, "/api/session", {"token": TOKEN})
    assert answer.status == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert TOKEN not in str(answer.headers)
    mine = {"cookie": f"other=1; {cookie.partition(';')[0]}"}
    assert (await ask(closed, "/api/logs", headers=mine)).status == 200
    assert (await ask(closed, "/api/session", headers=mine)).json()["authorized"]

    gone = await ask(closed, "/api/session", method="DELETE", headers=mine)
    assert "Max-Age=0" in gone.headers["set-cookie"]
    assert (await ask(closed, "/api/logs", headers=mine)).status == 401


@pytest.mark.parametrize("other", ['prefs={"a":1}', 'x=a b"', "=", "é=ü", "x", f"{COOKIE}x=1"])
async def test_cookies_of_other_servers_on_the_host_may_be_malformed(closed, other):
    """Browsers keep those of several ports together."""
    answer = await post(closed, "/api/session", {"token": TOKEN})
    mine = answer.headers["set-cookie"].partition(";")[0]
    for cookies in (f"{other}; {mine}", f"{mine}; {other}"):
        assert (await ask(closed, "/api/logs", headers={"cookie": cookies})).status == 200


async def test_a_cookie_is_for_the_place_of_the_console_and_for_https_alone_if_it_came_so(store):
    app = create_app(store, token=TOKEN)
    more = {"root_path": "/log", "scheme": "https"}
    answer = await post(app, "/log/api/session", {"token": TOKEN}, **more)
    assert answer.headers["set-cookie"].endswith("; Path=/log/; HttpOnly; SameSite=Strict; Secure")


@pytest.mark.parametrize("body", [b"", b"1", b"{}", b'{"token":1}', b'{"token":"no"}', b"[" * 2000])
async def test_a_wrong_exchange(closed, body):
    answer = await post(closed, "/api/session", body)
    assert answer.status in {400, 401}
    assert "set-cookie" not in answer.headers


async def test_an_exchange_says_that_it_is_json(closed):
    # A form of another site could send anything else unasked.
    answer = await post(closed, "/api/session", {"token": TOKEN}, headers={"content-type": "text/plain"})
    assert answer.status == 415


async def test_the_token_is_in_no_answer_and_no_log(closed, caplog):
    for path in (*PROTECTED, "/", "/api/session", "/nothing"):
        answer = await ask(
            closed, path, headers={"authorization": f"Bearer {TOKEN}"} if path == "/nothing" else {}
        )
        assert TOKEN.encode() not in answer.body
        assert TOKEN not in str(answer.headers)
    assert TOKEN not in caplog.text


def test_the_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    sessions = Sessions(TOKEN)
    assert sessions.accepts_token(TOKEN)
    assert not sessions.accepts_token("x")
    assert len(compared) == 2
    # Of digests: not even the length of the token shows.
    assert {len(side) for pair in compared for side in pair} == {32}


def test_sessions_are_bounded_and_the_one_in_use_stays():
    sessions = Sessions(TOKEN)
    mine = sessions.begin()
    for _ in range(3 * MAX_SESSIONS):
        sessions.begin()
        assert sessions.knows(mine)
    assert len(sessions._sessions) == MAX_SESSIONS
    assert mine.encode() not in b"".join(sessions._sessions)


@pytest.mark.parametrize(
    ("token", "error"),
    [
        (1, TypeError),
        ("short", ValueError),
        ("a b" * 10, ValueError),
        ("é" * 20, ValueError),
        ("a\n" * 20, ValueError),
    ],
)
def test_tokens_that_are_none(token, error):
    with pytest.raises(error, match=r"^token: "):
        checked_token(token)


@pytest.mark.parametrize(
    ("hosts", "error"),
    [("a", TypeError), (1, TypeError), ([1], TypeError), (["a:1"], ValueError), (["a/b"], ValueError)],
)
def test_hosts_that_are_none(hosts, error):
    with pytest.raises(error, match=r"^allowed_hosts: "):
        checked_hosts(hosts)


def test_names_of_hosts_have_one_form():
    assert checked_hosts(itertools.chain(["A.Example."])) == {"a.example"}
