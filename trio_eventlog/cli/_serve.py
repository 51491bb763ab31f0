"""``trio-eventlog serve``: logs in a browser, live."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

import trio
from cyclopts import Parameter
from cyclopts.validators import Number as InRange

from trio_eventlog.abc import EventStore
from trio_eventlog.cli._options import (
    USAGE_STATUS,
    StoreUrl,
    Texts,
    opened_readers,
    opened_store,
)
from trio_eventlog.cli._terminal import CommandError, write

EXAMPLES: Final = """
trio-eventlog serve --store sqlite:events.db
trio-eventlog serve --store 'sqlite:workers.db?log=worker-3' --port 9000
trio-eventlog serve --store sqlite:events.db --host 0.0.0.0 --allow-host logs.example.org
"""

TOKEN_VARIABLE: Final = "TRIO_EVENTLOG_TOKEN"  # noqa: S105 - its name

_OWN_ADDRESSES: Final = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine can reach."""

_MAX_PORT: Final = 2**16 - 1


async def serve(
    *,
    store: StoreUrl,
    host: Annotated[str, Parameter(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, Parameter(metavar="N", validator=InRange(gte=0, lte=_MAX_PORT))] = 8765,
    allow_host: Texts = (),
) -> int:
    """Show a log in a browser, live, until Ctrl-C.

    Prints the URL to open. Only this machine can reach it, unless `--host` says otherwise; then a token is
    needed: the one in the environment variable TRIO_EVENTLOG_TOKEN, or a new one that is part of the URL
    printed. Nothing is ever written to the log.

    Args:
      store: The log; without `log=` in the URL, all logs of the file, database or stream.
      host: The address to listen on.
      port: The port; 0 for any that is free.
      allow_host: Name of a host under which browsers may reach it, beside addresses and `localhost`; repeat
        the option for several.
    """
    try:
        from trio_eventlog.console import serve_console  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as exc:
        raise CommandError(str(exc)) from exc
    token = os.environ.get(TOKEN_VARIABLE) or None
    fragment = ""
    if token is None and host not in _OWN_ADDRESSES:
        token = secrets.token_urlsafe()
        fragment = f"#token={token}"
    async with _opened(store) as stores, trio.open_nursery() as nursery:
        console = partial(serve_console, stores, host=host, port=port, token=token, allowed_hosts=allow_host)
        try:
            url: str = await nursery.start(console)
        except ValueError as exc:
            raise CommandError(str(exc), USAGE_STATUS) from exc
        except OSError as exc:
            raise CommandError(f"cannot listen on {host}, port {port}: {exc.strerror or exc}") from exc
        await write(f"{url}{fragment}\n")
        await trio.sleep_forever()


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Mapping[str, EventStore]]:
    """The log that a URL names, or all logs if it names none."""
    names = parse_qs(urlsplit(url).query).get("log")
    if names is None:
        async with opened_readers(url) as readers:
            yield readers
    else:
        async with opened_store(url, read_only=True) as store:
            yield {names[-1]: store}
