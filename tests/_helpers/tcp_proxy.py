"""A network between a store and its server that can be cut, or hang, at will."""

from contextlib import asynccontextmanager
from functools import partial

import trio


class Proxy:
    """Carries every connection to ``port`` on to ``target``, both on loopback."""

    def __init__(self, target):
        self.port = None
        self.connections = 0
        self._target = target
        self._refuses = False
        self._flows = trio.Event()
        self._flows.set()
        self._scopes = set()

    def cut(self):
        """End all connections that there are."""
        for scope in self._scopes:
            scope.cancel(reason="cut")

    def refuse(self):
        """End all connections, and every new one at once."""
        self._refuses = True
        self.cut()

    def accept(self):
        """Take connections again."""
        self._refuses = False

    def stall(self):
        """Carry no byte any more, in either direction, as a network that was unplugged."""
        self._flows = trio.Event()

    def resume(self):
        """Carry on."""
        self._flows.set()

    async def _serve(self, client):
        async with client:
            await self._serve_open(client)

    async def _serve_open(self, client):
        with trio.CancelScope() as scope:
            if self._refuses:
                return
            self._scopes.add(scope)
            self.connections += 1
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._target)
                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, client, server)
                    await self._carry(server, client)
                    nursery.cancel_scope.cancel(reason="the server has closed")
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._scopes.discard(scope)

    async def _carry(self, source, sink):
        async for data in source:
            await self._flows.wait()
            await sink.send_all(data)
        await sink.send_eof()


@asynccontextmanager
async def open_proxy(target, port=0):
    """A proxy for the length of the block; ``port`` 0 finds a free one."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy(target)
        listeners = await nursery.start(partial(trio.serve_tcp, proxy._serve, port, host="127.0.0.1"))
        proxy.port = listeners[0].socket.getsockname()[1]
        yield proxy
        nursery.cancel_scope.cancel(reason="the proxy is done")
