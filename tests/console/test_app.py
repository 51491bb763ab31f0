"""What all answers have in common, the files of the page, the description, and how requests wait."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.routing import Mount
from trio.testing import wait_all_tasks_blocked

import trio_eventlog.console
from tests._helpers.console import ask, request_scope
from tests._helpers.uncovered import uncovered
from trio_eventlog import AgentEvent, EventQuery, StoreError, StoreUnusable, open_event_log
from trio_eventlog.console import ConsoleLimits, create_app
from trio_eventlog.console._app import _HANDLERS, make_app, sources_of
from trio_eventlog.console._guard import Sessions
from trio_eventlog.console._openapi import describe
from trio_eventlog.console._state import Console
from trio_eventlog.stores import MemoryStore

STATIC = Path(trio_eventlog.console.__file__).parent / "static"

ASKED = [
    *("/", "/static/js/main.js", "/static/nothing", "/nothing", "/api/logs", "/api/events", "/api/events/1"),
    *("/api/events/2000", "/api/count", "/api/histogram", "/api/facets", "/api/statistics", "/api/tasks"),
    *("/api/openapi.json", "/api/session", "/rpc"),
]


@pytest.mark.parametrize("path", ASKED)
async def test_every_answer_has_the_headers_that_keep_a_browser_safe(app, path):
    answer = await ask(app, path)
    policy = dict(
        directive.strip().partition(" ")[::2]
        for directive in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers
    if path.startswith(("/api", "/rpc")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"


async def test_errors_are_json(app):
    for path, method, status, code in (
        ("/nothing", "GET", 404, "not_found"),
        ("/api/events/", "GET", 400, "invalid_parameter"),
        ("/static/", "GET", 404, "not_found"),
        ("/api/events", "POST", 405, "method_not_allowed"),
        ("/rpc", "GET", 405, "method_not_allowed"),
        ("/api/logs", "GET", 200, None),
    ):
        answer = await ask(app, path, method=method)
        assert answer.status in {status, 404}, path
        if code is not None:
            assert answer.error["code"] in {code, "not_found"}
    assert (await ask(app, "/rpc")).headers["allow"] == "POST"
    assert (await ask(app, "/api/logs", {"x": 1})).error["field"] == "x"


async def test_there_is_no_websocket(app):
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    await app({**request_scope("/api/events/stream"), "type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_the_lifespan_is_nothing_to_it(app):
    sent, asked = [], ["lifespan.shutdown", "lifespan.startup"]

    async def receive():
        return {"type": asked.pop()}

    async def send(message):
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_mounted_in_an_application(store):
    outer = Starlette(routes=[Mount("/log", create_app(store))])
    assert (await ask(outer, "/log/api/events", {"limit": 1})).json()["last_seq"] == "9"
    assert (await ask(outer, "/log/")).headers["content-type"].startswith("text/html")
    assert (await ask(outer, "/log/static/js/main.js")).status == 200
    answer = await ask(outer, "/log/nothing")
    assert answer.error["code"] == "not_found"
    closed = Starlette(routes=[Mount("/log", create_app(store, token="x" * 20))])
    assert (await ask(closed, "/log/api/events")).status == 401
    assert (await ask(closed, "/log/")).status == 200


async def test_several_logs(store):
    other = MemoryStore()
    app = create_app({"main": store, "other": other})
    answer = (await ask(app, "/api/logs")).json()
    assert answer["logs"] == [{"name": "main", "live": False}, {"name": "other", "live": False}]
    assert (await ask(app, "/api/events", {"log": "other"})).json()["last_seq"] == "0"
    assert (await ask(app, "/api/events")).json()["last_seq"] == "9"
    for path in ("/api/events", "/api/events/stream", "/api/statistics", "/api/count", "/api/events/1"):
        answer = await ask(app, path, {"log": "\U0001f600" if path == "/api/count" else "none"})
        assert (answer.status, answer.error["field"]) == (404, "log")


# --- the page -------------------------------------------------------------------------------------


async def test_the_files_of_the_page(app):
    for path in STATIC.rglob("*"):
        if path.is_file():
            answer = await ask(app, f"/static/{path.relative_to(STATIC).as_posix()}")
            assert (answer.status, answer.body) == (200, path.read_bytes())
            again = await ask(
                app,
                f"/static/{path.relative_to(STATIC).as_posix()}",
                headers={"if-none-match": answer.headers["etag"]},
            )
            assert (again.status, again.body) == (304, b"")
    assert (await ask(app, "/")).body == (STATIC / "index.html").read_bytes()


@pytest.mark.parametrize(
    "path", ["../_app.py", "..%2f_app.py", "/etc/passwd", "./index.html", "index.html/", "\0", ""]
)
async def test_nothing_but_the_files_of_the_page(app, path):
    assert (await ask(app, f"/static/{path}")).status == 404


def test_a_page_has_no_script_or_style_of_its_own():
    """The policy would keep a browser from running it."""
    for path in STATIC.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
        assert re.findall(r"<script[^>]*>([^<]+)</script>", text) == []
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text)


# --- the description ------------------------------------------------------------------------------


def test_every_path_is_described():
    described = {path for path, _, _ in _HANDLERS} - {"/api/openapi.json", "/mobkit/mob_events/stream"}
    assert set(describe()["paths"]) == described
    text = json.dumps(describe())
    for reference in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert reference in describe()["components"]["schemas"]


async def test_the_description_is_served(app):
    assert (await ask(app, "/api/openapi.json")).json() == json.loads(json.dumps(describe()))


def test_the_reference_has_every_path_and_parameter():
    page = Path(__file__).parents[2] / "docs/reference/console-api.md"
    if not page.exists():
        pytest.skip("the documentation is not beside the tests")
    text = page.read_text(encoding="utf-8")
    for path, item in describe()["paths"].items():
        assert f"`{path.removeprefix('/')}`" in text or f" {path.removeprefix('/')}`" in text, path
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                assert f"`{parameter['name']}`" in text or parameter["in"] == "path", parameter["name"]


# --- waiting for the store ------------------------------------------------------------------------


class SlowStore(MemoryStore):
    """Answers when it is told to."""

    def __init__(self):
        super().__init__()
        self.asked = self.at_once = self.most_at_once = 0
        self.go_on = trio.Event()

    async def query(self, query: EventQuery):
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go_on.wait()
        finally:
            self.at_once -= 1
        return await super().query(query)


async def test_few_requests_are_with_the_store_and_few_wait(autojump_clock):
    store = SlowStore()
    app = create_app(store, limits=ConsoleLimits(requests=5))
    answers = []

    async def read():
        answers.append(await ask(app, "/api/events", {"order": "oldest"}))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert [answer.error["code"] for answer in answers] == ["busy"] * 3
        assert store.most_at_once == 2
        store.go_on.set()
    assert sorted(answer.status for answer in answers) == [200] * 5 + [503] * 3
    assert (await ask(app, "/api/events")).status == 200


async def test_a_store_that_hangs_is_given_up(autojump_clock):
    store = SlowStore()
    app = create_app(store, limits=ConsoleLimits(request_timeout=3))
    began = trio.current_time()
    answer = await ask(app, "/api/events", {"order": "oldest"})
    assert (answer.status, answer.error["code"], trio.current_time() - began) == (504, "timeout", 3)
    assert store.at_once == 0


async def test_a_store_that_is_closed(autojump_clock):
    class Closed(MemoryStore):
        async def last_seq(self):
            raise StoreUnusable("closed: postgresql://me:secret@host/db")

    for path in ("/api/events", "/api/statistics", "/api/events/stream"):
        answer = await ask(create_app(Closed()), path)
        assert (answer.status, answer.error["code"]) == (503, "store_unusable")
        assert b"secret" not in answer.body


async def test_the_statistics_of_a_store(app):
    answer = (await ask(app, "/api/statistics")).json()
    assert answer["store"] == {"kind": "MemoryStore", "last_seq": "9", "pruned_seq": "0"}
    assert answer["live"] is None
    assert answer["console"] == {"requests": 0, "streams": 0, "max_streams": 64}


class SilentStore(MemoryStore):
    """Fails, or does not answer, once the log is open."""

    answer = None

    async def last_seq(self):
        return await super().last_seq() if self.answer is None else await self.answer()


async def fail():
    raise StoreError("the server is gone")


@pytest.mark.parametrize("answer", [fail, trio.sleep_forever])
async def test_how_a_log_is_doing_can_be_asked_while_its_store_fails(answer, autojump_clock):
    store = SilentStore()
    async with open_event_log(store, flush_interval=0.01) as log:
        log.ingest(AgentEvent("w", "t"))
        await log.flush()
        store.answer = answer
        console = Console(
            sources=sources_of(log),
            limits=ConsoleLimits(),
            sessions=Sessions(None),
            allowed_hosts=frozenset(),
        )
        found = (await ask(make_app(console, {}), "/api/statistics")).json()
        assert trio.current_time() < 5
        assert (found["store"]["last_seq"], found["store"]["pruned_seq"]) == ("1", None)
        assert found["live"]["persisted"] == 1
        store.answer = None


def test_what_is_no_store():
    for shown in (5, "sqlite:x", MemoryStore, {"a": 5}):
        with pytest.raises(TypeError, match=r"^stores: "):
            create_app(shown)


@pytest.mark.parametrize("package", ["anycorn", "starlette"])
def test_without_the_extra(package):
    code = f"""
import sys
sys.modules[{package!r}] = None
try:
    import trio_eventlog.console
except ModuleNotFoundError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=uncovered(), capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"the console needs {package}")
    assert "pip install 'anycorn>=0.20,<0.21' 'starlette>=0.46'" in done.stdout
