"""The files of the page, from memory: they are few, and no path of a request ever reaches a disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import attrs
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trio_eventlog.console._errors import not_found
from trio_eventlog.console._http import error_answer

INDEX: Final = "index.html"

_TYPES: Final = {
    "css": "text/css",
    "html": "text/html",
    "ico": "image/x-icon",
    "js": "text/javascript",
    "json": "application/json",
    "md": "text/plain",
    "mjs": "text/javascript",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "woff2": "font/woff2",
}


@attrs.frozen
class StaticFile:
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str


def read_static_files() -> dict[str, StaticFile]:
    """The files of the page, by their path below ``static``. Blocks."""
    found: dict[str, StaticFile] = {}
    _read(files("trio_eventlog.console") / "static", "", found)
    return found


def _read(folder: Traversable, prefix: str, found: dict[str, StaticFile]) -> None:
    for item in folder.iterdir():
        if item.is_dir():
            _read(item, f"{prefix}{item.name}/", found)
        elif (media_type := _TYPES.get(item.name.rpartition(".")[2])) is not None:
            content = item.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:32]
            found[prefix + item.name] = StaticFile(content, media_type, f'"{digest}"')


@attrs.frozen(eq=False)
class Page:
    """An ASGI application that answers with the files."""

    static: Mapping[str, StaticFile]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        path = request.path_params.get("path", INDEX)
        file = self.static.get(path)
        answer = error_answer(not_found("there is no such file")) if file is None else _sent(file, request)
        await answer(scope, receive, send)


def _sent(file: StaticFile, request: Request) -> Response:
    # A browser asks each time, so that it never mixes the files of two versions.
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
