"""`serve`."""

import json
import signal
import urllib.error
import urllib.request

import pytest

from tests._helpers.cli import SECONDS, add, start
from tests._helpers.console import port_of


def read_url(child):
    line = child.stdout.readline().decode().strip()
    assert line.startswith("http://"), (line, child.stderr.read())
    return line


def get(url, path, **headers):
    request = urllib.request.Request(url + path, headers=headers)  # noqa: S310 - as printed
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - as above
        return json.load(answer)


def stop(child):
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=SECONDS)
    return child.returncode, out, err


def test_all_logs_of_a_file_until_ctrl_c(db):
    add(db, 1, 5, log="b")
    add(db, 6, 7, log="a")
    with start("serve", "--store", f"sqlite:{db}", "--port", 0) as child:
        url = read_url(child)
        assert [log["name"] for log in get(url, "api/logs")["logs"]] == ["a", "b"]
        assert get(url, "api/events?log=b")["last_seq"] == "5"
        add(db, 8, 9, log="a")
        assert get(url, "api/events?log=a")["last_seq"] == "4"
        assert stop(child) == (130, b"", b"")


def test_one_log_and_a_token(db, monkeypatch):
    add(db, 1, 5, log="b")
    add(db, 6, 7, log="a")
    monkeypatch.setenv("TRIO_EVENTLOG_TOKEN", "a-token-of-some-length")
    with start("serve", "--store", f"sqlite:{db}?log=b", "--port", 0) as child:
        url = read_url(child)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(url, "api/logs")
        logs = get(url, "api/logs", Authorization="Bearer a-token-of-some-length")["logs"]
        assert [log["name"] for log in logs] == ["b"]
        assert stop(child) == (130, b"", b"")


def test_another_address_gets_a_token(db):
    add(db, 1, 1)
    with start("serve", "--store", f"sqlite:{db}", "--port", 0, "--host", "0.0.0.0") as child:  # noqa: S104
        url, _, token = read_url(child).partition("#token=")
        assert len(token) >= 40
        local = f"http://127.0.0.1:{port_of(url)}/"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(local, "api/logs")
        assert get(local, "api/logs", Authorization=f"Bearer {token}")["logs"]
        assert stop(child) == (130, b"", b"")


def test_what_cannot_be_served(cli, db):
    assert cli("serve", "--store", f"sqlite:{db}").status == 1
    add(db, 1, 1)
    for options, status, message in (
        (["--port", 70000], 2, "port"),
        (["--allow-host", "a:1"], 2, "allowed_hosts"),
        (["--host", "203.0.113.1", "--port", 0], 1, "cannot listen on 203.0.113.1, port 0"),
    ):
        result = cli("serve", "--store", f"sqlite:{db}", *options)
        assert result.status == status, result.err
        assert message in result.err
