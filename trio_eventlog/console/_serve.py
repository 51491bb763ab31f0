"""A console with a server of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Final

import trio

from trio_eventlog import EventLog
from trio_eventlog._threads import run_sync
from trio_eventlog.abc import EventStore
from trio_eventlog.console._app import checked_limits, make_app, sources_of
from trio_eventlog.console._connections import Connections
from trio_eventlog.console._guard import Sessions, checked_hosts, checked_token
from trio_eventlog.console._http import logger
from trio_eventlog.console._limits import ConsoleLimits
from trio_eventlog.console._sampler import Sampler
from trio_eventlog.console._state import Console
from trio_eventlog.console._static import read_static_files
from trio_eventlog.console._task_tree import TaskTree

_DEFAULT_PORT: Final = 8765
_MAX_PORT: Final = 2**16 - 1
_RESTART_AFTER: Final = 1.0


async def serve_console(  # noqa: ASYNC114, ASYNC128 - _run calls started(); no manager starts it
    shown: EventLog | EventStore | Mapping[str, EventStore],
    *,
    host: str = "127.0.0.1",
    port: int = _DEFAULT_PORT,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    tasks: bool = True,
    limits: ConsoleLimits | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Show a log in a browser, until this is cancelled.

    ::

        async with open_event_log(store) as log, trio.open_nursery() as nursery:
            url = await nursery.start(serve_console, log)
            await main(log)
            nursery.cancel_scope.cancel()

    A console cannot end the program that it looks at: what goes wrong once it has started is logged to the
    logger ``trio_eventlog.console`` and goes no further. It reads, and never writes. What it may use is
    bounded (:class:`ConsoleLimits`), and streams beside a live log leave the program its time.

    It stops as soon as it is cancelled, whatever its clients do.

    Args:
      shown: a log of this program; or an open store; or several stores by the names under which to show them.
        Events of a log are shown once they are durable.
      host: the address to listen on. Anything but a loopback address needs a ``token``.
      port: the port; 0 for any that is free.
      token: what a browser or a program must show to read anything, 16 characters or more; for example
        ``secrets.token_urlsafe()``.
      allowed_hosts: names of hosts under which it can be reached, beside addresses and ``localhost``.
      tasks: whether to show the tasks of the program, if ``shown`` is a log.
      limits: what it may use; by default :class:`ConsoleLimits`.
      task_status: for ``nursery.start``, which returns the URL of the console, without the token.

    Raises:
      TypeError, ValueError: an argument is not as described.
      OSError: the address cannot be listened on. Like the errors above, this comes before it has started.
    """
    host, token = _checked_address(host, port, token)
    console = Console(
        sources=sources_of(shown),
        limits=checked_limits(limits),
        sessions=Sessions(token),
        allowed_hosts=checked_hosts(allowed_hosts),
    )
    if isinstance(shown, EventLog):
        console.sampler = Sampler(shown.statistics)
        console.tasks = TaskTree(shown.owns_task) if tasks else None
    static = await run_sync(read_static_files)
    connections = Connections(make_app(console, static), console.limits)
    listeners = await trio.open_tcp_listeners(port, host=host)
    try:
        await _run(console, connections, listeners, task_status)
    finally:
        for listener in listeners:
            listener.socket.close()


async def _run(  # noqa: ASYNC114 - awaited
    console: Console,
    connections: Connections,
    listeners: list[trio.SocketListener],
    task_status: trio.TaskStatus[str],
) -> None:
    async with trio.open_nursery() as nursery:
        if console.tasks is not None:
            console.tasks.note_own(nursery)
        if console.sampler is not None:
            nursery.start_soon(_guarded, console.sampler.run)
        for listener in listeners:
            nursery.start_soon(_guarded, partial(_accept, listener, connections, nursery))
        task_status.started(_url_of(listeners[0]))
        try:
            await trio.sleep_forever()
        finally:
            connections.close()


async def _accept(listener: trio.SocketListener, connections: Connections, nursery: trio.Nursery) -> None:
    await trio.serve_listeners(connections.serve, [listener], handler_nursery=nursery)


async def _guarded(work: Callable[[], Awaitable[object]]) -> None:
    """Do ``work``, which does not end by itself, again and again. Raises nothing but ``Cancelled``."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - a defect must not reach the program
            logger.exception("part of the console failed; it is started again")
        await trio.sleep(_RESTART_AFTER)


def _checked_address(host: object, port: object, token: object) -> tuple[str, str | None]:
    if not isinstance(host, str):
        raise TypeError(f"host: expected a str, got {type(host).__name__}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port: expected an int, got {type(port).__name__}")
    if not 0 <= port <= _MAX_PORT:
        raise ValueError(f"port: expected 0 to {_MAX_PORT}, got {port}")
    checked = checked_token(token)
    if checked is None and not _is_loopback(host):
        raise ValueError(f"token: required to listen on {host}, which others can reach")
    return host, checked


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url_of(listener: trio.SocketListener) -> str:
    name = listener.socket.getsockname()
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}/"
